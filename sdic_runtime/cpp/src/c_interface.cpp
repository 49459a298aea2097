// The C functions: every one catches what is thrown behind it and keeps its sentence for sdic_last_error.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "pipeline.hpp"

using namespace sdic_internal;

struct sdic_pipeline {
    Pipeline pipeline;
    std::vector<Names> lists;  // by sdic_names
};
struct sdic_result {
    Result result;
};

namespace {

// No allocation, so that running out of memory can still be told.
thread_local char last_error[4096];

constexpr std::size_t kLongestSentence = 400, kSentenceEnd = 150;  // bytes of a sentence, and of its end, which says what to do

bool continues(char byte) noexcept { return (static_cast<unsigned char>(byte) & 0xC0) == 0x80; }  // a character of UTF-8

// The bytes of the printable character of UTF-8 that begins at `text`, which ends with a zero; 0 where none does.
std::size_t printable(const char *text) noexcept {
    const auto lead = static_cast<unsigned char>(*text);
    if (lead < 0x80) return lead < 0x20 || lead == 0x7F ? 0 : 1;
    const std::size_t count = lead >= 0xF0 && lead < 0xF5 ? 4 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xC2 && lead < 0xE0 ? 2 : 0;
    for (std::size_t i = 1; i < count; ++i) {
        if (!continues(text[i])) return 0;
    }
    const auto next = static_cast<unsigned char>(text[1]), third = static_cast<unsigned char>(count > 2 ? text[2] : 0);
    const bool surrogate = lead == 0xED && next >= 0xA0, control = lead == 0xC2 && next <= 0xA0;
    const bool longer = (lead == 0xE0 && next < 0xA0) || (lead == 0xF0 && next < 0x90) || (lead == 0xF4 && next >= 0x90);
    const bool invisible = (lead == 0xE2 && next == 0x80) || (lead == 0xE2 && next == 0x81 && third >= 0x9F) || lead == 0xEE ||
                           (lead == 0xEF && (next >= 0xBF || next < 0xA4)) || lead >= 0xF3;
    return surrogate || control || longer || invisible ? 0 : count;
}

// Keeps a sentence in one line that a terminal can show, without control codes; of a long one the middle is omitted.
sdic_status fail(sdic_status status, const char *sentence) noexcept {
    std::size_t length = std::strlen(sentence), out = 0, first = length, last = length;
    if (length > kLongestSentence) {
        first = kLongestSentence - kSentenceEnd - 5;
        last = length - kSentenceEnd;
        while (first > 0 && continues(sentence[first])) --first;
        while (last < length && continues(sentence[last])) ++last;
    }
    const auto copy = [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end;) {
            const std::size_t count = printable(sentence + i);
            if (count == 0) last_error[out++] = '?';
            for (std::size_t k = 0; k < count; ++k) last_error[out++] = sentence[i + k];
            i += count == 0 ? 1 : count;
        }
    };
    copy(0, first);
    if (last < length || first < length) {
        std::memcpy(last_error + out, " ... ", 5);
        out += 5;
        copy(last, length);
    }
    last_error[out] = '\0';
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
        char sentence[512];
        std::snprintf(sentence, sizeof sentence, "libsdic failed unexpectedly, please report it: %s", error.what());
        return fail(SDIC_ERROR_INTERNAL, sentence);
    } catch (...) {
        return fail(SDIC_ERROR_INTERNAL, "libsdic failed unexpectedly; please report it");
    }
}

// Pointers that must not be NULL, with their names.
void need(std::initializer_list<std::pair<const void *, const char *>> pointers) {
    for (const auto &[pointer, what] : pointers) {
        require_argument(pointer != nullptr, what, " is NULL; give one");
    }
}

