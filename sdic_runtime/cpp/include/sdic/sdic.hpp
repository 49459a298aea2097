// libsdic for C++17: handles that free themselves, and exceptions. See sdic.h for the rules on threads and memory.
//
//     sdic::Pipeline pipeline("engines/ffhq1024");
//     sdic::Result inversion = pipeline.invert({bytes, 800, 600});
//     sdic::Result edited = pipeline.edit(inversion, {"smile"}, {-2, 0, 2});
//     std::vector<std::uint8_t> rgb = edited.picture(0);     // edited.width() * edited.height() * 3 bytes
#ifndef SDIC_SDIC_HPP
#define SDIC_SDIC_HPP

#include <cstdint>
#include <exception>
#include <functional>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sdic/sdic.h"

namespace sdic {

// What went wrong: the status, and the sentence of sdic_last_error as what().
class Error : public std::runtime_error {
public:
    Error(sdic_status status, const std::string &sentence) : std::runtime_error(sentence), status_(status) {}
    sdic_status status() const noexcept { return status_; }

private:
    sdic_status status_;
};

namespace detail {

inline void check(sdic_status status) {
    if (status != SDIC_OK) throw Error(status, sdic_last_error());
}

template <typename Handle, void (*release)(Handle *)>
struct Release {
    void operator()(Handle *handle) const noexcept { release(handle); }
};

}  // namespace detail

// A picture of the caller, which must stay alive during the call: see sdic_image.
struct Image {
    const std::uint8_t *pixels = nullptr;
    std::int32_t width = 0, height = 0;
    std::int32_t channels = 3;
    std::size_t stride = 0;
    std::string name = {};
};

// A tensor of a handle: contiguous float32, alive as long as the handle.
struct Tensor {
    const float *data = nullptr;
    std::vector<std::int64_t> shape;
};

// One part of an edit: see sdic_edit_part.
class Part {
public:
    // A direction of the bundle.
    Part(std::string direction, float weight = 1) : direction_(std::move(direction)) { raw_.weight = weight; }
    Part(const char *direction, float weight = 1) : Part(std::string(direction), weight) {}
    // A direction of the caller, [rows, vector.size() / rows].
    Part(std::vector<float> vector, std::int64_t rows, float weight = 1) : vector_(std::move(vector)) {
        raw_.rows = rows;
        raw_.width = rows > 0 ? static_cast<std::int64_t>(vector_.size()) / rows : 0;
        raw_.weight = weight;
    }
    // A move along one component of a PCA basis of the bundle, on the style rows first_row .. end_row - 1.
    static Part ganspace(std::string basis, std::int32_t component, std::int32_t first_row, std::int32_t end_row, float sigma,
                         sdic_edit_kind kind = SDIC_EDIT_GANSPACE_SET) {
        Part part(std::move(basis));
        part.raw_.kind = kind;
        part.raw_.component = component;
        part.raw_.first_row = first_row;
        part.raw_.end_row = end_row;
        part.raw_.sigma = sigma;
        return part;
    }

    // Points into this object.
    sdic_edit_part raw() const {
        sdic_edit_part part = raw_;
        if (vector_.empty()) part.direction = direction_.c_str();
        else part.vector = vector_.data();
        return part;
    }

private:
    static sdic_edit_part defaults() {
        sdic_edit_part part;
        sdic_edit_part_default(&part);
        return part;
    }

    std::string direction_;
    std::vector<float> vector_;
    sdic_edit_part raw_ = defaults();
};

// A further input of an edit, which must stay alive during the call: see sdic_extra.
struct Extra {
    std::string name;
    const float *data = nullptr;
    std::size_t count = 0;
};

// N pictures and their tensors: an inversion, or edited pictures. May be moved, not copied.
class Result {
public:
    // The inversion in a file.
    static Result load(const std::string &path) {
        sdic_result *handle = nullptr;
        detail::check(sdic_inversion_load(path.c_str(), &handle));
        return Result(handle);
    }
    explicit Result(sdic_result *handle) : handle_(handle) {}

