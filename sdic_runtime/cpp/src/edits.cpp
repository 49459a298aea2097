#include "edits.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"
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
    if (rows.first >= 0 && rows.first < rows.second && rows.second <= size.rows) return;
    throw Error(SDIC_ERROR_ARGUMENT, say(what, " is for the style rows ", rows.first, " to ", rows.second, " (end not included), and this model has ",
                                         size.rows, " rows"));
}

void check_shape(const DirectionFile &direction, const CodeSize &size) {
    const Shape &shape = direction.vector.shape;
    if (shape[1] == size.width && (shape[0] == 1 || shape[0] == size.rows)) return;
    throw Error(SDIC_ERROR_ARGUMENT, say(label(direction.name), " has shape ", text_of(shape), ", and this model's latent codes are ",
                                         text_of({size.rows, size.width}), "; use ", text_of({1, size.width}), " or ", text_of({size.rows, size.width})));
}

// A constant offset.
class DirectionEdit : public Edit {
public:
    DirectionEdit(DirectionFile direction, const CodeSize &size) : size_(size), direction_(std::move(direction)) {
        check_shape(direction_, size);
        if (direction_.rows) check_rows(*direction_.rows, size, label(direction_.name));
    }

    void add_offset(float weight, const float *, float *total) const override {
        const auto width = static_cast<std::size_t>(size_.width);
        const Rows rows = direction_.rows.value_or(Rows{0, size_.rows});
        for (auto row = static_cast<std::size_t>(rows.first); row < static_cast<std::size_t>(rows.second); ++row) {
            const float *vector = direction_.vector.data.data() + (direction_.vector.shape[0] > 1 ? row * width : 0);
            for (std::size_t i = 0; i < width; ++i) total[row * width + i] += weight * vector[i];
        }
    }

private:
    CodeSize size_;
    DirectionFile direction_;
};

// A move along one component of a PCA basis: to the coordinate sigma ("set"), or by sigma ("add").
class GanSpaceEdit : public Edit {
public:
    GanSpaceEdit(std::shared_ptr<const DirectionFile> basis, const sdic_edit_part &part, const CodeSize &size)
        : width_(static_cast<std::size_t>(size.width)), basis_(std::move(basis)), component_(static_cast<std::size_t>(part.component)),
          rows_(part.first_row, part.end_row), sigma_(finite(part.sigma, "the GANSpace sigma")), set_(part.kind == SDIC_EDIT_GANSPACE_SET) {
        const auto count = static_cast<std::int32_t>(basis_->std.size());
        if (part.component < 0 || part.component >= count) {
            throw Error(SDIC_ERROR_ARGUMENT, say("the GANSpace component ", part.component, " does not exist; the basis has components 0 to ", count - 1));
        }
        if (basis_->components.shape[1] != size.width) {
            throw Error(SDIC_ERROR_ARGUMENT, say("the PCA basis has width ", basis_->components.shape[1], ", and this model's style width is ",
                                                 size.width, "; use a basis of this model"));
        }
        check_rows(rows_, size, "the GANSpace edit");
    }

    void add_offset(float weight, const float *code, float *total) const override {
        const float *component = basis_->components.data.data() + component_ * width_;
        const float deviation = basis_->std[component_];
        float amount = sigma_;
        if (set_) {
            float dot = 0;  // the present coordinate is read off style row 0
            for (std::size_t i = 0; i < width_; ++i) dot += (code[i] - basis_->mean[i]) * component[i];
            amount -= dot / deviation;
        }
        for (auto row = static_cast<std::size_t>(rows_.first); row < static_cast<std::size_t>(rows_.second); ++row) {
            for (std::size_t i = 0; i < width_; ++i) total[row * width_ + i] += weight * (amount * deviation * component[i]);
        }
    }

private:
    std::size_t width_;
    std::shared_ptr<const DirectionFile> basis_;
    std::size_t component_;
    Rows rows_;
    float sigma_;
    bool set_;
};

// The direction of an array: [C], [1, C], [L, C] or [1, L, C] as [rows, C].
Tensor as_matrix(const Tensor &array, const std::string &what) {
    Shape shape = array.shape;
    if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
    if (shape.size() == 1) shape.insert(shape.begin(), 1);
    require(shape.size() == 2 && !array.data.empty(), what, " has shape ", text_of(shape), "; expected [C], [1, C], [L, C] or [1, L, C]");
    require(all_finite(array.data), what, kNotFinite);
    return Tensor(shape, array.data);
}

