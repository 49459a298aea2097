// The objects behind the handles, and the chain of stages: the same as sdic_runtime/chain.py and pipeline.py.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "edits.hpp"
#include "onnx_runtime.hpp"
#include "pictures.hpp"

namespace sdic_internal {

// Which model made an inversion: enough to refuse another one, and to cut the visible rows out of a picture.
struct Model {
    std::string identity, name;
    Sizes sizes;
    Rows visible_rows;
};

// N pictures of one model with their tensors, by the names that Python gives them. `pixels` is [N, 3, R, R], unclamped.
struct Pictures {
    Model model;
    Tensors tensors;

    std::size_t count() const { return tensors.at("pixels")->batch(); }
};

// Everything of an inversion, and where each picture came from ("" where that is not known).
struct Inversion : Pictures {
    std::vector<std::string> names;

    void save(const std::string &path) const;
    static Inversion load(const std::string &path);
};

class Pipeline {
public:
    Pipeline(const std::string &bundle, const RunOptions &options, bool verify);

    Inversion invert(const TensorPtr &image, std::vector<std::string> names, std::size_t batch) const;
    Pictures edit(const Inversion &inversion, const sdic_edit_params &params);
    Pictures baseline(const Inversion &inversion, std::size_t batch) const;

    const Bundle &bundle() const { return bundle_; }
    const Model &model() const { return model_; }
    const std::string &description() const { return runtime_.description(); }

private:
    Tensors invert_part(const TensorPtr &image, Progress &progress) const;
    TensorPtr render(const TensorPtr &feature, const TensorPtr &residual, const TensorPtr &latent, Progress &progress) const;
    Tensors run(const std::string &stage, const Tensors &inputs, const std::vector<std::string> &outputs, Progress &progress) const;
    void check_model(const Inversion &inversion) const;
    std::size_t batch_size(std::size_t batch) const;

    RunOptions options_;
    Bundle bundle_;
    Model model_;
    Directions directions_;
    OnnxRuntime runtime_;
};

}  // namespace sdic_internal
