// The C functions: every one catches what is thrown behind it and keeps its sentence for sdic_last_error.
#include <algorithm>
#include <cstring>
#include <new>

#include "errors.hpp"
#include "pipeline.hpp"

using namespace sdic_internal;

struct sdic_pipeline {
    Pipeline pipeline;
    std::vector<std::string> directions;
};
struct sdic_inversion {
    Inversion inversion;
};
struct sdic_edited {
    Pictures pictures;
};

namespace {

// No allocation, so that running out of memory can still be told.
thread_local char last_error[4096];

sdic_status fail(sdic_status status, const char *sentence) noexcept {
    std::strncpy(last_error, sentence, sizeof last_error - 1);
    return status;
}

template <typename Work>
sdic_status guarded(Work work) noexcept {
    last_error[0] = '\0';
    try {
        work();
        return SDIC_OK;
    } catch (const Error &error) {
        return fail(error.status(), error.what());
    } catch (const std::bad_alloc &) {
        return fail(SDIC_ERROR_MEMORY, "there is not enough memory; use a smaller batch");
    } catch (const std::exception &error) {
        last_error[0] = '\0';
        std::strncat(last_error, "libsdic failed unexpectedly, please report it: ", sizeof last_error - 1);
        std::strncat(last_error, error.what(), sizeof last_error - 1 - std::strlen(last_error));
        return SDIC_ERROR_INTERNAL;
    } catch (...) {
        return fail(SDIC_ERROR_INTERNAL, "libsdic failed unexpectedly; please report it");
    }
}

void need(const void *pointer, const char *what) {
    if (pointer == nullptr) throw Error(SDIC_ERROR_ARGUMENT, say(what, " is NULL; give one"));
}

// Structures grow at their end: an older program hands in a shorter one, and the rest keeps its default.
template <typename Params>
Params complete(const Params *given, void (*set_default)(Params *), const char *name) {
    Params params;
    set_default(&params);
    if (given == nullptr) return params;
    if (given->struct_size == 0 || given->struct_size > sizeof params) {
        throw Error(SDIC_ERROR_ARGUMENT, say(name, " has a struct_size of ", given->struct_size, "; call ", name, "_default before filling it in"));
    }
    std::memcpy(&params, given, given->struct_size);
    params.struct_size = sizeof params;
    return params;
}

std::string text_or(const char *text, const char *otherwise) { return text != nullptr ? text : otherwise; }

void give_size(const Pictures &pictures, int32_t *width, int32_t *height) {
    const Model &model = pictures.model;
    if (width != nullptr) *width = static_cast<int32_t>(model.sizes.resolution);
    if (height != nullptr) *height = static_cast<int32_t>(model.visible_rows.second - model.visible_rows.first);
}

void give_picture(const Pictures &pictures, std::size_t index, uint8_t *pixels, std::size_t bytes) {
    need(pixels, "the place for the picture");
    if (index >= pictures.count()) throw Error(SDIC_ERROR_ARGUMENT, say("there is no picture ", index, "; there are ", pictures.count(), ", counted from 0"));
    int32_t width = 0, height = 0;
    give_size(pictures, &width, &height);
    const std::size_t needed = static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3;
    if (bytes < needed) throw Error(SDIC_ERROR_ARGUMENT, say("the place for the picture has ", bytes, " bytes; ", needed, " are needed"));
    to_bytes(*pictures.tensors.at("pixels"), index, pictures.model.visible_rows, pixels);
}

void give_tensor(const Pictures &pictures, const char *name, sdic_view *view) {
    need(name, "the tensor's name");
    need(view, "the view");
    const auto found = pictures.tensors.find(name);
    if (found == pictures.tensors.end()) {
        std::vector<std::string> names;
        for (const auto &[known, tensor] : pictures.tensors) names.push_back(known);
        throw Error(SDIC_ERROR_ARGUMENT, say("there is no tensor \"", name, "\"; there are: ", listed(names)));
    }
    sdic_view filled = {};
    filled.data = found->second->data.data();
    filled.rank = static_cast<int32_t>(found->second->shape.size());
    std::copy(found->second->shape.begin(), found->second->shape.end(), filled.shape);
    *view = filled;
}

sdic_status deliver_inversion(Inversion inversion, sdic_inversion **out) {
    *out = new sdic_inversion{std::move(inversion)};
    return SDIC_OK;
}

// The parts of an edit, brought to this version's size one by one: their stride is the size the caller compiled with.
std::vector<sdic_edit_part> complete_parts(const sdic_edit_part *parts, std::size_t count) {
    std::vector<sdic_edit_part> all;
    const auto *place = reinterpret_cast<const char *>(parts);
    for (std::size_t i = 0; parts != nullptr && i < count; ++i) {
        const auto *part = reinterpret_cast<const sdic_edit_part *>(place);
        all.push_back(complete(part, sdic_edit_part_default, "sdic_edit_part"));
        place += part->struct_size;
    }
    return all;
}

}  // namespace