// Two numbers of the metadata, such as [-3, 3].
template <typename Number>
std::optional<std::pair<Number, Number>> read_pair(const std::map<std::string, std::string> &metadata, const char *key) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) return std::nullopt;
    try {
        const Json pair = parse_json(found->second);
        if (pair.is_array() && pair.size() == 2) return std::pair{pair[0].get<Number>(), pair[1].get<Number>()};
    } catch (const std::runtime_error &) {
        // The sentence below says what was found.
    }
    throw Invalid(say("its metadata \"", key, "\" is ", shown(found->second), ", expected two numbers like [-3, 3]"));
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
        direction.rows = read_pair<std::int64_t>(file.metadata, "rows");
        direction.strength_range = read_pair<float>(file.metadata, "strength_range");
    } else {
        Names names;
        for (const auto &item : file.tensors) names.push_back(item.first);
        throw Invalid(say("it holds ", listed(names, "nothing"), ", expected \"direction\", or \"mean\", \"comp\" and \"std\""));
    }
    return direction;
}

DirectionFile read_direction(const std::string &path) {
    if (std::filesystem::path(path).extension() != ".safetensors") {
        throw Error(SDIC_ERROR_FILE, say(path, " is not a direction file this program reads; use .safetensors"));
    }
    int number = 0;
    try {
        const SafeTensors file = read_safetensors(path, number);
        if (number != 0) throw Error(SDIC_ERROR_FILE, say("cannot read the direction ", path, ": ", reason(number)));
        return parse_direction(file, path);
    } catch (const NotSafeTensors &error) {
        throw Error(SDIC_ERROR_FILE, say(path, " is not a direction file: ", error.what(), "; get it again"));
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_FILE, say(path, ": ", error.what()));
    }
}

std::unique_ptr<Edit> make_edit(const sdic_edit_part &part, Directions &directions, const CodeSize &size) {
    const bool by_name = part.direction != nullptr;
    if (by_name == (part.vector != nullptr)) {
        throw Error(SDIC_ERROR_ARGUMENT, say("an edit has ", by_name ? "both" : "neither", " a direction's name ", by_name ? "and" : "nor", " a vector; give one of them"));
    }
    if (part.kind == SDIC_EDIT_DIRECTION) {
        if (by_name) {
            const auto direction = directions.get(part.direction);
            if (direction->is_basis()) {
                throw Error(SDIC_ERROR_ARGUMENT, "a PCA basis is not an edit by itself; choose a component with SDIC_EDIT_GANSPACE_SET or SDIC_EDIT_GANSPACE_ADD");
            }
            return std::make_unique<DirectionEdit>(*direction, size);
        }
        DirectionFile direction;
        direction.vector.shape = {part.rows, part.width};
        check_shape(direction, size);
        direction.vector.data.assign(part.vector, part.vector + part.rows * part.width);
        if (!all_finite(direction.vector.data)) throw Error(SDIC_ERROR_ARGUMENT, "the direction" + kNotFinite);
        return std::make_unique<DirectionEdit>(direction, size);
    }
    if (part.kind != SDIC_EDIT_GANSPACE_SET && part.kind != SDIC_EDIT_GANSPACE_ADD) {
        throw Error(SDIC_ERROR_ARGUMENT, say("the edit's kind is ", static_cast<int>(part.kind), "; use one of sdic_edit_kind"));
    }
    auto basis = by_name ? directions.get(part.direction) : nullptr;
    if (!basis || !basis->is_basis()) throw Error(SDIC_ERROR_ARGUMENT, "a GANSpace edit needs a PCA basis: the name of one in the bundle");
    return std::make_unique<GanSpaceEdit>(std::move(basis), part, size);
}

}  // namespace

std::shared_ptr<const DirectionFile> Directions::get(const std::string &name) {
    const auto &files = bundle_.manifest().directions;
    const auto found = files.find(name);
    if (found == files.end()) {
        Names known;
        for (const auto &item : files) known.push_back(item.first);
        throw Error(SDIC_ERROR_ARGUMENT, say("there is no direction \"", name, "\"; the bundle \"", bundle_.manifest().name, "\" has: ", listed(known)));
    }
    const std::lock_guard<std::mutex> hold(lock_);
    auto &entry = loaded_[name];
    if (!entry) entry = std::make_shared<const DirectionFile>(read_direction(bundle_.file(found->second)));
    return entry;
}

CombinedEdit::CombinedEdit(const sdic_edit_part *parts, std::size_t count, Directions &directions, const CodeSize &size) {
    if (count == 0 || parts == nullptr) throw Error(SDIC_ERROR_ARGUMENT, "the combined edit is empty; give at least one (edit, strength)");
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
        for (const auto &[weight, edit] : parts_) edit->add_offset(weight, code, offset.data());
        for (const float strength : strengths) {
            for (std::size_t i = 0; i < offset.size(); ++i) *out++ = code[i] + strength * offset[i];
        }
    }
    return edited;
}

float finite(float value, const std::string &what) {
    if (std::isfinite(value)) return value;
    throw Error(SDIC_ERROR_ARGUMENT, say(what, " is ", value, "; give a finite number"));
}

}  // namespace sdic_internal
