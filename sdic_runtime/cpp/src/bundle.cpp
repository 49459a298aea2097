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

Manifest manifest_in(const std::string &folder) {
    const std::string path = (std::filesystem::path(folder) / kManifestName).string();
    if (!exists(folder)) throw Error(SDIC_ERROR_BUNDLE, say("there is no bundle at ", folder, "; ", kBuildHint));
    int number = 0;
    const std::string text = read_file(path, number);
    if (number == ENOENT || number == ENOTDIR) {
        throw Error(SDIC_ERROR_BUNDLE, say(folder, " is not a bundle, it has no ", kManifestName, "; ", kBuildHint));
    }
    if (number != 0) throw Error(SDIC_ERROR_BUNDLE, say("cannot read ", path, ": ", reason(number)));
    return parse_manifest(text, path);
}

}  // namespace

Bundle::Bundle(const std::string &path, bool verify) : path_(folder_of(path)), verify_(verify), manifest_(manifest_in(path_)) {}

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

void Bundle::check(const Names &names) {
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

}  // namespace sdic_internal
