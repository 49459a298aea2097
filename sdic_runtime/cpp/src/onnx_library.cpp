#include "onnx_library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <sstream>

#include "text.hpp"

namespace sdic_internal {

namespace {

// Every function used here has been in ONNX Runtime since this version; asking for no more lets older libraries serve.
constexpr std::uint32_t kApiVersion = 20;
const char *const kRemedy =
    "name one in onnxruntime_library or in the environment variable SDIC_ONNXRUNTIME_LIBRARY (pip install onnxruntime brings onnxruntime/capi/libonnxruntime.so.*)";

std::vector<std::string> candidates(const std::string &path) {
    if (!path.empty()) return {path};
    if (const char *named = std::getenv("SDIC_ONNXRUNTIME_LIBRARY"); named != nullptr && *named != '\0') return {named};
    std::vector<std::string> names;
#ifdef SDIC_DEFAULT_ONNXRUNTIME_LIBRARY
    names.emplace_back(SDIC_DEFAULT_ONNXRUNTIME_LIBRARY);
#endif
#ifdef __APPLE__
    names.insert(names.end(), {"libonnxruntime.dylib"});
#else
    names.insert(names.end(), {"libonnxruntime.so.1", "libonnxruntime.so"});
#endif
    return names;
}

// The handle is never closed: ONNX Runtime's threads may outlive the last session.
void *open_library(const std::string &path, std::string &failure) {
    for (const auto &name : candidates(path)) {
        if (void *handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
        const char *text = dlerror();
        if (failure.empty() && text != nullptr) failure = text;
    }
    return nullptr;
}

std::string one_line(const std::string &text) {
    std::istringstream words(text);
    std::string line;
    for (std::string word; words >> word;) line += (line.empty() ? "" : " ") + word;
    return line.substr(0, 300);
}

std::unique_ptr<OnnxLibrary> load(const std::string &path) {
    // ONNX Runtime, from 1.29 on, reports models and times to its maker unless this says otherwise. It reads it when it
    // starts, so there is no function to call in its place; sdic.h says what that means for a program with threads.
    setenv("ORT_DISABLE_TELEMETRY", "1", 0);
    std::string failure;
    void *handle = open_library(path, failure);
    if (handle == nullptr) throw Error(SDIC_ERROR_PROVIDER, "ONNX Runtime could not be loaded (", failure, "); ", kRemedy);
    using GetBase = const OrtApiBase *(*)();
    const auto get_base = reinterpret_cast<GetBase>(dlsym(handle, "OrtGetApiBase"));
    if (get_base == nullptr) throw Error(SDIC_ERROR_PROVIDER, "the library ", path, " is not ONNX Runtime, it has no OrtGetApiBase; ", kRemedy);
    auto library = std::make_unique<OnnxLibrary>();
    library->version = get_base()->GetVersionString();
    library->api = get_base()->GetApi(kApiVersion);
    if (library->api == nullptr) {
        throw Error(SDIC_ERROR_PROVIDER, "ONNX Runtime ", library->version, " is too old, at least 1.", kApiVersion, " is needed; ", kRemedy);
    }
    const OrtApi &api = *library->api;
    const auto need = [&](OrtStatus *status) { check(*library, status, "ONNX Runtime could not start", "install it again", "cpu"); };
    need(api.CreateEnv(ORT_LOGGING_LEVEL_ERROR, "sdic", &library->environment));
    // One arena for all sessions: those of the stages, of which one runs at a time, would add up otherwise.
    OrtMemoryInfo *memory = nullptr;
    need(api.CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    OrtStatus *registered = api.CreateAndRegisterAllocator(library->environment, memory, nullptr);
    api.ReleaseMemoryInfo(memory);
    need(registered);
    char **names = nullptr;
    int count = 0;
    need(api.GetAvailableProviders(&names, &count));
    library->providers.assign(names, names + count);
    if (OrtStatus *ignored = api.ReleaseAvailableProviders(names, count)) api.ReleaseStatus(ignored);
    return library;
}

bool about_memory(const std::string &text) {
    std::string lower = text;
    std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    for (const char *sign : {"bad allocation", "bad_alloc", "failed to allocate memory", "out of memory", "bfcarena"}) {
        if (lower.find(sign) != std::string::npos) return true;
    }
    return false;
}

}  // namespace

const OnnxLibrary &onnx_library(const std::string &path) {
    static std::mutex lock;
    // Never destroyed, so that a pipeline in a static variable may be closed at any time.
    static auto &loaded = *new std::map<std::string, std::unique_ptr<OnnxLibrary>>();
    const std::lock_guard<std::mutex> hold(lock);
    auto &entry = loaded[path];
    if (!entry) entry = load(path);
    return *entry;
}

void check(const OnnxLibrary &library, OrtStatus *status, const std::string &what, const std::string &remedy, const std::string &provider,
           sdic_status code) {
    if (status == nullptr) return;
    const std::string text = one_line(library.api->GetErrorMessage(status));
    library.api->ReleaseStatus(status);
    if (about_memory(text)) throw Error(SDIC_ERROR_MEMORY, what, ": not enough memory on ", provider, "; use a smaller batch");
    throw Error(code, what, ": ", text, "; ", remedy);
}

}  // namespace sdic_internal
