// The objects behind the handles, and the interpreter of programs: the same as sdic_runtime/program.py and pipeline.py.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "edits.hpp"
#include "onnx_runtime.hpp"
#include "pictures.hpp"

namespace sdic_internal {

// Which model made a result: enough to refuse another one, to keep an inversion in a file, and to cut the visible rows out of a picture.
struct Model {
    std::string identity, name;
    Sizes sizes;
    Table<Axes> kept;  // the tensors that an inversion stores
    Rows visible_rows;
};

// What the program "prepare" made of an inversion, at the first edit that takes any of it.
struct Prepared {
    std::mutex lock;
    Tensors tensors;
};

// N pictures of one model: their tensors by name, "picture" [N, 3, R, R] among them, unclamped; and where each came from ("" where that is
// not known). An inversion has all that the model keeps; edited pictures have what their program gives, and the moved codes.
struct Result {
    Model model;
    Tensors tensors;
    Names names;
    std::shared_ptr<Prepared> prepared = std::make_shared<Prepared>();

    std::size_t count() const { return tensors.at(kPicture)->batch(); }
    // The tensor called `name`, also in the words of schema 1. Throws Error.
    const TensorPtr &tensor(const std::string &name) const;
    // The safetensors file of an inversion: the same as sdic_runtime/inversion.py reads and writes.
    void save(const std::string &path) const;
    static Result load(const std::string &path);
};

class Pipeline {
public:
    Pipeline(const std::string &bundle, const RunOptions &options, bool verify);

    Result invert(const TensorPtr &image, Names names, std::size_t batch) const;
    Result edit(const Result &inversion, const sdic_edit_params &params);
    Result baseline(const Result &inversion, std::size_t batch) const;

    const Manifest &manifest() const { return bundle_.manifest(); }
    const Model &model() const { return model_; }
    const std::string &description() const { return runtime_.description(); }
    Directions &directions() { return directions_; }

private:
    // A tensor that a program takes, for the pictures `first` to `end`.
    using Take = std::function<TensorPtr(const std::string &name, std::size_t first, std::size_t end)>;

    // What the program called `name` gives for `count` pictures, `batch` at a time (0: the default). `take` gives what it takes, but for its
    // zeros that are not among `extras`.
    Tensors run(const std::string &name, std::size_t count, std::size_t batch, const Take &take, const Tensors &extras = {}) const;
    // The caller's own inputs of an edit of `count` pictures, each for one of them or for all.
    Tensors extras(const sdic_extra *given, std::size_t number, const Program &program, std::size_t count) const;
    // What the program takes of what "prepare" gives; made once per inversion.
    Tensors prepared(const Result &inversion, const Program &program, std::size_t batch) const;
    const Move &move(const char *name, const Names &kinds) const;
    // The inversion is of this model, and has what the program takes.
    void check_model(const Result &inversion, const std::string &program) const;

    // The options, with the precision that the bundle runs in.
    const RunOptions &resolved();

    RunOptions options_;
    Bundle bundle_;
    Model model_;
    Directions directions_;
    OnnxRuntime runtime_;
};

}  // namespace sdic_internal