// What `start` below writes must fit into the structure that the program was compiled with, so sizes belong to the SONAME: whoever changes
// one raises SDIC_ABI in CMakeLists.txt, and both numbers here.
template <typename Structure, std::size_t size>
constexpr bool is_of_abi_1 = SDIC_ABI == 1 && (sizeof(Structure) == size || sizeof(void *) != 8);
static_assert(is_of_abi_1<sdic_open_params, 72>, "sdic_open_params has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_info, 72>, "sdic_info has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_direction_info, 32>, "sdic_direction_info has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_image, 40>, "sdic_image has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_edit_part, 72>, "sdic_edit_part has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_extra, 32>, "sdic_extra has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_edit_params, 72>, "sdic_edit_params has another size: it needs another SDIC_ABI");
static_assert(is_of_abi_1<sdic_view, 80>, "sdic_view has another size: it needs another SDIC_ABI");

// Zeros and the size, where there is a structure.
template <typename Params>
bool start(Params *params) {
    if (params == nullptr) return false;
    *params = Params{};
    params->struct_size = sizeof *params;
    return true;
}

// A program that fills a structure by hand may leave out its end, and the rest keeps its default. Not so for one that calls `_default`.
template <typename Params>
Params complete(const Params *given, void (*set_default)(Params *), const char *name) {
    Params params;
    set_default(&params);
    if (given == nullptr) return params;
    if (given->struct_size == 0 || given->struct_size > sizeof params) {
        throw Error(SDIC_ERROR_ARGUMENT, name, " has a struct_size of ", given->struct_size, "; call ", name, "_default before filling it in");
    }
    std::memcpy(&params, given, given->struct_size);
    params.struct_size = sizeof params;
    return params;
}

std::string text_or(const char *text, const char *otherwise) { return text != nullptr ? text : otherwise; }

// `filled`, the caller's structure brought to this version's size, back into as much of it as there is.
template <typename Params>
void give_back(Params filled, Params *place) {
    filled.struct_size = place->struct_size;
    std::memcpy(place, &filled, place->struct_size);
}

int32_t height_of(const Rows &visible) { return static_cast<int32_t>(visible.second - visible.first); }

void need_pictures(const void *images, std::size_t count) {
    require_argument(count > 0, "the list of pictures is empty; give at least one");
    need({{images, "the list of pictures"}});
}

// An array of structures, brought to this version's size one by one: their stride is the size the caller compiled with.
template <typename Params>
std::vector<Params> complete_all(const Params *parts, std::size_t count, void (*set_default)(Params *), const char *name) {
    std::vector<Params> all;
    const auto *place = reinterpret_cast<const char *>(parts);
    for (std::size_t i = 0; parts != nullptr && i < count; ++i) {
        const auto *part = reinterpret_cast<const Params *>(place);
        all.push_back(complete(part, set_default, name));
        place += part->struct_size;
    }
    return all;
}

}  // namespace

const char *sdic_version(void) { return SDIC_VERSION; }

const char *sdic_last_error(void) { return last_error; }

void sdic_open_params_default(sdic_open_params *params) {
    if (!start(params)) return;
    params->provider = "cpu";
    params->verify = 1;
}

sdic_status sdic_open(const char *bundle, const sdic_open_params *params, sdic_pipeline **out) {
    return guarded([&] {
        need({{bundle, "the bundle's path"}, {out, "the place for the pipeline"}});
        const sdic_open_params given = complete(params, sdic_open_params_default, "sdic_open_params");
        require_argument(given.threads >= 0, "threads is ", given.threads, "; give a whole number of at least 1, or 0 for all cores");
        require_argument(given.device >= 0, "the device is ", given.device, "; give the number of a GPU, counted from 0");
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
        const Manifest &manifest = pipeline->pipeline.manifest();
        pipeline->lists = {keys_of(manifest.directions), keys_of(manifest.moves), keys_of(manifest.programs), manifest.keeps, keys_of(manifest.sizes), {}};
        for (const auto &[name, move] : manifest.moves) {
            for (const auto &extra : manifest.programs.find(move.program)->zeros) {
                if (Names &extras = pipeline->lists.back(); !contains(extras, extra)) extras.push_back(extra);
            }
        }
        *out = pipeline.release();
    });
}

void sdic_close(sdic_pipeline *pipeline) { delete pipeline; }

