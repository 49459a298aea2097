// One graph that ONNX Runtime has loaded.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "method.hpp"
#include "onnx_library.hpp"

namespace sdic_internal {

struct RunOptions;

// One input or output of a graph.
struct Border {
    bool is_float = false;
    Json shape;  // a number, a name or null per axis
};

// Memory of a tensor, which ONNX Runtime reads or writes.
struct View {
    const char *name;
    float *data;
    Shape shape;

    std::size_t stride() const;
    // The picture `index` alone.
    View one(std::size_t index) const;
};

class Session {
public:
    // The graph at `path` with the tensors of `stage`, with as many threads for one operation, all cores where that is 0. `options` must
    // outlive this object; `bundle` is the folder that errors name.
    Session(const RunOptions &options, const Stage &stage, const std::string &path, int threads, const std::string &bundle);
    ~Session();
    Session(const Session &) = delete;
    Session &operator=(const Session &) = delete;

    // What the graph says of its shapes agrees with the sizes of `method`, N being any.
    void check_shapes(const Method &method, const std::string &path) const;

    // Safe to call from several threads.
    void run(const std::vector<View> &inputs, const std::vector<View> &outputs) const;

    // Whether the graph is for one picture at a time, because the weights of its layers are a picture's own.
    bool for_one() const;
    const Border &input(const std::string &name) const { return inputs_.at(name); }
    const Border &output(const std::string &name) const { return outputs_.at(name); }

private:
    std::map<std::string, Border> borders(bool inputs, const std::string &what) const;

    const OnnxLibrary &library_;
    const RunOptions &options_;
    std::string stage_, bundle_;
    std::unique_ptr<OrtSession, void (*)(OrtSession *)> handle_;
    std::map<std::string, Border> inputs_, outputs_;
};

}  // namespace sdic_internal
