#include "edits.hpp"

#include <algorithm>
#include <cmath>

#include "files.hpp"
#include "safetensors.hpp"

namespace sdic_internal {

namespace {

const std::string kNotFinite = " holds NaN or infinite values; make it again";

bool all_finite(const std::vector<float> &values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

std::string label(const std::string &name) { return name.empty() ? "the direction" : say("the direction \"", name, "\""); }

void check_rows(const Rows &rows, const CodeSize &size, const std::string &what) {
    require_argument(0 <= rows.first && rows.first < rows.second && rows.second <= size.rows, what, " is for the style rows ", rows.first, " to ",
                     rows.second, " (end not included), and this model has ", size.rows, " rows");
}

void check_shape(const DirectionFile &direction, const CodeSize &size) {
    const Shape &shape = direction.vector.shape;
    const std::string whole = text_of({size.rows, size.width});
    require_argument(shape[1] == size.width && (shape[0] == 1 || shape[0] == size.rows), label(direction.name), " has shape ", text_of(shape),
                     ", and this model's latent codes are ", whole, "; use ", text_of({1, size.width}), " or ", whole);
}

// A constant offset.
Edit direction_edit(const DirectionFile &direction, const CodeSize &size) {
    check_shape(direction, size);
    if (direction.rows) check_rows(*direction.rows, size, label(direction.name));
    return [direction, size](float weight, const float *, float *total) {
        const auto width = static_cast<std::size_t>(size.width);
        const Rows rows = direction.rows.value_or(Rows{0, size.rows});
        for (auto row = static_cast<std::size_t>(rows.first); row < static_cast<std::size_t>(rows.second); ++row) {
            const float *vector = direction.vector.data.data() + (direction.vector.shape[0] > 1 ? row * width : 0);
            for (std::size_t i = 0; i < width; ++i) total[row * width + i] += weight * vector[i];
        }
    };
}

// A move along one component of a PCA basis: to the coordinate sigma ("set"), or by sigma ("add").
Edit ganspace_edit(const std::shared_ptr<const DirectionFile> &basis, const sdic_edit_part &part, const CodeSize &size) {
    const auto count = static_cast<std::int32_t>(basis->std.size());
    const bool there = 0 <= part.component && part.component < count;
    require_argument(there, "the GANSpace component ", part.component, " does not exist; the basis has components 0 to ", count - 1);
    const std::int64_t own = basis->components.shape[1];
    require_argument(own == size.width, "the PCA basis has width ", own, " where this model's codes have ", size.width, "; use a basis of this model");
    finite(part.sigma, "the GANSpace sigma");
    const Rows rows{part.first_row, part.end_row};
    check_rows(rows, size, "the GANSpace edit");
    return [basis, part, rows, width = static_cast<std::size_t>(size.width)](float weight, const float *code, float *total) {
        const auto index = static_cast<std::size_t>(part.component);
        const float *component = basis->components.data.data() + index * width;
        const float deviation = basis->std[index];
        float amount = part.sigma;
        if (part.kind == SDIC_EDIT_GANSPACE_SET) {
            float dot = 0;  // the present coordinate is read off style row 0
            for (std::size_t i = 0; i < width; ++i) dot += (code[i] - basis->mean[i]) * component[i];
            amount -= dot / deviation;
        }
        for (auto row = static_cast<std::size_t>(rows.first); row < static_cast<std::size_t>(rows.second); ++row) {
            for (std::size_t i = 0; i < width; ++i) total[row * width + i] += weight * (amount * deviation * component[i]);
        }
    };
}

// The direction of an array: [C], [1, C], [L, C] or [1, L, C] as [rows, C].
Tensor as_matrix(const Tensor &array, const std::string &what) {
    Shape shape = array.shape;
    if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
    if (shape.size() == 1) shape.insert(shape.begin(), 1);
    require(shape.size() == 2 && !array.data.empty(), what, " has shape ", text_of(shape), "; expected [C], [1, C], [L, C] or [1, L, C]");
    require(all_finite(array.data), what, kNotFinite);
    return Tensor(shape, array.data);
}

void read_basis(const SafeTensors &file, DirectionFile &direction) {
    const Tensor &mean = *file.tensors.at("mean").tensor, &comp = *file.tensors.at("comp").tensor, &std = *file.tensors.at("std").tensor;
    const std::int64_t width = mean.shape.empty() ? 0 : mean.shape.back();
    const std::int64_t count = std.shape.size() == 1 ? std.shape[0] : -1;
    for (const auto &[name, tensor] : {std::pair{"mean", &mean}, {"comp", &comp}, {"std", &std}}) {
        require(all_finite(tensor->data), "the PCA basis' ", name, kNotFinite);
    }
    const bool fits = comp.shape == Shape{count, 1, width} || comp.shape == Shape{count, width};
    require(width > 0 && mean.data.size() == static_cast<std::size_t>(width) && count >= 0 && fits, "the PCA basis has mean ", text_of(mean.shape),
            ", comp ", text_of(comp.shape), " and std ", text_of(std.shape), "; expected [1, C], [k, 1, C] and [k]");
    const bool positive = std::all_of(std.data.begin(), std.data.end(), [](float value) { return value > 0; });
    require(positive, "the PCA basis has a component with a standard deviation of zero or less; make it again");
    direction.mean = mean.data;
    direction.std = std.data;
    direction.components = Tensor({count, width}, comp.data);
}

DirectionFile parse_direction(const SafeTensors &file, const std::string &path) {
    const auto named = file.metadata.find("name");
    DirectionFile direction;
    direction.name = named != file.metadata.end() && !named->second.empty() ? named->second : std::filesystem::path(path).stem().string();
    const auto has = [&](const char *name) { return file.tensors.count(name) != 0; };
    if (has("mean") && has("comp") && has("std")) {
        read_basis(file, direction);
    } else if (has("direction")) {
        direction.vector = as_matrix(*file.tensors.at("direction").tensor, label(direction.name));
        for (const auto &[key, text] : file.metadata) {
            if (key == "rows") direction.rows = Value(parse_json(text, key), key).pair(&Value::integer);
            if (key == "strength_range") direction.strength_range = Value(parse_json(text, key), key).pair(&Value::number);
        }
    } else {
        throw Invalid("it holds ", listed(keys_of(file.tensors), "nothing"), ", expected \"direction\", or \"mean\", \"comp\" and \"std\"");
    }
    return direction;
}

DirectionFile read_direction(const std::string &path) {
    if (std::filesystem::path(path).extension() != ".safetensors") {
        throw Error(SDIC_ERROR_FILE, path, " is not a direction file this program reads; use .safetensors");
    }
    try {
        return parse_direction(read_safetensors(path), path);
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_FILE, path, " is not a direction that can be used: ", error.what(), "; get it again");
    }
}

Edit make_edit(const sdic_edit_part &part, Directions &directions, const CodeSize &size) {
    const bool by_name = part.direction != nullptr;
    require_argument(by_name != (part.vector != nullptr), "an edit has ", by_name ? "both" : "neither", " of direction and vector; give one of them");
    if (part.kind == SDIC_EDIT_DIRECTION) {
        if (by_name) {
            const auto direction = directions.get(part.direction);
            require_argument(!direction->is_basis(), "a PCA basis is no edit by itself; choose a component with SDIC_EDIT_GANSPACE_SET or _ADD");
            return direction_edit(*direction, size);
        }
        DirectionFile direction;
        direction.vector.shape = {part.rows, part.width};
        check_shape(direction, size);
        direction.vector.data.assign(part.vector, part.vector + part.rows * part.width);
        require_argument(all_finite(direction.vector.data), "the direction", kNotFinite);
        return direction_edit(direction, size);
    }
    const bool known = part.kind == SDIC_EDIT_GANSPACE_SET || part.kind == SDIC_EDIT_GANSPACE_ADD;
    require_argument(known, "the edit's kind is ", static_cast<int>(part.kind), "; use one of sdic_edit_kind");
    const auto basis = by_name ? directions.get(part.direction) : nullptr;
    require_argument(basis && basis->is_basis(), "a GANSpace edit needs a PCA basis: the name of one in the bundle");
    return ganspace_edit(basis, part, size);
}

}  // namespace

std::shared_ptr<const DirectionFile> Directions::get(const std::string &name) {
    const auto &files = bundle_.manifest().directions;
    const auto found = files.find(name);
    const std::string &bundle = bundle_.manifest().name;
    require_argument(found != files.end(), "there is no direction \"", name, "\"; the bundle \"", bundle, "\" has: ", listed(keys_of(files)));
    const std::lock_guard<std::mutex> hold(lock_);
    auto &entry = loaded_[name];
    if (!entry) entry = std::make_shared<const DirectionFile>(read_direction(bundle_.file(found->second)));
    return entry;
}

CombinedEdit::CombinedEdit(const sdic_edit_part *parts, std::size_t count, Directions &directions, const CodeSize &size) {
    require_argument(count > 0 && parts != nullptr, "the combined edit is empty; give at least one (edit, strength)");
    for (std::size_t i = 0; i < count; ++i) {
        const float weight = finite(parts[i].weight, "the strength");
        parts_.emplace_back(weight, make_edit(parts[i], directions, size));
        kinds_.push_back(parts[i].kind == SDIC_EDIT_DIRECTION ? kDirectionKind : kGanSpaceKind);
    }
}

TensorPtr CombinedEdit::apply(const Tensor &codes, const std::vector<float> &strengths) const {
    Shape shape = codes.shape;
    shape[0] *= static_cast<std::int64_t>(strengths.size());
    auto edited = std::make_shared<Tensor>(shape);
    float *out = edited->data.data();
    std::vector<float> offset(codes.stride());
    for (std::size_t n = 0; n < codes.batch(); ++n) {
        const float *code = codes.data.data() + n * codes.stride();
        std::fill(offset.begin(), offset.end(), 0.0f);
        for (const auto &[weight, edit] : parts_) edit(weight, code, offset.data());
        for (const float strength : strengths) {
            for (std::size_t i = 0; i < offset.size(); ++i) *out++ = code[i] + strength * offset[i];
        }
    }
    return edited;
}

float finite(float value, const std::string &what) {
    require_argument(std::isfinite(value), what, " is ", value, "; give a finite number");
    return value;
}

}  // namespace sdic_internal
