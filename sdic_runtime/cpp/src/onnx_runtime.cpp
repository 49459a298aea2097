#include "onnx_runtime.hpp"

#include <algorithm>

#include "errors.hpp"
#include "onnx_library.hpp"
#include "python_text.hpp"

namespace sdic_internal {

namespace {

const std::map<std::string, std::string> &providers() {
    static const std::map<std::string, std::string> table = {{"cpu", "CPUExecutionProvider"},
                                                             {"cuda", "CUDAExecutionProvider"},
                                                             {"tensorrt", "TensorrtExecutionProvider"},
                                                             {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}};
    return table;
}

// Owns an object of ONNX Runtime.
template <typename Object>
using Owned = std::unique_ptr<Object, void (*)(Object *)>;

template <typename Object>
Owned<Object> owned(Object *object, void (*release)(Object *)) {
    return Owned<Object>(object, release);
}

void ORT_API_CALL forward_log(void *options, OrtLoggingLevel severity, const char *category, const char *, const char *, const char *message) {
    try {
        const auto level = severity >= ORT_LOGGING_LEVEL_ERROR ? SDIC_LOG_ERROR : severity == ORT_LOGGING_LEVEL_WARNING ? SDIC_LOG_WARNING : SDIC_LOG_INFO;
        static_cast<const RunOptions *>(options)->write_log(level, say("ONNX Runtime (", category, "): ", message));
    } catch (...) {
        // A line of log is not worth more than what ONNX Runtime is doing.
    }
}

class SessionOptions {
public:
    SessionOptions(const OnnxLibrary &library, const RunOptions &options) : library_(library), options_(options) {
        need(library.api->CreateSessionOptions(&handle_));
        need(library.api->SetSessionLogSeverityLevel(handle_, options.log ? ORT_LOGGING_LEVEL_WARNING : ORT_LOGGING_LEVEL_ERROR));
        need(library.api->SetUserLoggingFunction(handle_, forward_log, const_cast<RunOptions *>(&options)));
        // Six sessions share the cores: a thread pool that spins after its run would slow down the next stage.
        entry("session.force_spinning_stop", "1");
        entry("session.use_env_allocators", "1");
        if (options.threads > 0) need(library.api->SetIntraOpNumThreads(handle_, options.threads));
        if (options.provider != "cpu") append_provider();
    }
    ~SessionOptions() { library_.api->ReleaseSessionOptions(handle_); }
    SessionOptions(const SessionOptions &) = delete;
    SessionOptions &operator=(const SessionOptions &) = delete;

    void entry(const char *key, const std::string &value) { need(library_.api->AddSessionConfigEntry(handle_, key, value.c_str())); }
    const OrtSessionOptions *get() const { return handle_; }

private:
    void need(OrtStatus *status) const {
        check(library_, status, "ONNX Runtime refuses its options", "install it again", options_.provider, SDIC_ERROR_PROVIDER);
    }

    // An execution provider that cannot start is an error here already; ONNX Runtime does not go on with the CPU.
    void append_provider() {
        const OrtApi &api = *library_.api;
        const std::string device = std::to_string(options_.device);
        const char *keys[] = {"device_id"};
        const char *values[] = {device.c_str()};
        const std::string what = say("ONNX Runtime could not start on \"", options_.provider, ":", device, "\"");
        const std::string remedy = "check the NVIDIA driver and the CUDA libraries, or use the provider \"cpu\"";
        const auto checked = [&](OrtStatus *status) { check(library_, status, what, remedy, options_.provider, SDIC_ERROR_PROVIDER); };
        if (options_.provider == "tensorrt-rtx") {
            checked(api.SessionOptionsAppendExecutionProvider(handle_, "NvTensorRTRTX", keys, values, 1));
            return;
        }
        if (options_.provider == "tensorrt") {
            OrtTensorRTProviderOptionsV2 *settings = nullptr;
            checked(api.CreateTensorRTProviderOptions(&settings));
            const auto keep = owned(settings, api.ReleaseTensorRTProviderOptions);
            checked(api.UpdateTensorRTProviderOptions(settings, keys, values, 1));
            checked(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(handle_, settings));
        }
        // What TensorRT leaves over runs on CUDA.
        OrtCUDAProviderOptionsV2 *settings = nullptr;
        checked(api.CreateCUDAProviderOptions(&settings));
        const auto keep = owned(settings, api.ReleaseCUDAProviderOptions);
        const char *cuda_keys[] = {"device_id", "use_tf32"};
        const char *cuda_values[] = {device.c_str(), options_.tf32 ? "1" : "0"};
        checked(api.UpdateCUDAProviderOptions(settings, cuda_keys, cuda_values, 2));
        checked(api.SessionOptionsAppendExecutionProvider_CUDA_V2(handle_, settings));
    }

