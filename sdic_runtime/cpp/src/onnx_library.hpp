// The shared library of ONNX Runtime: found, loaded once and kept for the life of the process.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>
#include <vector>

#include "errors.hpp"

namespace sdic_internal {

struct OnnxLibrary {
    const OrtApi *api = nullptr;
    OrtEnv *environment = nullptr;
    std::string version;
    std::vector<std::string> providers;  // those built into this library
};

// The library at `path`; where that is empty, the one that SDIC_ONNXRUNTIME_LIBRARY names, that libsdic was built for, or the system's.
const OnnxLibrary &onnx_library(const std::string &path);

// Turns a failed status into Error: `what` failed, the text of ONNX Runtime in one line, `remedy`. Running out of memory is named as such.
void check(const OnnxLibrary &library, OrtStatus *status, const std::string &what, const std::string &remedy, const std::string &provider,
           sdic_status code = SDIC_ERROR_RUN);

}  // namespace sdic_internal
