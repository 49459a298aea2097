// What an ONNX file asks of whoever loads it: the same as sdic_runtime/bundle/onnx_file.py.
#pragma once

#include <set>
#include <string>

namespace sdic_internal {

struct OnnxFile {
    std::set<std::string> operators;  // "Conv", or "domain:Name" of those that are not ONNX's own
    std::set<std::string> locations;  // files of external weights, as they are named

    // The operators that could do more than compute tensors from tensors.
    std::set<std::string> unknown() const;
};

// Reads the fields that matter and skips the weights. On failure `number` is the errno. Throws Invalid for what is no ONNX file.
OnnxFile read_onnx_file(const std::string &path, int &number);

}  // namespace sdic_internal