void sdic_info_default(sdic_info *info) { start(info); }

sdic_status sdic_pipeline_info(const sdic_pipeline *pipeline, sdic_info *info) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {info, "the info"}});
        sdic_info filled = complete(info, sdic_info_default, "sdic_info");
        const Manifest &manifest = pipeline->pipeline.manifest();
        filled.name = manifest.name.c_str();
        filled.method = manifest.method.c_str();
        filled.domain = manifest.domain.c_str();
        filled.licence = manifest.licence.c_str();
        filled.identity = pipeline->pipeline.model().identity.c_str();
        filled.description = pipeline->pipeline.description().c_str();
        filled.resolution = filled.picture_width = static_cast<int32_t>(manifest.size("R"));
        filled.working = static_cast<int32_t>(manifest.size("S"));
        filled.picture_height = height_of(manifest.visible_rows);
        give_back(filled, info);
    });
}

sdic_status sdic_pipeline_size(const sdic_pipeline *pipeline, const char *letter, int32_t *value) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {letter, "the letter"}, {value, "the place for the size"}});
        const Sizes &sizes = pipeline->pipeline.manifest().sizes;
        const std::int64_t *size = sizes.find(letter);
        require_argument(size != nullptr, "there is no size \"", letter, "\"; there are: ", listed(keys_of(sizes)));
        *value = static_cast<int32_t>(*size);
    });
}

sdic_status sdic_pipeline_shape(const sdic_pipeline *pipeline, const char *tensor, int64_t shape[8], int32_t *rank) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {tensor, "the tensor's name"}, {shape, "the place for the shape"}, {rank, "the place for its rank"}});
        const Manifest &manifest = pipeline->pipeline.manifest();
        require_argument(manifest.tensors.find(tensor), "there is no tensor \"", tensor, "\"; there are: ", listed(keys_of(manifest.tensors)));
        const Shape found = manifest.shape(tensor, 1);
        std::copy(found.begin(), found.end(), shape);
        *rank = static_cast<int32_t>(found.size());
    });
}

const char *sdic_pipeline_name(const sdic_pipeline *pipeline, sdic_names list, size_t index) {
    if (pipeline == nullptr || static_cast<std::size_t>(list) >= pipeline->lists.size()) return nullptr;
    const Names &names = pipeline->lists[static_cast<std::size_t>(list)];
    return index < names.size() ? names[index].c_str() : nullptr;
}

void sdic_direction_info_default(sdic_direction_info *info) { start(info); }

sdic_status sdic_pipeline_direction(sdic_pipeline *pipeline, const char *name, sdic_direction_info *info) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {name, "the direction's name"}, {info, "the info"}});
        sdic_direction_info filled = complete(info, sdic_direction_info_default, "sdic_direction_info");
        const auto direction = pipeline->pipeline.directions().get(name);
        filled.kind = direction->is_basis() ? SDIC_EDIT_GANSPACE_SET : SDIC_EDIT_DIRECTION;
        filled.component_count = static_cast<int32_t>(direction->std.size());
        filled.has_range = direction->strength_range.has_value();
        const auto [minimum, maximum] = direction->strength_range.value_or(std::pair{0.0, 0.0});
        filled.minimum = static_cast<float>(minimum);
        filled.maximum = static_cast<float>(maximum);
        give_back(filled, info);
    });
}

sdic_status sdic_invert(sdic_pipeline *pipeline, const sdic_image *images, size_t count, size_t batch, sdic_result **out) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {out, "the place for the inversion"}});
        need_pictures(images, count);
        Names names;
        for (std::size_t i = 0; i < count; ++i) names.push_back(text_or(images[i].name, ""));
        const Pipeline &given = pipeline->pipeline;
        *out = new sdic_result{given.invert(prepared(images, count, given.manifest()), std::move(names), batch)};
    });
}

sdic_status sdic_invert_tensor(sdic_pipeline *pipeline, const float *images, size_t count, size_t batch, sdic_result **out) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {out, "the place for the inversion"}});
        need_pictures(images, count);
        const Pipeline &given = pipeline->pipeline;
        *out = new sdic_result{given.invert(prepared(images, count, given.manifest()), Names(count), batch)};
    });
}

