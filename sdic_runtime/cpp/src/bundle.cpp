#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <thread>

#include "files.hpp"
#include "parallel.hpp"

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
    if (!exists(folder)) throw Error(SDIC_ERROR_BUNDLE, "there is no bundle at ", folder, "; ", kBuildHint);
    int number = 0;
    const std::string text = read_file(path, number);
    if (number == ENOENT || number == ENOTDIR) {
        throw Error(SDIC_ERROR_BUNDLE, folder, " is not a bundle, it has no ", kManifestName, "; ", kBuildHint);
    }
    if (number != 0) throw Error(SDIC_ERROR_BUNDLE, "cannot read ", path, ": ", reason(number));
    return parse_manifest(text, path);
}

}  // namespace

Bundle::Bundle(const std::string &path, bool verify) : path_(folder_of(path)), verify_(verify), manifest_(manifest_in(path_)) {}

std::string Bundle::file(const std::string &name) {
    const auto found = manifest_.files.find(name);
    const std::string path = (std::filesystem::path(path_) / name).string();
    if (found == manifest_.files.end()) {
        throw Error(SDIC_ERROR_BUNDLE, (std::filesystem::path(path_) / kManifestName).string(), " lists no file \"", name, "\"; ", kBuildHint);
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
        throw Error(SDIC_ERROR_BUNDLE, path, " is damaged: ", damage, "; see the whole extent with: sdic-export verify ", path_);
    }
    const std::lock_guard<std::mutex> hold(lock_);
    checked_.insert(name);
    return path;
}

void Bundle::check(const Names &names) {
    in_parallel(names.size(), std::min(4u, std::thread::hardware_concurrency()), [&](std::size_t i) { file(names[i]); });
}

std::string Bundle::precision(const std::string &wanted) const {
    const std::string name = wanted.empty() ? manifest_.default_precision : wanted;
    const auto complete = manifest_.precisions();
    require_argument(contains(complete, name), path_, " has no complete set of stages in precision \"", name, "\"; it has: ", listed(complete));
    return name;
}

}  // namespace sdic_internal
