#include "pipeline.hpp"

#include <algorithm>

#include "errors.hpp"

namespace sdic_internal {

namespace {

constexpr std::size_t kBatchPixels = 2 * 1024 * 1024;  // generated pixels that run at once when no batch is given
constexpr std::size_t kLargestDefaultBatch = 16;

// Stage runs of one part of a batch.
constexpr std::size_t kInvertRuns = 7, kEditRuns = 3, kBaselineRuns = 2;

std::size_t parts_of(std::size_t count, std::size_t batch) { return (count + batch - 1) / batch; }

}  // namespace

Pipeline::Pipeline(const std::string &bundle, const RunOptions &options, bool verify)
    : options_(options), bundle_(bundle, verify),
      model_{bundle_.manifest().identity(), bundle_.manifest().name, bundle_.manifest().sizes, bundle_.manifest().visible_rows},
      directions_(bundle_), runtime_(bundle_, options_) {}

Tensors Pipeline::run(const std::string &stage, const Tensors &inputs, const std::vector<std::string> &outputs, Progress &progress) const {
    progress.before(stage);
    return runtime_.run(stage, inputs, outputs);
}

Tensors Pipeline::invert_part(const TensorPtr &image, Progress &progress) const {
    Tensors all = run("e4e", {{"image", image}}, {"latent"}, progress);
    const TensorPtr latent = all.at("latent");
    const Tensors head = run("generator_head", {{"latent", latent}}, {"feature", "rgb"}, progress);
    const TensorPtr feature = head.at("feature");
    all["feature"] = feature;
    all.merge(run("generator_preview", {{"feature", feature}, {"rgb", head.at("rgb")}, {"latent", latent}}, {"reconstruction"}, progress));
    all.merge(run("dipn", {{"image", image}, {"reconstruction", all.at("reconstruction")}}, {"discrepancy"}, progress));
    all.merge(run("dicn", {{"discrepancy", all.at("discrepancy")}, {"feature", feature}, {"latent", latent}}, {"latent_enhanced", "residual"}, progress));
    all["pixels"] = render(feature, all.at("residual"), all.at("latent_enhanced"), progress);
    return all;
}

// The picture of `latent` in which layer 7 gives feature + residual (Eq. 5 and 6). The RGB skip up to layer 7 still comes from `latent`.
TensorPtr Pipeline::render(const TensorPtr &feature, const TensorPtr &residual, const TensorPtr &latent, Progress &progress) const {
    const TensorPtr rgb = run("generator_head", {{"latent", latent}}, {"rgb"}, progress).at("rgb");
    const Tensors inputs = {{"feature", feature}, {"residual", residual}, {"rgb", rgb}, {"latent", latent}};
    return run("generator_tail", inputs, {"picture"}, progress).at("picture");
}

Inversion Pipeline::invert(const TensorPtr &image, std::vector<std::string> names, std::size_t wanted) const {
    const std::size_t count = image->batch(), batch = batch_size(wanted);
    Progress progress(options_, kInvertRuns * parts_of(count, batch));
    std::map<std::string, std::vector<TensorPtr>> parts;
    for (std::size_t start = 0; start < count; start += batch) {
        for (auto &[name, tensor] : invert_part(slice(image, start, std::min(start + batch, count)), progress)) parts[name].push_back(tensor);
    }
    Inversion inversion;
    inversion.model = model_;
    inversion.names = std::move(names);
    for (auto &[name, pieces] : parts) {
        inversion.tensors[name] = joined(pieces);
        pieces.clear();
    }
    return inversion;
}

Pictures Pipeline::edit(const Inversion &inversion, const sdic_edit_params &params) {
    if (params.eq6 != SDIC_EQ6_PAPER && params.eq6 != SDIC_EQ6_RELEASED) {
        throw Error(SDIC_ERROR_ARGUMENT, say("eq6 is \"", static_cast<int>(params.eq6), "\"; use \"paper\" or \"released\""));
    }
    check_model(inversion);
    std::vector<float> strengths = {1.0f};
    if (params.strengths != nullptr) strengths.assign(params.strengths, params.strengths + params.strength_count);
    for (const float strength : strengths) finite(strength, "the strength");
    if (strengths.empty()) throw Error(SDIC_ERROR_ARGUMENT, "the list of strengths is empty; give at least one");
    const CombinedEdit change(params.parts, params.part_count, directions_, model_.sizes);
    const TensorPtr codes = change.apply(*inversion.tensors.at("latent"), strengths);
    const TensorPtr enhanced = change.apply(*inversion.tensors.at("latent_enhanced"), strengths);

    const std::size_t count = codes->batch(), batch = batch_size(params.batch);
    const TensorPtr residual = inversion.tensors.at("residual");
    Progress progress(options_, kEditRuns * parts_of(count, batch));
    std::vector<TensorPtr> pixels;
    for (std::size_t start = 0; start < count; start += batch) {
        const std::size_t end = std::min(start + batch, count);
        std::vector<TensorPtr> sources;
        if (strengths.size() == 1) {
            sources = {slice(residual, start, end)};
        } else {
            for (std::size_t i = start; i < end; ++i) sources.push_back(slice(residual, i / strengths.size(), i / strengths.size() + 1));
        }
        const TensorPtr latent = slice(enhanced, start, end);
        const TensorPtr source = params.eq6 == SDIC_EQ6_PAPER ? slice(codes, start, end) : latent;
        const TensorPtr feature = run("generator_head", {{"latent", source}}, {"feature"}, progress).at("feature");
        pixels.push_back(render(feature, joined(sources), latent, progress));
    }
    return {model_, {{"latent", enhanced}, {"pixels", joined(pixels)}}};
}

Pictures Pipeline::baseline(const Inversion &inversion, std::size_t wanted) const {
    check_model(inversion);
    const TensorPtr latent = inversion.tensors.at("latent");
    const std::size_t count = latent->batch(), batch = batch_size(wanted);
    Progress progress(options_, kBaselineRuns * parts_of(count, batch));
    std::vector<TensorPtr> pixels;
    for (std::size_t start = 0; start < count; start += batch) {
        const TensorPtr part = slice(latent, start, std::min(start + batch, count));
        Tensors inputs = run("generator_head", {{"latent", part}}, {"feature", "rgb"}, progress);
        inputs["residual"] = std::make_shared<Tensor>(model_.sizes.shape("residual", part->shape[0]));
        inputs["latent"] = part;
        pixels.push_back(run("generator_tail", inputs, {"picture"}, progress).at("picture"));
    }
    return {model_, {{"latent", latent}, {"pixels", joined(pixels)}}};
}

void Pipeline::check_model(const Inversion &inversion) const {
    if (inversion.model.identity == model_.identity) return;
    throw Error(SDIC_ERROR_ARGUMENT, say("the inversion was made by the model \"", inversion.model.name, "\" (", inversion.model.identity.substr(0, 12),
                                         "), and this is \"", model_.name, "\" (", model_.identity.substr(0, 12),
                                         "); invert the picture again with this bundle"));
}

std::size_t Pipeline::batch_size(std::size_t batch) const {
    if (batch != 0) return batch;
    const auto side = static_cast<std::size_t>(model_.sizes.resolution);
    return std::max<std::size_t>(1, std::min(kLargestDefaultBatch, kBatchPixels / (side * side)));
}

}  // namespace sdic_internal
