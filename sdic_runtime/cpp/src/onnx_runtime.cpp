#include "onnx_runtime.hpp"

#include <algorithm>
#include <thread>

#include "onnx_library.hpp"

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
        throw Error(SDIC_ERROR_CANCELLED, "stopped before stage run ", done_ + 1, " of ", total_, " (", stage, "), as the progress callback asked");
    }
    ++done_;
}

OnnxRuntime::OnnxRuntime(Bundle &bundle, const RunOptions &options) : options_(options), manifest_(bundle.manifest()), bundle_path_(bundle.path()) {
    const std::string precision = bundle.precision(options.precision);
    const auto provider = providers().find(options.provider);
    require_argument(provider != providers().end(), "the provider is \"", options.provider, "\"; use cpu, cuda, tensorrt or tensorrt-rtx");
    const OnnxLibrary &library = onnx_library(options.library);
    if (!contains(library.providers, provider->second)) {
        throw Error(SDIC_ERROR_PROVIDER, "the provider \"", options.provider, "\" is not in this ONNX Runtime ", library.version, ", which has: ",
                    listed(library.providers), "; name a library that was built with ", provider->second);
    }
    variants_ = {precision};
    Names optimized, files;
    if (options.provider == "cpu" && precision == kStandard) {
        variants_.insert(variants_.begin(), kOnnxRuntimeCpu);
        for (const auto &[key, variants] : manifest_.graphs) {
            if (variants.find(kOnnxRuntimeCpu)) optimized.push_back(key);
        }
        std::sort(optimized.begin(), optimized.end());
    }
    description_ = say("ONNX Runtime ", library.version, ", ", provider->second, ", ", precision,
                       optimized.empty() ? std::string() : ", CPU-optimized graphs of " + listed(optimized));
    // Whatever a program may ask a stage for: all of its outputs, or one alone.
    std::vector<std::pair<const Stage *, std::map<std::string, Graph>>> graphs;
    for (const Stage &stage : manifest_.stages) {
        std::map<std::string, Graph> own;
        const auto find = [&](const Names &outputs) {
            const Graph graph = manifest_.graph_for(stage.name, outputs, variants_);
            own[graph.key] = graph;
            for (const auto &file : manifest_.files_of(graph.files)) files.push_back(file);
        };
        find(stage.outputs);
        for (const auto &output : stage.outputs) find({output});
        graphs.emplace_back(&stage, std::move(own));
    }
    bundle.check(files);
    Progress progress(options, graphs.size());
    for (const auto &[stage, own] : graphs) {
        progress.before(stage->name);
        for (const auto &item : own) add(bundle, {stage->name, stage->inputs, item.second.outputs}, item.second);
    }
}

OnnxRuntime::~OnnxRuntime() = default;

std::unique_ptr<Session> OnnxRuntime::load(const Stage &stage, const std::string &path, int threads) const {
    return std::make_unique<Session>(options_, stage, path, threads, bundle_path_);
}

void OnnxRuntime::add(Bundle &bundle, const Stage &stage, const Graph &graph) {
    Names paths;
    for (const auto &file : graph.files) paths.push_back(bundle.file(file));
    options_.write_log(SDIC_LOG_INFO, say("loading \"", graph.key, "\" from ", listed(paths)));
    if (paths.size() == 1) {
        auto session = load(stage, paths.front(), options_.threads);
        session->check_shapes(manifest_, paths.front());
        if (!session->for_one()) {
            sessions_.emplace(graph.key, std::move(session));
            return;
        }
        std::vector<std::unique_ptr<Session>> one;
        one.push_back(std::move(session));
        bands_.emplace(graph.key, Bands(stage, manifest_, std::move(one), 1, bundle_path_));
        return;
    }
    const int threads = options_.threads > 0 ? options_.threads : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
    const int count = static_cast<int>(paths.size());
    std::vector<std::unique_ptr<Session>> sessions;
    for (const auto &path : paths) sessions.push_back(load(stage, path, std::max(1, threads / count)));
    bands_.emplace(graph.key, Bands(stage, manifest_, std::move(sessions), std::min(threads, count), bundle_path_));
}

Tensors OnnxRuntime::run(const std::string &stage, const Tensors &inputs, const Names &outputs) const {
    std::vector<View> sources, targets;
    std::int64_t batch = 0;
    for (const auto &[name, tensor] : inputs) {
        sources.push_back({name.c_str(), const_cast<float *>(tensor->data.data()), tensor->shape});  // only read
        batch = tensor->shape.at(0);
    }
    Tensors results;
    for (const auto &name : outputs) {
        auto tensor = std::make_shared<Tensor>(manifest_.shape(name, batch));
        targets.push_back({name.c_str(), tensor->data.data(), tensor->shape});
        results[name] = std::move(tensor);
    }
    const std::string key = manifest_.graph_for(stage, outputs, variants_).key;
    if (const auto bands = bands_.find(key); bands != bands_.end()) {
        bands->second.run(sources, targets);
    } else {
        sessions_.at(key)->run(sources, targets);
    }
    return results;
}

}  // namespace sdic_internal
