// Runs the stages of one bundle on ONNX Runtime's C interface. The shared library is loaded when the first bundle is opened, so that one
// build of libsdic serves every build of ONNX Runtime.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bands.hpp"
#include "bundle.hpp"
#include "onnx_session.hpp"
#include "tensor.hpp"
#include "sdic/sdic.h"

namespace sdic_internal {

// What the caller asked for when a bundle was opened, copied.
struct RunOptions {
    std::string precision, provider = "cpu", library;
    int device = 0, threads = 0;
    bool tf32 = false;
    sdic_log_callback log = nullptr;
    sdic_progress_callback progress = nullptr;
    void *user_data = nullptr;

    void write_log(sdic_log_level level, const std::string &message) const {
        if (log != nullptr) log(level, message.c_str(), user_data);
    }
};

// Counts stage runs for the progress callback; throws Error(SDIC_ERROR_CANCELLED) when that asks to stop.
class Progress {
public:
    Progress(const RunOptions &options, std::size_t total) : options_(options), total_(total) {}
    void before(const std::string &stage);

private:
    const RunOptions &options_;
    std::size_t total_, done_ = 0;
};

class OnnxRuntime {
public:
    // Loads all stages. `bundle` and `options` must outlive this object.
    OnnxRuntime(Bundle &bundle, const RunOptions &options);
    ~OnnxRuntime();

    // "ONNX Runtime 1.31.1, CPUExecutionProvider, fp32", and which graphs are CPU-optimized ones
    const std::string &description() const { return description_; }

    // Runs one stage on inputs by name for the `outputs` asked for. Safe to call from several threads.
    Tensors run(const std::string &stage, const Tensors &inputs, const Names &outputs) const;

private:
    std::unique_ptr<Session> load(const Stage &stage, const std::string &path, int threads) const;
    // Load the graph, which has the outputs of `stage`.
    void add(Bundle &bundle, const Stage &stage, const Graph &graph);

    const RunOptions &options_;
    const Manifest &manifest_;
    std::string bundle_path_, description_;
    Names variants_;  // those that run, best first
    // By the keys of graphs: ONNX Runtime computes every output of a graph, so one output alone may have its own.
    std::map<std::string, std::unique_ptr<Session>> sessions_;
    std::map<std::string, Bands> bands_;  // by the same, in place of a session
};

}  // namespace sdic_internal
