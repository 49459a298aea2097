// `bundle.json`, checked: the same rules as sdic_runtime/bundle/manifest.py.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "method.hpp"

namespace sdic_internal {

inline const std::string kManifestName = "bundle.json";
inline const std::string kStandard = "fp32";  // the precision that every other is checked against
inline const std::string kOnnxRuntimeCpu = "onnxruntime-cpu";  // the variant optimized for ONNX Runtime on CPUs, in float32
inline const Names kForms = {kOnnxRuntimeCpu, "onnxruntime-cuda", "openvino"};  // variants that are no precision
inline const std::string kBuildHint = "build it with: sdic-export build CHECKPOINT --out DIR";

using Rows = std::pair<std::int64_t, std::int64_t>;  // first, end

struct FileEntry {
    std::string sha256;
    std::int64_t bytes = 0;
};

// The graph that answers a request: "stage", or "stage:output" for that output alone; what it computes, and its files. Several files are
// bands of rows (axis 2 of every output) from top to bottom, each for one picture.
struct Graph {
    std::string key;
    Names outputs, files;
};

struct Manifest : Method {
    std::string name, domain, default_precision, licence, resampling;
    Rows visible_rows;                   // the rows of `picture` that a person sees
    Table<Table<Names>> graphs;          // "stage" or "stage:output" -> variant -> files
    std::map<std::string, Names> weights;  // graph file -> the files of external weights that it reads
    std::map<std::string, FileEntry> files;
    std::map<std::string, std::string> directions;

    // The precisions in which every stage has a graph, sorted.
    Names precisions() const;
    // Which model this is: a SHA-256 over the sizes and the stage files of one precision, as Python computes it.
    std::string identity() const;
    // The graph with the least work for `outputs` of `stage`, in the first of `variants` that it has. The only place that answers it; one of
    // `precisions` must be among the variants.
    Graph graph_for(const std::string &stage, const Names &outputs, const Names &variants) const;
    // Graph files with the external weights that they read, each once.
    Names files_of(const Names &graphs) const;
};

// The manifest in JSON; `origin` names it in errors.
Manifest parse_manifest(const std::string &text, const std::string &origin);

// What schema 1 left unsaid, in the words of schema 2: it knew one method.
const Json &first_schema();
// A manifest of schema 1 as one of schema 2. Throws Invalid where it is not of that form.
Json from_first_schema(const Json &data);

}  // namespace sdic_internal