sdic_status sdic_inversion_save(const sdic_result *inversion, const char *path) {
    return guarded([&] {
        need({{inversion, "the inversion"}, {path, "the path"}});
        inversion->result.save(path);
    });
}

sdic_status sdic_inversion_load(const char *path, sdic_result **out) {
    return guarded([&] {
        need({{path, "the path"}, {out, "the place for the inversion"}});
        *out = new sdic_result{Result::load(path)};
    });
}

void sdic_edit_part_default(sdic_edit_part *part) {
    if (!start(part)) return;
    part->weight = 1;
}

void sdic_extra_default(sdic_extra *extra) { start(extra); }

void sdic_edit_params_default(sdic_edit_params *params) { start(params); }

sdic_status sdic_edit(sdic_pipeline *pipeline, const sdic_result *inversion, const sdic_edit_params *params, sdic_result **out) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {inversion, "the inversion"}, {params, "the edit's params"}, {out, "the place for the edited pictures"}});
        sdic_edit_params given = complete(params, sdic_edit_params_default, "sdic_edit_params");
        const auto parts = complete_all(given.parts, given.part_count, sdic_edit_part_default, "sdic_edit_part");
        const auto extras = complete_all(given.extras, given.extra_count, sdic_extra_default, "sdic_extra");
        given.parts = parts.data();
        given.part_count = parts.size();
        given.extras = extras.data();
        given.extra_count = extras.size();
        *out = new sdic_result{pipeline->pipeline.edit(inversion->result, given)};
    });
}

sdic_status sdic_baseline(sdic_pipeline *pipeline, const sdic_result *inversion, size_t batch, sdic_result **out) {
    return guarded([&] {
        need({{pipeline, "the pipeline"}, {inversion, "the inversion"}, {out, "the place for the pictures"}});
        *out = new sdic_result{pipeline->pipeline.baseline(inversion->result, batch)};
    });
}

size_t sdic_result_count(const sdic_result *result) { return result != nullptr ? result->result.count() : 0; }

const char *sdic_result_name(const sdic_result *result, size_t index) {
    return index < sdic_result_count(result) ? result->result.names[index].c_str() : nullptr;
}

sdic_status sdic_result_size(const sdic_result *result, int32_t *width, int32_t *height) {
    return guarded([&] {
        need({{result, "the result"}});
        const Model &model = result->result.model;
        if (width != nullptr) *width = static_cast<int32_t>(*model.sizes.find("R"));
        if (height != nullptr) *height = height_of(model.visible_rows);
    });
}

sdic_status sdic_result_picture(const sdic_result *result, size_t index, uint8_t *pixels, size_t bytes) {
    return guarded([&] {
        need({{result, "the result"}, {pixels, "the place for the picture"}});
        const std::size_t count = result->result.count();
        require_argument(index < count, "there is no picture ", index, "; there are ", count, ", counted from 0");
        const Tensor &picture = *result->result.tensor(kPicture);
        const Rows &rows = result->result.model.visible_rows;
        const std::size_t needed = static_cast<std::size_t>(picture.shape[3] * (rows.second - rows.first)) * 3;
        require_argument(bytes >= needed, "the place for the picture has ", bytes, " bytes; ", needed, " are needed");
        to_bytes(picture, index, rows, pixels);
    });
}

sdic_status sdic_result_tensor(const sdic_result *result, const char *name, sdic_view *view) {
    return guarded([&] {
        need({{result, "the result"}, {name, "the tensor's name"}, {view, "the view"}});
        const Tensor &tensor = *result->result.tensor(name);
        sdic_view filled = {};
        filled.data = tensor.data.data();
        filled.rank = static_cast<int32_t>(tensor.shape.size());
        std::copy(tensor.shape.begin(), tensor.shape.end(), filled.shape);
        *view = filled;
    });
}

void sdic_result_free(sdic_result *result) { delete result; }
