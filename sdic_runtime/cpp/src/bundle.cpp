#include "bundle.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <future>
#include <thread>

#include "errors.hpp"
#include "files.hpp"

namespace sdic_internal {

namespace {

std::string folder_of(const std::string &path) {
    const std::filesystem::path given(clean_path(path));
    std::error_code ignored;
    if (given.filename() == kManifestName && std::filesystem::is_regular_file(given, ignored)) {
        const auto parent = given.parent_path().string();
        return parent.empty() ? "." : parent;
    }
    return given.string();
}

// What nlohmann's parser says, without its error number.
std::string parse_failure(const Json::parse_error &error) {
    const std::string text = error.what();
    const auto end = text.find("] ");
    return end == std::string::npos ? text : text.substr(end + 2);
}

Manifest read_manifest(const std::string &folder) {
    const std::string path = (std::filesystem::path(folder) / kManifestName).string();
    if (!exists(folder)) throw Error(SDIC_ERROR_BUNDLE, say("there is no bundle at ", folder, "; ", kBuildHint));
    int number = 0;
    const std::string text = read_file(path, number);
    if (number == ENOENT || number == ENOTDIR) {
        throw Error(SDIC_ERROR_BUNDLE, say(folder, " is not a bundle, it has no ", kManifestName, "; ", kBuildHint));
    }
    if (number != 0) throw Error(SDIC_ERROR_BUNDLE, say("cannot read ", path, ": ", reason(number)));
    try {
        return manifest_from_json(Json::parse(text), path);
    } catch (const Json::parse_error &error) {
        throw Error(SDIC_ERROR_BUNDLE, say(path, " is not valid JSON (", parse_failure(error), "); ", kBuildHint));
    }
}

}  // namespace

Bundle::Bundle(const std::string &path, bool verify) : path_(folder_of(path)), verify_(verify), manifest_(read_manifest(path_)) {}

std::string Bundle::file(const std::string &name) {
    const auto found = manifest_.files.find(name);
    const std::string path = (std::filesystem::path(path_) / name).string();
    if (found == manifest_.files.end()) {
        throw Error(SDIC_ERROR_BUNDLE, say((std::filesystem::path(path_) / kManifestName).string(), " lists no file \"", name, "\"; ", kBuildHint));
    }
    {
        const std::lock_guard<std::mutex> hold(lock_);
        if (checked_.count(name) != 0) return path;
    }
    std::error_code failure;
    const auto size = std::filesystem::file_size(path, failure);
    std::string damage;
    int number = failure ? failure.value() : 0;
    if (number == 0 && static_cast<std::int64_t>(size) != found->second.bytes) {
        damage = say("it has ", size, " bytes instead of ", found->second.bytes);
    } else if (number == 0 && verify_ && sha256_of_file(path, number) != found->second.sha256 && number == 0) {
        damage = "its SHA-256 is not the one in " + kManifestName;
    }
    if (number != 0) damage = number == ENOENT ? "it is missing" : reason(number);
    if (!damage.empty()) {
        throw Error(SDIC_ERROR_BUNDLE, say(path, " is damaged: ", damage, "; see the whole extent with: sdic-export verify ", path_));
    }
    const std::lock_guard<std::mutex> hold(lock_);
    checked_.insert(name);
    return path;
}

void Bundle::check(const std::vector<std::string> &names) {
    std::atomic<std::size_t> next{0};
    std::vector<std::exception_ptr> failures(names.size());
    const auto work = [&] {
        for (std::size_t i = next++; i < names.size(); i = next++) {
            try {
                file(names[i]);
            } catch (...) {
                failures[i] = std::current_exception();
            }
        }
    };
    const std::size_t workers = std::min<std::size_t>({4, std::max(1u, std::thread::hardware_concurrency()), names.size()});
    std::vector<std::future<void>> others;
    for (std::size_t i = 1; i < workers; ++i) others.push_back(std::async(std::launch::async, work));
    work();
    for (auto &other : others) other.get();
    for (const auto &failure : failures) {
        if (failure) std::rethrow_exception(failure);
    }
}

std::string Bundle::precision(const std::string &wanted) const {
    const std::string name = wanted.empty() ? manifest_.default_precision : wanted;
    const auto complete = manifest_.precisions();
    if (std::find(complete.begin(), complete.end(), name) == complete.end()) {
        throw Error(SDIC_ERROR_ARGUMENT, say(path_, " has no complete set of stages in precision \"", name, "\"; it has: ", listed(complete, "")));
    }
    return name;
}

std::string Bundle::stage_file(const std::string &stage, const std::string &precision) {
    return proven(manifest_.graph_files(stage, precision)).front();
}

std::vector<std::string> Bundle::cpu_files(const std::string &stage) {
    const auto graphs = manifest_.cpu.find(stage);
    if (graphs == manifest_.cpu.end()) return {};
    auto paths = proven(manifest_.graph_files(stage, kCpuPrecision, true));
    paths.resize(graphs->second.size());
    return paths;
}

std::vector<std::string> Bundle::proven(const std::vector<std::string> &names) {
    std::vector<std::string> paths;
    for (const auto &name : names) paths.push_back(file(name));
    return paths;
}

std::string Bundle::partial_file(const std::string &stage, const std::string &output, const std::string &precision) {
    const auto choices = manifest_.partials.find(stage + ":" + output);
    if (choices == manifest_.partials.end() || choices->second.count(precision) == 0) return "";
    stage_file(stage, precision);
    return file(choices->second.at(precision));
}

}  // namespace sdic_internal