    // Only an inversion can be saved.
    void save(const std::string &path) const { detail::check(sdic_inversion_save(get(), path.c_str())); }
    std::size_t size() const { return sdic_result_count(get()); }
    std::int32_t width() const { return dimension().first; }
    std::int32_t height() const { return dimension().second; }
    std::string name(std::size_t index) const {
        const char *text = sdic_result_name(get(), index);
        return text != nullptr ? text : "";
    }
    // 8-bit RGB, rows from top to bottom.
    std::vector<std::uint8_t> picture(std::size_t index) const {
        const auto [columns, rows] = dimension();
        std::vector<std::uint8_t> pixels(static_cast<std::size_t>(columns) * static_cast<std::size_t>(rows) * 3);
        detail::check(sdic_result_picture(get(), index, pixels.data(), pixels.size()));
        return pixels;
    }
    Tensor tensor(const std::string &name) const {
        sdic_view view{};
        detail::check(sdic_result_tensor(get(), name.c_str(), &view));
        return {view.data, {view.shape, view.shape + view.rank}};
    }
    const sdic_result *get() const noexcept { return handle_.get(); }

private:
    std::pair<std::int32_t, std::int32_t> dimension() const {
        std::int32_t width = 0, height = 0;
        detail::check(sdic_result_size(get(), &width, &height));
        return {width, height};
    }

    std::unique_ptr<sdic_result, detail::Release<sdic_result, sdic_result_free>> handle_;
};

// How a bundle is opened: see sdic_open_params. What `progress` throws reaches the caller of the function that was running.
struct Options {
    std::string precision = {};
    std::string provider = "cpu";
    std::int32_t device = 0, threads = 0;
    bool tf32 = false;
    bool verify = true;
    std::string onnxruntime_library = {};
    std::function<void(sdic_log_level level, const char *message)> log = {};
    std::function<bool(const char *stage, std::size_t done, std::size_t total)> progress = {};  // false: stop
};

// A loaded bundle. May be moved, not copied; may be used by several threads.
class Pipeline {
public:
    explicit Pipeline(const std::string &bundle, Options options = {}) : options_(std::make_unique<Options>(std::move(options))) {
        sdic_open_params params;
        sdic_open_params_default(&params);
        params.precision = options_->precision.empty() ? nullptr : options_->precision.c_str();
        params.provider = options_->provider.c_str();
        params.device = options_->device;
        params.threads = options_->threads;
        params.tf32 = options_->tf32 ? 1 : 0;
        params.verify = options_->verify ? 1 : 0;
        params.onnxruntime_library = options_->onnxruntime_library.empty() ? nullptr : options_->onnxruntime_library.c_str();
        params.log = options_->log ? forward_log : nullptr;
        params.progress = options_->progress ? forward_progress : nullptr;
        params.user_data = options_.get();
        sdic_pipeline *handle = nullptr;
        finish(sdic_open(bundle.c_str(), &params, &handle));
        handle_.reset(handle);
    }
    Pipeline(Pipeline &&other) noexcept = default;
    Pipeline &operator=(Pipeline &&other) noexcept {
        Pipeline taken(std::move(other));
        std::swap(options_, taken.options_);
        std::swap(handle_, taken.handle_);
        return *this;  // what was here before goes with `taken`: the handle first, then what its callbacks point at
    }

    Result invert(const Image &image) { return invert(std::vector<Image>{image}); }

    // Several pictures, `batch` at a time; 0: as sdic_invert says.
    Result invert(const std::vector<Image> &images, std::size_t batch = 0) {
        std::vector<sdic_image> raw;
        for (const Image &image : images) raw.push_back({image.pixels, image.width, image.height, image.channels, image.stride, image.name.c_str()});
        sdic_result *handle = nullptr;
        finish(sdic_invert(get(), raw.data(), raw.size(), batch, &handle));
        return Result(handle);
    }

    // Pictures that are prepared already: [count, 3, S, S] in [-1, 1].
    Result invert(const float *images, std::size_t count, std::size_t batch = 0) {
        sdic_result *handle = nullptr;
        finish(sdic_invert_tensor(get(), images, count, batch, &handle));
        return Result(handle);
    }

