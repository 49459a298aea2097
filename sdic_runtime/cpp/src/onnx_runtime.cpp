#include "onnx_runtime.hpp"

#include <algorithm>
#include <thread>

#include "errors.hpp"
#include "onnx_library.hpp"
#include "python_text.hpp"

namespace sdic_internal {

namespace {

const std::map<std::string, std::string> &providers() {
    static const std::map<std::string, std::string> table = {{"cpu", "CPUExecutionProvider"},
                                                             {"cuda", "CUDAExecutionProvider"},
                                                             {"tensorrt", "TensorrtExecutionProvider"},
                                                             {"tensorrt-rtx", "NvTensorRTRTXExecutionProvider"}};
    return table;
}

}  // namespace

void Progress::before(const std::string &stage) {
    if (options_.progress != nullptr && options_.progress(stage.c_str(), done_, total_, options_.user_data) != 0) {
        throw Error(SDIC_ERROR_CANCELLED, say("stopped before stage run ", done_ + 1, " of ", total_, " (", stage, ") because the progress callback asked for it"));
    }
    ++done_;
}

OnnxRuntime::OnnxRuntime(Bundle &bundle, const RunOptions &options)
    : options_(options), sizes_(bundle.manifest().sizes), bundle_path_(bundle.path()), precision_(bundle.precision(options.precision)) {
    const auto provider = providers().find(options.provider);
    if (provider == providers().end()) {
        throw Error(SDIC_ERROR_ARGUMENT, say("the provider is \"", options.provider, "\"; use cpu, cuda, tensorrt or tensorrt-rtx"));
    }
    const OnnxLibrary &library = onnx_library(options.library);
    if (std::find(library.providers.begin(), library.providers.end(), provider->second) == library.providers.end()) {
        throw Error(SDIC_ERROR_PROVIDER, say("the provider \"", options.provider, "\" is not in this ONNX Runtime ", library.version, ", which has: ",
                                             listed(library.providers), "; name a library that was built with ", provider->second));
    }
    const bool arranged = options.provider == "cpu" && precision_ == kCpuPrecision && !bundle.manifest().cpu.empty();
    std::vector<std::string> cpu_stages;
    for (const auto &item : bundle.manifest().cpu) cpu_stages.push_back(item.first);
    description_ = say("ONNX Runtime ", library.version, ", ", provider->second, ", ", precision_,
                       arranged ? ", CPU graphs of " + listed(cpu_stages) : std::string());
    bundle.check(bundle.manifest().stage_files(precision_, arranged));
    Progress progress(options, stages().size());
    for (const Stage &stage : stages()) {
        progress.before(stage.name);
        std::vector<std::string> paths = arranged ? bundle.cpu_files(stage.name) : std::vector<std::string>();
        if (paths.empty()) paths = {bundle.stage_file(stage.name, precision_)};
        add(stage.name, stage, paths);
        for (const auto &output : stage.outputs) {
            const std::string key = stage.name + ":" + output;
            std::vector<std::string> alone = arranged ? bundle.cpu_files(key) : std::vector<std::string>();
            if (alone.empty()) alone = {bundle.partial_file(stage.name, output, precision_)};
            if (!alone.front().empty()) add(key, {stage.name, stage.inputs, {output}}, alone);
        }
        options.write_log(SDIC_LOG_INFO, say("loaded the stage \"", stage.name, "\" from ", listed(paths)));
    }
}

OnnxRuntime::~OnnxRuntime() = default;

std::unique_ptr<Session> OnnxRuntime::load(const Stage &stage, const std::string &path, int threads) const {
    return std::make_unique<Session>(options_, stage, path, threads, bundle_path_);
}

void OnnxRuntime::add(const std::string &key, const Stage &stage, const std::vector<std::string> &paths) {
    if (paths.size() == 1) {
        sessions_[key] = load(stage, paths.front(), options_.threads);
        return;
    }
    const int threads = options_.threads > 0 ? options_.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    const int count = static_cast<int>(paths.size());
    std::vector<std::unique_ptr<Session>> sessions;
    for (const auto &path : paths) sessions.push_back(load(stage, path, std::max(1, threads / count)));
    bands_.emplace(key, Bands(stage, sizes_, std::move(sessions), std::min(threads, count), bundle_path_));
}

Tensors OnnxRuntime::run(const std::string &stage, const Tensors &inputs, const std::vector<std::string> &outputs) const {
    std::vector<View> sources, targets;
    std::int64_t batch = 0;
    for (const auto &[name, tensor] : inputs) {
        sources.push_back({name.c_str(), const_cast<float *>(tensor->data.data()), tensor->shape});  // only read
        batch = tensor->shape.at(0);
    }
    Tensors results;
    for (const auto &name : outputs) {
        auto tensor = std::make_shared<Tensor>(sizes_.shape(name, batch));
        targets.push_back({name.c_str(), tensor->data.data(), tensor->shape});
        results[name] = std::move(tensor);
    }
    const std::string alone = outputs.size() == 1 ? stage + ":" + outputs.front() : stage;
    const std::string &key = sessions_.count(alone) + bands_.count(alone) != 0 ? alone : stage;
    if (const auto bands = bands_.find(key); bands != bands_.end()) {
        bands->second.run(sources, targets);
    } else {
        sessions_.at(key)->run(sources, targets);
    }
    return results;
}

}  // namespace sdic_internal