const char *sdic_version(void) { return SDIC_VERSION; }

const char *sdic_last_error(void) { return last_error; }

void sdic_open_params_default(sdic_open_params *params) {
    if (params == nullptr) return;
    *params = sdic_open_params{};
    params->struct_size = sizeof *params;
    params->provider = "cpu";
    params->verify = 1;
}

sdic_status sdic_open(const char *bundle, const sdic_open_params *params, sdic_pipeline **out) {
    return guarded([&] {
        need(bundle, "the bundle's path");
        need(out, "the place for the pipeline");
        const sdic_open_params given = complete(params, sdic_open_params_default, "sdic_open_params");
        if (given.threads < 0) throw Error(SDIC_ERROR_ARGUMENT, say("threads is ", given.threads, "; give a whole number of at least 1, or 0 for all cores"));
        if (given.device < 0) throw Error(SDIC_ERROR_ARGUMENT, say("the device is ", given.device, "; give the number of a GPU, counted from 0"));
        RunOptions options;
        options.precision = text_or(given.precision, "");
        options.provider = text_or(given.provider, "cpu");
        options.library = text_or(given.onnxruntime_library, "");
        options.device = given.device;
        options.threads = given.threads;
        options.tf32 = given.tf32 != 0;
        options.log = given.log;
        options.progress = given.progress;
        options.user_data = given.user_data;
        auto pipeline = std::unique_ptr<sdic_pipeline>(new sdic_pipeline{Pipeline(bundle, options, given.verify != 0), {}});
        for (const auto &[name, file] : pipeline->pipeline.bundle().manifest().directions) pipeline->directions.push_back(name);
        *out = pipeline.release();
    });
}

void sdic_close(sdic_pipeline *pipeline) { delete pipeline; }

void sdic_info_default(sdic_info *info) {
    if (info == nullptr) return;
    *info = sdic_info{};
    info->struct_size = sizeof *info;
}

sdic_status sdic_pipeline_info(const sdic_pipeline *pipeline, sdic_info *info) {
    return guarded([&] {
        need(pipeline, "the pipeline");
        need(info, "the info");
        sdic_info filled = complete(info, sdic_info_default, "sdic_info");
        const Manifest &manifest = pipeline->pipeline.bundle().manifest();
        filled.name = manifest.name.c_str();
        filled.domain = manifest.domain.c_str();
        filled.licence = manifest.licence.c_str();
        filled.description = pipeline->pipeline.description().c_str();
        filled.resolution = static_cast<int32_t>(manifest.sizes.resolution);
        filled.working = static_cast<int32_t>(manifest.sizes.working);
        filled.rows = static_cast<int32_t>(manifest.sizes.rows);
        filled.style_width = static_cast<int32_t>(manifest.sizes.style_width);
        filled.feature_channels = static_cast<int32_t>(manifest.sizes.feature_channels);
        filled.picture_width = filled.resolution;
        filled.picture_height = static_cast<int32_t>(manifest.visible_rows.second - manifest.visible_rows.first);
        filled.struct_size = info->struct_size;
        std::memcpy(info, &filled, info->struct_size);
    });
}

size_t sdic_direction_count(const sdic_pipeline *pipeline) { return pipeline != nullptr ? pipeline->directions.size() : 0; }

const char *sdic_direction_name(const sdic_pipeline *pipeline, size_t index) {
    return index < sdic_direction_count(pipeline) ? pipeline->directions[index].c_str() : nullptr;
}

sdic_status sdic_invert(sdic_pipeline *pipeline, const sdic_image *images, size_t count, size_t batch, sdic_inversion **out) {
    return guarded([&] {
        need(pipeline, "the pipeline");
        need(out, "the place for the inversion");
        if (count == 0) throw Error(SDIC_ERROR_ARGUMENT, "the list of pictures is empty; give at least one");
        need(images, "the list of pictures");
        const Model &model = pipeline->pipeline.model();
        std::vector<std::string> names;
        for (std::size_t i = 0; i < count; ++i) names.push_back(text_or(images[i].name, ""));
        deliver_inversion(pipeline->pipeline.invert(prepared(images, count, model.sizes, model.visible_rows), std::move(names), batch), out);
    });
}

