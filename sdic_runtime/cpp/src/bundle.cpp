#include "bundle.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "files.hpp"
#include "onnx_file.hpp"
#include "parallel.hpp"

namespace sdic_internal {

namespace {

constexpr std::uintmax_t kLargestManifest = std::uintmax_t{16} << 20;

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
    std::error_code ignored;
    if (exists(path) && !std::filesystem::is_regular_file(path, ignored)) {
        throw Error(SDIC_ERROR_BUNDLE, "cannot read ", path, ": it is no regular file; ", kBuildHint);
    }
    if (exists(path) && std::filesystem::file_size(path, ignored) > kLargestManifest) {
        throw Error(SDIC_ERROR_BUNDLE, "cannot read ", path, ": it has more than ", kLargestManifest, " bytes; ", kBuildHint);
    }
    const std::string text = read_file(path, number);
    if (number == ENOENT || number == ENOTDIR) {
        throw Error(SDIC_ERROR_BUNDLE, folder, " is not a bundle, it has no ", kManifestName, "; ", kBuildHint);
    }
    if (number != 0) throw Error(SDIC_ERROR_BUNDLE, "cannot read ", path, ": ", reason(number));
    return parse_manifest(text, path);
}

}  // namespace

Bundle::Bundle(const std::string &path, bool verify) : path_(folder_of(path)), verify_(verify), manifest_(manifest_in(path_)) {
    for (const auto &[key, variants] : manifest_.graphs) {
        for (const auto &[variant, files] : variants) graphs_.insert(files.begin(), files.end());
    }
}

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
    if (exists(path) && !std::filesystem::is_regular_file(path)) {
        damage = "it is no regular file";
        number = 0;
    } else if (number == 0 && static_cast<std::int64_t>(size) != found->second.bytes) {
        damage = say("it has ", size, " bytes instead of ", found->second.bytes);
    } else if (number == 0 && (verify_ || leaves(path)) && sha256_of_file(path, number) != found->second.sha256 && number == 0) {
        damage = "its SHA-256 is not the one in " + kManifestName;
    }
    if (number != 0) damage = number == ENOENT ? "it is missing" : reason(number);
    if (damage.empty() && graphs_.count(name) != 0) check_graph(name, path);
    if (!damage.empty()) {
        throw Error(SDIC_ERROR_BUNDLE, path, " is damaged: ", damage, "; see the whole extent with: sdic-export verify ", path_);
    }
    const std::lock_guard<std::mutex> hold(lock_);
    checked_.insert(name);
    return path;
}

bool Bundle::leaves(const std::string &path) const {
    std::error_code failure;
    const auto inside = std::filesystem::canonical(path_, failure), target = std::filesystem::canonical(path, failure);
    const auto differ = std::mismatch(inside.begin(), inside.end(), target.begin(), target.end());
    return failure || differ.first != inside.end();
}

void Bundle::check_graph(const std::string &name, const std::string &path) const {
    OnnxFile found;
    int number = 0;
    try {
        found = read_onnx_file(path, number);
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_BUNDLE, path, " is no ONNX file: ", error.what(), "; ", kBuildHint);
    }
    if (number != 0) throw Error(SDIC_ERROR_BUNDLE, "cannot read ", path, ": ", reason(number));
    std::set<std::string> listed_weights;
    if (const auto own = manifest_.weights.find(name); own != manifest_.weights.end()) {
        for (const auto &weights : own->second) listed_weights.insert(std::filesystem::path(weights).lexically_normal().generic_string());
    }
    for (const auto &location : found.locations) {
        const auto place = (std::filesystem::path(name).parent_path() / location).lexically_normal().generic_string();
        if (!is_inside(location) || listed_weights.count(place) == 0) {
            throw Error(SDIC_ERROR_BUNDLE, path, " reads \"", location, "\", which the bundle does not list as its weights; ", kBuildHint);
        }
    }
    const auto unknown = found.unknown();
    const char *trusted = std::getenv("SDIC_TRUST");
    if (!unknown.empty() && (trusted == nullptr || std::string(trusted) != "1")) {
        throw Error(SDIC_ERROR_BUNDLE, path, " runs ", listed({unknown.begin(), unknown.end()}),
                    ", which may do anything or never end; if you know who made it, set the environment variable SDIC_TRUST=1");
    }
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
