// `bundle.json`, checked: the same rules and the same sentences as sdic_runtime/bundle.py.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "python_text.hpp"
#include "stages.hpp"

namespace sdic_internal {

constexpr int kSchema = 1;
inline const std::string kManifestName = "bundle.json";
inline const std::string kCpuPrecision = "fp32";  // the precision of the graphs that are arranged for processors
inline const std::string kBuildHint = "build it with: sdic-export build CHECKPOINT --out DIR";

struct FileEntry {
    std::string sha256;
    std::int64_t bytes = 0;
};

struct Manifest {
    std::string name, method, domain, default_precision, licence;
    Sizes sizes;
    std::pair<std::int64_t, std::int64_t> visible_rows;  // first, end: the rows of `picture` that a user sees
    std::map<std::string, std::map<std::string, std::string>> stages;  // stage -> precision -> file
    // "stage:output" -> precision -> file: the graph cut down to what that one output needs
    std::map<std::string, std::map<std::string, std::string>> partials;
    // Stage or "stage:output" -> files: the same in kCpuPrecision arranged for processors. They may refer to the external weights of the
    // stage's own graph, and the one of an output alone also to those of the stage's graph for processors. Several files are bands of rows
    // (axis 2 of every output) from top to bottom, each for one picture.
    std::map<std::string, std::vector<std::string>> cpu;
    std::map<std::string, FileEntry> files;
    std::map<std::string, std::string> directions;

    // Which model this is: a SHA-256 over the sizes and the stage files of one precision, as Python computes it.
    std::string identity() const;
    // The precisions in which every stage is there, sorted.
    std::vector<std::string> precisions() const;
    // The files of one stage in one precision: its graph first, then the external weights that it may refer to. With `arranged` the graphs
    // for processors, where there are such; then `stage` may also be a "stage:output" of `cpu`.
    std::vector<std::string> graph_files(const std::string &stage, const std::string &precision, bool arranged = false) const;
    // The files of all stages in one precision, external weights included, sorted; `arranged` as in `graph_files`.
    std::vector<std::string> stage_files(const std::string &precision, bool arranged = false) const;
};

// The manifest in parsed JSON; `origin` names it in errors.
Manifest manifest_from_json(const Json &data, const std::string &origin);

}  // namespace sdic_internal