    // N pictures and M strengths give N * M pictures, all strengths of the first picture first. `move`: the form of editing, see
    // sdic_edit_params; "" for the bundle's first. `extras`: what the move takes besides, see sdic_extra.
    Result edit(const Result &inversion, const std::vector<Part> &parts, const std::vector<float> &strengths = {1.0f},
                const std::string &move = "", std::size_t batch = 0, const std::vector<Extra> &extras = {}) {
        std::vector<sdic_edit_part> raw;
        for (const Part &part : parts) raw.push_back(part.raw());
        std::vector<sdic_extra> further(extras.size());
        for (std::size_t i = 0; i < extras.size(); ++i) {
            sdic_extra_default(&further[i]);
            further[i].name = extras[i].name.c_str();
            further[i].data = extras[i].data;
            further[i].count = extras[i].count;
        }
        static const float none = 0;  // a list without strengths must not pass for "not given"
        sdic_edit_params params;
        sdic_edit_params_default(&params);
        params.parts = raw.data();
        params.part_count = raw.size();
        params.strengths = strengths.empty() ? &none : strengths.data();
        params.strength_count = strengths.size();
        params.move = move.empty() ? nullptr : move.c_str();
        params.batch = batch;
        params.extras = further.data();
        params.extra_count = further.size();
        sdic_result *handle = nullptr;
        finish(sdic_edit(get(), inversion.get(), &params, &handle));
        return Result(handle);
    }

    // The program "baseline", where the bundle has one: see sdic_baseline.
    Result baseline(const Result &inversion, std::size_t batch = 0) {
        sdic_result *handle = nullptr;
        finish(sdic_baseline(get(), inversion.get(), batch, &handle));
        return Result(handle);
    }

    sdic_info info() const {
        sdic_info info;
        sdic_info_default(&info);
        detail::check(sdic_pipeline_info(handle_.get(), &info));
        return info;
    }

    // What a letter stands for in shapes.
    std::int32_t size(const std::string &letter) const {
        std::int32_t value = 0;
        detail::check(sdic_pipeline_size(handle_.get(), letter.c_str(), &value));
        return value;
    }

    // The shape that a tensor of the method has for one picture.
    std::vector<std::int64_t> shape(const std::string &tensor) const {
        std::int64_t axes[8] = {};
        std::int32_t rank = 0;
        detail::check(sdic_pipeline_shape(handle_.get(), tensor.c_str(), axes, &rank));
        return {axes, axes + rank};
    }

    std::vector<std::string> names(sdic_names list) const {
        std::vector<std::string> all;
        while (const char *name = sdic_pipeline_name(handle_.get(), list, all.size())) all.emplace_back(name);
        return all;
    }

    sdic_direction_info direction(const std::string &name) {
        sdic_direction_info info;
        sdic_direction_info_default(&info);
        detail::check(sdic_pipeline_direction(get(), name.c_str(), &info));
        return info;
    }

    sdic_pipeline *get() noexcept { return handle_.get(); }

private:
    // Exceptions must not travel through the C library: kept here, on the thread that called, until it has returned.
    static std::exception_ptr &pending() {
        static thread_local std::exception_ptr exception;
        return exception;
    }

    static void finish(sdic_status status) {
        if (const std::exception_ptr exception = std::exchange(pending(), nullptr)) std::rethrow_exception(exception);
        detail::check(status);
    }

    static int forward_progress(const char *stage, std::size_t done, std::size_t total, void *options) {
        try {
            return static_cast<const Options *>(options)->progress(stage, done, total) ? 0 : 1;
        } catch (...) {
            pending() = std::current_exception();
            return 1;
        }
    }

    static void forward_log(sdic_log_level level, const char *message, void *options) {
        try {
            static_cast<const Options *>(options)->log(level, message);
        } catch (...) {
            // Log lines may come from any thread, where nobody waits for an exception.
        }
    }

    std::unique_ptr<Options> options_;  // outlives the handle, whose callbacks point at it
    std::unique_ptr<sdic_pipeline, detail::Release<sdic_pipeline, sdic_close>> handle_;
};

}  // namespace sdic

#endif
