#include "onnx_session.hpp"

#include <algorithm>

#include "onnx_runtime.hpp"

namespace sdic_internal {

namespace {

// Owns an object of ONNX Runtime.
template <typename Object>
using Owned = std::unique_ptr<Object, void (*)(Object *)>;

template <typename Object>
Owned<Object> owned(Object *object, void (*release)(Object *)) {
    return Owned<Object>(object, release);
}

void ORT_API_CALL forward_log(void *options, OrtLoggingLevel severity, const char *category, const char *, const char *, const char *message) {
    try {
        const auto level = severity >= ORT_LOGGING_LEVEL_ERROR ? SDIC_LOG_ERROR : severity == ORT_LOGGING_LEVEL_WARNING ? SDIC_LOG_WARNING : SDIC_LOG_INFO;
        static_cast<const RunOptions *>(options)->write_log(level, say("ONNX Runtime (", category, "): ", message));
    } catch (...) {
        // A line of log is not worth more than what ONNX Runtime is doing.
    }
}

class SessionOptions {
public:
    // `threads`: those of one operation, as many as there are cores where it is 0.
    SessionOptions(const OnnxLibrary &library, const RunOptions &options, int threads) : library_(library), options_(options) {
        need(library.api->CreateSessionOptions(&handle_));
        need(library.api->SetSessionLogSeverityLevel(handle_, options.log ? ORT_LOGGING_LEVEL_WARNING : ORT_LOGGING_LEVEL_ERROR));
        need(library.api->SetUserLoggingFunction(handle_, forward_log, const_cast<RunOptions *>(&options)));
        // The sessions share the cores: a thread pool that spins after its run would slow down the next stage.
        entry("session.force_spinning_stop", "1");
        entry("session.use_env_allocators", "1");
        if (threads > 0) need(library.api->SetIntraOpNumThreads(handle_, threads));
        if (options.provider != "cpu") append_provider();
    }
    ~SessionOptions() { library_.api->ReleaseSessionOptions(handle_); }
    SessionOptions(const SessionOptions &) = delete;
    SessionOptions &operator=(const SessionOptions &) = delete;

    void entry(const char *key, const std::string &value) { need(library_.api->AddSessionConfigEntry(handle_, key, value.c_str())); }
    const OrtSessionOptions *get() const { return handle_; }

private:
    void need(OrtStatus *status) const {
        check(library_, status, "ONNX Runtime refuses its options", "install it again", options_.provider, SDIC_ERROR_PROVIDER);
    }

    // An execution provider that cannot start is an error here already; ONNX Runtime does not go on with the CPU.
    void append_provider() {
        const OrtApi &api = *library_.api;
        const std::string device = std::to_string(options_.device);
        const char *keys[] = {"device_id"};
        const char *values[] = {device.c_str()};
        const std::string what = say("ONNX Runtime could not start on \"", options_.provider, ":", device, "\"");
        const std::string remedy = "check the NVIDIA driver and the CUDA libraries, or use the provider \"cpu\"";
        const auto checked = [&](OrtStatus *status) { check(library_, status, what, remedy, options_.provider, SDIC_ERROR_PROVIDER); };
        if (options_.provider == "tensorrt-rtx") {
            checked(api.SessionOptionsAppendExecutionProvider(handle_, "NvTensorRTRTX", keys, values, 1));
            return;
        }
        if (options_.provider == "tensorrt") {
            OrtTensorRTProviderOptionsV2 *settings = nullptr;
            checked(api.CreateTensorRTProviderOptions(&settings));
            const auto keep = owned(settings, api.ReleaseTensorRTProviderOptions);
            checked(api.UpdateTensorRTProviderOptions(settings, keys, values, 1));
            checked(api.SessionOptionsAppendExecutionProvider_TensorRT_V2(handle_, settings));
        }
        // What TensorRT leaves over runs on CUDA.
        OrtCUDAProviderOptionsV2 *settings = nullptr;
        checked(api.CreateCUDAProviderOptions(&settings));
        const auto keep = owned(settings, api.ReleaseCUDAProviderOptions);
        const char *cuda_keys[] = {"device_id", "use_tf32"};
        // Without "TF32" ONNX Runtime keeps convolutions off the tensor cores in half precision too.
        const char *cuda_values[] = {device.c_str(), options_.tf32 || options_.precision != kStandard ? "1" : "0"};
        checked(api.UpdateCUDAProviderOptions(settings, cuda_keys, cuda_values, 2));
        checked(api.SessionOptionsAppendExecutionProvider_CUDA_V2(handle_, settings));
    }

