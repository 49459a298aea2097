#include "bands.hpp"

#include <algorithm>

#include "parallel.hpp"

namespace sdic_internal {

namespace {

constexpr std::size_t kRowAxis = 2;
constexpr const char *kBuildAgain = "; build it again with: sdic-export build";

}  // namespace

Bands::Bands(const Stage &stage, const Method &method, std::vector<std::unique_ptr<Session>> sessions, int workers, const std::string &bundle)
    : stage_(stage.name), bundle_(bundle), sessions_(std::move(sessions)), workers_(static_cast<std::size_t>(workers)) {
    check_inputs(stage, method);
    rows_ = rows(stage, method);
}

void Bands::check_inputs(const Stage &stage, const Method &method) const {
    for (const auto &session : sessions_) {
        for (const auto &name : stage.inputs) {
            const Json want = method.shape(name, 1), &have = session->input(name).shape;
            if (have == want) continue;
            throw Error(SDIC_ERROR_BUNDLE, "a band of the stage \"", stage_, "\" takes ", name, " as ", shown(have), " where the stage has ",
                        shown(want), " for one picture", kBuildAgain);
        }
    }
}

Bands::Rows Bands::rows(const Stage &stage, const Method &method) const {
    Rows found;
    for (const auto &name : stage.outputs) {
        const Json whole = method.shape(name, 1);
        bool fitting = whole.size() > kRowAxis;
        std::vector<std::string> shapes;
        std::vector<std::size_t> &starts = found[name] = {0};
        for (const auto &session : sessions_) {
            Json shape = session->output(name).shape;
            shapes.push_back(shown(shape));
            fitting = fitting && shape.size() == whole.size() && shape[kRowAxis].is_number();
            const std::size_t height = fitting ? shape[kRowAxis].get<std::size_t>() : 0;
            starts.push_back(starts.back() + height);
            if (fitting) shape[kRowAxis] = whole[kRowAxis];
            fitting = height > 0 && shape == whole;
        }
        if (fitting && starts.back() == whole[kRowAxis].get<std::size_t>()) continue;
        throw Error(SDIC_ERROR_BUNDLE, "the bands of the stage \"", stage_, "\" give ", name, " as ", listed(shapes),
                    ", which do not add up to the rows of ", shown(whole), kBuildAgain);
    }
    return found;
}

void Bands::run(const std::vector<View> &inputs, const std::vector<View> &outputs) const {
    const auto pictures = outputs.front().shape.front();
    for (const auto &input : inputs) {
        if (input.shape.front() == pictures) continue;
        throw Error(SDIC_ERROR_RUN, "the stage \"", stage_, "\" failed: the inputs are for ", std::min(input.shape.front(), pictures), " and ",
                    std::max(input.shape.front(), pictures), " pictures; see: sdic-export verify ", bundle_);
    }
    const std::size_t bands = sessions_.size();
    in_parallel(static_cast<std::size_t>(pictures) * bands, workers_, [&](std::size_t task) { run_one(task % bands, task / bands, inputs, outputs); });
}

void Bands::run_one(std::size_t band, std::size_t picture, const std::vector<View> &inputs, const std::vector<View> &outputs) const {
    std::vector<View> sources, targets;
    std::vector<std::vector<float>> buffers;
    for (const auto &input : inputs) sources.push_back(input.one(picture));
    for (const auto &output : outputs) {
        const auto &starts = rows_.at(output.name);
        View target = output.one(picture);
        target.shape[kRowAxis] = static_cast<std::int64_t>(starts[band + 1] - starts[band]);
        target.data = buffers.emplace_back(element_count(target.shape)).data();
        targets.push_back(target);
    }
    sessions_[band]->run(sources, targets);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        const View whole = outputs[i].one(picture);
        const std::size_t channels = static_cast<std::size_t>(whole.shape[1]), plane = whole.stride() / channels, part = buffers[i].size() / channels;
        const std::size_t first = plane / static_cast<std::size_t>(whole.shape[kRowAxis]) * rows_.at(whole.name)[band];
        for (std::size_t channel = 0; channel < channels; ++channel) {
            std::copy_n(buffers[i].data() + channel * part, part, whole.data + channel * plane + first);
        }
    }
}

}  // namespace sdic_internal