    const OnnxLibrary &library_;
    const RunOptions &options_;
    OrtSessionOptions *handle_ = nullptr;
};

}  // namespace

void Progress::before(const std::string &stage) {
    if (options_.progress != nullptr && options_.progress(stage.c_str(), done_, total_, options_.user_data) != 0) {
        throw Error(SDIC_ERROR_CANCELLED, say("stopped before stage run ", done_ + 1, " of ", total_, " (", stage, ") because the progress callback asked for it"));
    }
    ++done_;
}

struct OnnxRuntime::Session {
    explicit Session(const OnnxLibrary &library_) : library(library_) {}
    ~Session() { library.api->ReleaseSession(handle); }

    // Names and element types of the inputs or outputs: "image tensor(float)".
    std::map<std::string, bool> borders(bool inputs, const std::string &what) const;

    const OnnxLibrary &library;
    OrtSession *handle = nullptr;
};

std::map<std::string, bool> OnnxRuntime::Session::borders(bool inputs, const std::string &what) const {
    const OrtApi &api = *library.api;
    const auto need = [&](OrtStatus *status) { check(library, status, what, "build it again with: sdic-export build", "cpu"); };
    OrtAllocator *allocator = nullptr;
    need(api.GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    need(inputs ? api.SessionGetInputCount(handle, &count) : api.SessionGetOutputCount(handle, &count));
    std::map<std::string, bool> found;
    for (std::size_t i = 0; i < count; ++i) {
        char *name = nullptr;
        need(inputs ? api.SessionGetInputName(handle, i, allocator, &name) : api.SessionGetOutputName(handle, i, allocator, &name));
        const std::string text = name;
        if (OrtStatus *ignored = api.AllocatorFree(allocator, name)) api.ReleaseStatus(ignored);
        OrtTypeInfo *type = nullptr;
        need(inputs ? api.SessionGetInputTypeInfo(handle, i, &type) : api.SessionGetOutputTypeInfo(handle, i, &type));
        const auto keep = owned(type, api.ReleaseTypeInfo);
        const OrtTensorTypeAndShapeInfo *info = nullptr;
        need(api.CastTypeInfoToTensorInfo(type, &info));
        ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        if (info != nullptr) need(api.GetTensorElementType(info, &element));
        found[text] = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    }
    return found;
}

namespace {

// The graph's tensors are those of the stage table, in float32 at the borders.
void check_borders(const std::map<std::string, bool> &found, const std::vector<std::string> &expected, const char *role, const Stage &stage,
                   const std::string &path) {
    bool right = found.size() == expected.size();
    for (const auto &name : expected) right = right && found.count(name) != 0 && found.at(name);
    if (right) return;
    std::vector<std::string> items;
    for (const auto &[name, is_float] : found) items.push_back(name + (is_float ? " tensor(float)" : " of another type"));
    throw Error(SDIC_ERROR_BUNDLE, say(path, " has the ", role, " ", listed(items, ""), " where the stage \"", stage.name, "\" has ",
                                       listed(expected), " in float32; build it again with: sdic-export build"));
}

}  // namespace

OnnxRuntime::OnnxRuntime(Bundle &bundle, const RunOptions &options)
    : options_(options), sizes_(bundle.manifest().sizes), bundle_path_(bundle.path()), precision_(bundle.precision(options.precision)) {
    const auto provider = providers().find(options.provider);
    if (provider == providers().end()) {
        throw Error(SDIC_ERROR_ARGUMENT, say("the provider is \"", options.provider, "\"; use cpu, cuda, tensorrt or tensorrt-rtx"));
    }
    const OnnxLibrary &library = onnx_library(options.library);
    if (std::find(library.providers.begin(), library.providers.end(), provider->second) == library.providers.end()) {
        throw Error(SDIC_ERROR_PROVIDER, say("the provider \"", options.provider, "\" is not in this ONNX Runtime ", library.version, ", which has: ",
                                             listed(library.providers), "; name a library that was built with ", provider->second));
    }
    const bool arranged = options.provider == "cpu" && precision_ == kCpuPrecision && !bundle.manifest().cpu.empty();
    std::vector<std::string> cpu_stages;
    for (const auto &item : bundle.manifest().cpu) cpu_stages.push_back(item.first);
    description_ = say("ONNX Runtime ", library.version, ", ", provider->second, ", ", precision_,
                       arranged ? ", CPU graphs of " + listed(cpu_stages) : std::string());
    bundle.check(bundle.manifest().stage_files(precision_, arranged));
    Progress progress(options, stages().size());
    for (const Stage &stage : stages()) {
        progress.before(stage.name);
        const std::string form = arranged ? bundle.cpu_file(stage.name) : "";
        const std::string path = form.empty() ? bundle.stage_file(stage.name, precision_) : form;
        sessions_[stage.name] = create(stage, path, stage.outputs);
        for (const auto &output : stage.outputs) {
            const std::string partial = bundle.partial_file(stage.name, output, precision_);
            if (!partial.empty()) sessions_[stage.name + ":" + output] = create(stage, partial, {output});
        }
        options.write_log(SDIC_LOG_INFO, say("loaded the stage \"", stage.name, "\" from ", path));
    }
}

OnnxRuntime::~OnnxRuntime() = default;

std::unique_ptr<OnnxRuntime::Session> OnnxRuntime::create(const Stage &stage, const std::string &path, const std::vector<std::string> &outputs) const {
    auto session = std::make_unique<Session>(onnx_library(options_.library));
    const OnnxLibrary &library = session->library;
    SessionOptions settings(library, options_);
    const std::string what = say("the stage \"", stage.name, "\" could not be loaded from ", path);
    const auto need = [&](OrtStatus *status) { check(library, status, what, "see: sdic-export verify " + bundle_path_, options_.provider); };
    need(library.api->CreateSession(library.environment, path.c_str(), settings.get(), &session->handle));
    check_borders(session->borders(true, what), stage.inputs, "inputs", stage, path);
    check_borders(session->borders(false, what), outputs, "outputs", stage, path);
    return session;
}

OnnxRuntime::Session &OnnxRuntime::session(const std::string &stage, const std::vector<std::string> &outputs) const {
    const auto partial = outputs.size() == 1 ? sessions_.find(stage + ":" + outputs.front()) : sessions_.end();
    return partial != sessions_.end() ? *partial->second : *sessions_.at(stage);
}

Tensors OnnxRuntime::run(const std::string &stage, const Tensors &inputs, const std::vector<std::string> &outputs) const {
    Session &session = this->session(stage, outputs);
    const OrtApi &api = *session.library.api;
    const auto need = [&](OrtStatus *status) {
        check(session.library, status, say("the stage \"", stage, "\" failed"), "see: sdic-export verify " + bundle_path_, options_.provider);
    };
    OrtMemoryInfo *memory = nullptr;
    need(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    const auto keep_memory = owned(memory, api.ReleaseMemoryInfo);
    std::vector<Owned<OrtValue>> values;
    // ONNX Runtime reads and writes our own memory: nothing is copied on the CPU.
    const auto wrap = [&](const Tensor &tensor) {
        OrtValue *value = nullptr;
        need(api.CreateTensorWithDataAsOrtValue(memory, const_cast<float *>(tensor.data.data()), tensor.data.size() * sizeof(float), tensor.shape.data(),
                                                tensor.shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
        values.push_back(owned(value, api.ReleaseValue));
        return value;
    };
    std::vector<const char *> input_names, output_names;
    std::vector<const OrtValue *> input_values;
    std::vector<OrtValue *> output_values;
    std::int64_t batch = 0;
    for (const auto &[name, tensor] : inputs) {
        input_names.push_back(name.c_str());
        input_values.push_back(wrap(*tensor));
        batch = tensor->shape.at(0);
    }
    Tensors results;
    for (const auto &name : outputs) {
        auto tensor = std::make_shared<Tensor>(sizes_.shape(name, batch));
        output_names.push_back(name.c_str());
        output_values.push_back(wrap(*tensor));
        results[name] = std::move(tensor);
    }
    need(api.Run(session.handle, nullptr, input_names.data(), input_values.data(), input_values.size(), output_names.data(), output_names.size(),
                 output_values.data()));
    return results;
}

}  // namespace sdic_internal