    const OnnxLibrary &library_;
    const RunOptions &options_;
    OrtSessionOptions *handle_ = nullptr;
};

// The graph's tensors are those of the stage table, in float32 at the borders.
void check_borders(const std::map<std::string, Border> &found, const std::vector<std::string> &expected, const char *role, const Stage &stage,
                   const std::string &path) {
    bool right = found.size() == expected.size();
    for (const auto &name : expected) right = right && found.count(name) != 0 && found.at(name).is_float;
    if (right) return;
    std::vector<std::string> items;
    for (const auto &[name, border] : found) items.push_back(name + (border.is_float ? " tensor(float)" : " of another type"));
    throw Error(SDIC_ERROR_BUNDLE, path, " has the ", role, " ", listed(items, ""), " where the stage \"", stage.name, "\" has ",
                listed(expected), " in float32; build it again with: sdic-export build");
}

}  // namespace

std::size_t View::stride() const {
    return element_count(shape) / static_cast<std::size_t>(std::max<std::int64_t>(shape.front(), 1));
}

View View::one(std::size_t index) const {
    View view{name, data + index * stride(), shape};
    view.shape.front() = 1;
    return view;
}

Session::Session(const RunOptions &options, const Stage &stage, const std::string &path, int threads, const std::string &bundle)
    : library_(onnx_library(options.library)), options_(options), stage_(stage.name), bundle_(bundle), handle_(nullptr, library_.api->ReleaseSession) {
    const SessionOptions settings(library_, options, threads);
    const std::string what = say("the stage \"", stage.name, "\" could not be loaded from ", path);
    OrtSession *handle = nullptr;
    check(library_, library_.api->CreateSession(library_.environment, path.c_str(), settings.get(), &handle), what, "see: sdic-export verify " + bundle,
          options.provider);
    handle_.reset(handle);
    inputs_ = borders(true, what);
    outputs_ = borders(false, what);
    check_borders(inputs_, stage.inputs, "inputs", stage, path);
    check_borders(outputs_, stage.outputs, "outputs", stage, path);
}

Session::~Session() = default;

void Session::check_shapes(const Method &method, const std::string &path) const {
    for (const auto *borders : {&inputs_, &outputs_}) {
        for (const auto &[name, border] : *borders) {
            const Json expected = method.shape(name, 1);
            bool fits = border.shape.size() == expected.size();
            for (std::size_t axis = 1; fits && axis < expected.size(); ++axis) fits = !border.shape[axis].is_number() || border.shape[axis] == expected[axis];
            if (fits) continue;
            throw Error(SDIC_ERROR_BUNDLE, path, " has ", name, " as ", shown(border.shape), " where the bundle's sizes say ", shown(expected),
                        " for one picture; build it again with: sdic-export build");
        }
    }
}

bool Session::for_one() const {
    return std::any_of(inputs_.begin(), inputs_.end(), [](const auto &item) { return !item.second.shape.empty() && item.second.shape[0] == 1; });
}

std::map<std::string, Border> Session::borders(bool of_inputs, const std::string &what) const {
    const OrtApi &api = *library_.api;
    const auto need = [&](OrtStatus *status) { check(library_, status, what, "build it again with: sdic-export build", "cpu"); };
    OrtAllocator *allocator = nullptr;
    need(api.GetAllocatorWithDefaultOptions(&allocator));
    std::size_t count = 0;
    need(of_inputs ? api.SessionGetInputCount(handle_.get(), &count) : api.SessionGetOutputCount(handle_.get(), &count));
    std::map<std::string, Border> found;
    for (std::size_t i = 0; i < count; ++i) {
        char *name = nullptr;
        need(of_inputs ? api.SessionGetInputName(handle_.get(), i, allocator, &name) : api.SessionGetOutputName(handle_.get(), i, allocator, &name));
        const std::string text = name;
        if (OrtStatus *ignored = api.AllocatorFree(allocator, name)) api.ReleaseStatus(ignored);
        OrtTypeInfo *type = nullptr;
        need(of_inputs ? api.SessionGetInputTypeInfo(handle_.get(), i, &type) : api.SessionGetOutputTypeInfo(handle_.get(), i, &type));
        const auto keep = owned(type, api.ReleaseTypeInfo);
        const OrtTensorTypeAndShapeInfo *info = nullptr;
        need(api.CastTypeInfoToTensorInfo(type, &info));
        ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        Border &border = found[text];
        border.shape = Json::array();
        if (info == nullptr) continue;
        need(api.GetTensorElementType(info, &element));
        border.is_float = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        std::size_t rank = 0;
        need(api.GetDimensionsCount(info, &rank));
        Shape sizes(rank);
        std::vector<const char *> names(rank);
        need(api.GetDimensions(info, sizes.data(), rank));
        need(api.GetSymbolicDimensions(info, names.data(), rank));
        for (std::size_t axis = 0; axis < rank; ++axis) {
            const bool named = names[axis] != nullptr && *names[axis] != '\0';
            border.shape.push_back(sizes[axis] >= 0 ? Json(sizes[axis]) : named ? Json(names[axis]) : Json());
        }
    }
    return found;
}

void Session::run(const std::vector<View> &inputs, const std::vector<View> &outputs) const {
    const OrtApi &api = *library_.api;
    const auto need = [&](OrtStatus *status) {
        check(library_, status, say("the stage \"", stage_, "\" failed"), "see: sdic-export verify " + bundle_, options_.provider);
    };
    OrtMemoryInfo *memory = nullptr;
    need(api.CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory));
    const auto keep_memory = owned(memory, api.ReleaseMemoryInfo);
    std::vector<Owned<OrtValue>> values;
    // ONNX Runtime reads and writes our own memory: nothing is copied on the CPU.
    const auto wrap = [&](const View &view) {
        OrtValue *value = nullptr;
        need(api.CreateTensorWithDataAsOrtValue(memory, view.data, element_count(view.shape) * sizeof(float), view.shape.data(), view.shape.size(),
                                                ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
        values.push_back(owned(value, api.ReleaseValue));
        return value;
    };
    std::vector<const char *> input_names, output_names;
    std::vector<const OrtValue *> input_values;
    std::vector<OrtValue *> output_values;
    for (const auto &view : inputs) {
        input_names.push_back(view.name);
        input_values.push_back(wrap(view));
    }
    for (const auto &view : outputs) {
        output_names.push_back(view.name);
        output_values.push_back(wrap(view));
    }
    need(api.Run(handle_.get(), nullptr, input_names.data(), input_values.data(), input_values.size(), output_names.data(), output_names.size(),
                 output_values.data()));
}

}  // namespace sdic_internal
