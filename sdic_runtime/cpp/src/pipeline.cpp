#include "pipeline.hpp"

#include <algorithm>


namespace sdic_internal {

namespace {

constexpr std::size_t kBatchPixels = 1024 * 1024;  // generated pixels that run at once when no batch is given
constexpr std::size_t kLargestDefaultBatch = 16;

Model model_of(const Manifest &manifest) {
    Table<Axes> kept;
    for (const auto &name : manifest.keeps) kept.emplace_back(name, *manifest.tensors.find(name));
    return {manifest.identity(), manifest.name, manifest.sizes, kept, manifest.visible_rows};
}

// Runs the steps, from the tensors that the program takes to those that it gives. A value that no later step reads is let go at once.
Tensors interpret(const Program &program, const OnnxRuntime &runtime, Tensors values, Progress &progress) {
    std::map<std::string, std::size_t> last;  // value -> the step after which nobody reads it
    for (std::size_t i = 0; i < program.steps.size(); ++i) {
        for (const auto *bound : {&program.steps[i].inputs, &program.steps[i].outputs}) {
            for (const auto &item : *bound) last[item.second] = i;
        }
    }
    for (const auto &item : program.gives) last[item.second] = program.steps.size();
    for (std::size_t i = 0; i < program.steps.size(); ++i) {
        const Step &step = program.steps[i];
        progress.before(step.stage);
        Tensors inputs;
        for (const auto &[name, value] : step.inputs) inputs[name] = values.at(value);
        const Tensors results = runtime.run(step.stage, inputs, keys_of(step.outputs));
        for (const auto &[name, value] : step.outputs) values[value] = results.at(name);
        for (auto item = values.begin(); item != values.end();) item = last[item->first] > i ? std::next(item) : values.erase(item);
    }
    Tensors given;
    for (const auto &[name, value] : program.gives) given[name] = values.at(value);
    return given;
}

}  // namespace

Pipeline::Pipeline(const std::string &bundle, const RunOptions &options, bool verify)
    : options_(options), bundle_(bundle, verify), model_(model_of(manifest())), directions_(bundle_), runtime_(bundle_, resolved()) {}

const RunOptions &Pipeline::resolved() {
    options_.precision = bundle_.precision(options_.precision);
    return options_;
}

Tensors Pipeline::run(const std::string &name, std::size_t count, std::size_t wanted, const Take &take, const Tensors &extras) const {
    const Program &program = *manifest().programs.find(name);
    const auto side = static_cast<std::size_t>(manifest().size("R"));
    const std::size_t usual = std::clamp<std::size_t>(kBatchPixels / (side * side), 1, kLargestDefaultBatch);
    const std::size_t batch = std::min(wanted != 0 ? wanted : usual, count);
    Progress progress(options_, program.steps.size() * ((count + batch - 1) / batch));
    std::map<std::string, std::vector<TensorPtr>> parts;
    for (std::size_t first = 0; first < count; first += batch) {
        const std::size_t end = std::min(first + batch, count);
        Tensors values;
        for (const auto &tensor : program.takes) {
            const Shape shape = manifest().shape(tensor, static_cast<std::int64_t>(end - first));
            const bool zero = contains(program.zeros, tensor) && extras.count(tensor) == 0;
            values[tensor] = zero ? std::make_shared<Tensor>(shape) : take(tensor, first, end);
        }
        for (auto &[tensor, part] : interpret(program, runtime_, std::move(values), progress)) parts[tensor].push_back(part);
    }
    Tensors whole;
    for (auto &[tensor, pieces] : parts) {
        whole[tensor] = joined(pieces);
        pieces.clear();
    }
    return whole;
}

Result Pipeline::invert(const TensorPtr &image, Names names, std::size_t batch) const {
    const auto take = [&](const std::string &, std::size_t first, std::size_t end) { return slice(image, first, end); };
    Tensors tensors = run(kInvert, image->batch(), batch, take);
    tensors.emplace(kImage, image);
    for (auto item = tensors.begin(); item != tensors.end();) item = model_.kept.find(item->first) ? std::next(item) : tensors.erase(item);
    return {model_, std::move(tensors), std::move(names)};
}

Result Pipeline::edit(const Result &inversion, const sdic_edit_params &params) {
    std::vector<float> strengths = {1.0f};
    if (params.strengths != nullptr) strengths.assign(params.strengths, params.strengths + params.strength_count);
    for (const float strength : strengths) finite(strength, "the strength");
    require_argument(!strengths.empty(), "the list of strengths is empty; give at least one");
    const CombinedEdit change(params.parts, params.part_count, directions_, {manifest().size("L"), manifest().size("C")});
    const Move &form = move(params.move, change.kinds());
    check_model(inversion, form.program);
    const Program &program = *manifest().programs.find(form.program);
    const Tensors further = extras(params.extras, params.extra_count, program, inversion.count());
    Tensors held = prepared(inversion, program, params.batch), codes;
    held.insert(further.begin(), further.end());
    const auto own = [&](const std::string &name) { return held.count(name) != 0 ? held.at(name) : inversion.tensor(name); };
    for (const auto &code : form.codes) codes[code] = change.apply(*own(code), strengths);
    const std::size_t times = strengths.size();
    const auto take = [&](const std::string &name, std::size_t first, std::size_t end) {
        const auto code = codes.find(name);
        return code != codes.end() ? slice(code->second, first, end) : slice(own(name), first, end, times);
    };
    Tensors tensors = run(form.program, inversion.count() * times, params.batch, take, further);
    tensors.merge(codes);
    Names names;
    for (const auto &name : inversion.names) names.insert(names.end(), times, name);
    return {model_, std::move(tensors), std::move(names)};
}

Result Pipeline::baseline(const Result &inversion, std::size_t batch) const {
    const bool there = manifest().programs.find(kBaseline) != nullptr;
    require_argument(there, "the bundle \"", model_.name, "\" has no baseline, because its method defines none");
    check_model(inversion, kBaseline);
    const auto take = [&](const std::string &name, std::size_t first, std::size_t end) { return slice(inversion.tensor(name), first, end); };
    return {model_, run(kBaseline, inversion.count(), batch, take), inversion.names};
}

Tensors Pipeline::extras(const sdic_extra *given, std::size_t number, const Program &program, std::size_t count) const {
    Tensors all;
    for (std::size_t i = 0; i < number; ++i) {
        const std::string name = given[i].name != nullptr ? given[i].name : "";
        require_argument(contains(program.zeros, name), "this edit takes no extra \"", name, "\"; it takes: ", listed(program.zeros));
        const Shape shape = manifest().shape(name, static_cast<std::int64_t>(count));
        const std::size_t whole = element_count(shape), one = whole / count;
        const float *first = given[i].data;
        const bool fits = first != nullptr && (given[i].count == one || given[i].count == whole) &&
                          std::all_of(first, first + given[i].count, [](float value) { return std::isfinite(value); });
        require_argument(fits, "the extra \"", name, "\" has ", given[i].count, " values; expected ", whole, " finite ones, of shape ", text_of(shape),
                         ", or ", one, " for all pictures alike");
        std::vector<float> values(first, first + given[i].count);
        const TensorPtr tensor = std::make_shared<Tensor>(manifest().shape(name, static_cast<std::int64_t>(given[i].count / one)), std::move(values));
        all[name] = tensor->batch() == count ? tensor : slice(tensor, 0, count, count);
    }
    return all;
}

Tensors Pipeline::prepared(const Result &inversion, const Program &program, std::size_t batch) const {
    Tensors taken;
    for (const auto &name : manifest().prepared()) {
        if (!contains(program.takes, name)) continue;
        const std::lock_guard<std::mutex> hold(inversion.prepared->lock);
        Tensors &made = inversion.prepared->tensors;
        if (made.empty()) {
            const auto take = [&](const std::string &tensor, std::size_t first, std::size_t end) { return slice(inversion.tensor(tensor), first, end); };
            made = run(kPrepare, inversion.count(), batch, take);
        }
        taken[name] = made.at(name);
    }
    return taken;
}

const Move &Pipeline::move(const char *name, const Names &kinds) const {
    const auto &moves = manifest().moves;
    Names fitting;
    for (const auto &[known, form] : moves) {
        const auto meant = [&own = form.kinds](const std::string &kind) { return contains(own, kind); };
        if (std::all_of(kinds.begin(), kinds.end(), meant)) fitting.push_back(known);
    }
    const std::string all = say("the bundle \"", model_.name, "\" has: ", listed(keys_of(moves)));
    require_argument(name == nullptr || moves.find(name), "move is \"", name != nullptr ? name : "", "\"; ", all);
    require_argument(!fitting.empty(), "there is no move for the kinds of this edit (", listed(kinds), "); ", all);
    const std::string chosen = name != nullptr ? name : fitting.front();
    require_argument(contains(fitting, chosen), "move is \"", chosen, "\", which is for other edits; for this one use: ", listed(fitting));
    return *moves.find(chosen);
}

void Pipeline::check_model(const Result &inversion, const std::string &program) const {
    const Model &other = inversion.model;
    require_argument(other.identity == model_.identity, "the inversion was made by the model \"", other.name, "\" (", other.identity.substr(0, 12),
                     "), and this is \"", model_.name, "\" (", model_.identity.substr(0, 12), "); invert the picture again with this bundle");
    const Program &takes = *manifest().programs.find(program);
    const Names prepared = manifest().prepared();
    for (const auto &name : takes.takes) {
        if (contains(prepared, name)) continue;
        const auto held = inversion.tensors.find(name);
        const Shape shape = manifest().shape(name, static_cast<std::int64_t>(inversion.count()));
        const bool fits = contains(takes.zeros, name) || (held != inversion.tensors.end() && held->second->shape == shape);
        require_argument(fits, "the inversion has no \"", name, "\" as this bundle needs it; invert the picture again with this bundle");
    }
}

const TensorPtr &Result::tensor(const std::string &name) const {
    auto found = tensors.find(name);
    const Json &renamed = first_schema()["kept_names"];
    if (found == tensors.end() && renamed.contains(name)) found = tensors.find(renamed.at(name).get<std::string>());
    require_argument(found != tensors.end(), "there is no tensor \"", name, "\"; there are: ", listed(keys_of(tensors)));
    return found->second;
}

}  // namespace sdic_internal