sdic_status sdic_invert_tensor(sdic_pipeline *pipeline, const float *images, size_t count, size_t batch, sdic_inversion **out) {
    return guarded([&] {
        need(pipeline, "the pipeline");
        need(out, "the place for the inversion");
        if (count == 0) throw Error(SDIC_ERROR_ARGUMENT, "the list of pictures is empty; give at least one");
        need(images, "the list of pictures");
        const TensorPtr image = prepared(images, count, pipeline->pipeline.model().sizes);
        deliver_inversion(pipeline->pipeline.invert(image, std::vector<std::string>(count), batch), out);
    });
}

sdic_status sdic_inversion_save(const sdic_inversion *inversion, const char *path) {
    return guarded([&] {
        need(inversion, "the inversion");
        need(path, "the path");
        inversion->inversion.save(path);
    });
}

sdic_status sdic_inversion_load(const char *path, sdic_inversion **out) {
    return guarded([&] {
        need(path, "the path");
        need(out, "the place for the inversion");
        deliver_inversion(Inversion::load(path), out);
    });
}

void sdic_inversion_free(sdic_inversion *inversion) { delete inversion; }

size_t sdic_inversion_count(const sdic_inversion *inversion) { return inversion != nullptr ? inversion->inversion.count() : 0; }

const char *sdic_inversion_name(const sdic_inversion *inversion, size_t index) {
    return index < sdic_inversion_count(inversion) ? inversion->inversion.names[index].c_str() : nullptr;
}

void sdic_edit_part_default(sdic_edit_part *part) {
    if (part == nullptr) return;
    *part = sdic_edit_part{};
    part->struct_size = sizeof *part;
    part->weight = 1;
}

void sdic_edit_params_default(sdic_edit_params *params) {
    if (params == nullptr) return;
    *params = sdic_edit_params{};
    params->struct_size = sizeof *params;
}

sdic_status sdic_edit(sdic_pipeline *pipeline, const sdic_inversion *inversion, const sdic_edit_params *params, sdic_edited **out) {
    return guarded([&] {
        need(pipeline, "the pipeline");
        need(inversion, "the inversion");
        need(params, "the edit's params");
        need(out, "the place for the edited pictures");
        sdic_edit_params given = complete(params, sdic_edit_params_default, "sdic_edit_params");
        const auto parts = complete_parts(given.parts, given.part_count);
        given.parts = parts.data();
        given.part_count = parts.size();
        *out = new sdic_edited{pipeline->pipeline.edit(inversion->inversion, given)};
    });
}

sdic_status sdic_baseline(sdic_pipeline *pipeline, const sdic_inversion *inversion, size_t batch, sdic_edited **out) {
    return guarded([&] {
        need(pipeline, "the pipeline");
        need(inversion, "the inversion");
        need(out, "the place for the pictures");
        *out = new sdic_edited{pipeline->pipeline.baseline(inversion->inversion, batch)};
    });
}

void sdic_edited_free(sdic_edited *edited) { delete edited; }

size_t sdic_edited_count(const sdic_edited *edited) { return edited != nullptr ? edited->pictures.count() : 0; }

sdic_status sdic_inversion_size(const sdic_inversion *inversion, int32_t *width, int32_t *height) {
    return guarded([&] {
        need(inversion, "the inversion");
        give_size(inversion->inversion, width, height);
    });
}

sdic_status sdic_edited_size(const sdic_edited *edited, int32_t *width, int32_t *height) {
    return guarded([&] {
        need(edited, "the edited pictures");
        give_size(edited->pictures, width, height);
    });
}

sdic_status sdic_inversion_picture(const sdic_inversion *inversion, size_t index, uint8_t *pixels, size_t bytes) {
    return guarded([&] {
        need(inversion, "the inversion");
        give_picture(inversion->inversion, index, pixels, bytes);
    });
}

sdic_status sdic_edited_picture(const sdic_edited *edited, size_t index, uint8_t *pixels, size_t bytes) {
    return guarded([&] {
        need(edited, "the edited pictures");
        give_picture(edited->pictures, index, pixels, bytes);
    });
}

sdic_status sdic_inversion_tensor(const sdic_inversion *inversion, const char *name, sdic_view *view) {
    return guarded([&] {
        need(inversion, "the inversion");
        give_tensor(inversion->inversion, name, view);
    });
}

sdic_status sdic_edited_tensor(const sdic_edited *edited, const char *name, sdic_view *view) {
    return guarded([&] {
        need(edited, "the edited pictures");
        give_tensor(edited->pictures, name, view);
    });
}
