#include "edits.hpp"

#include <algorithm>
#include <cmath>

#include "close_match.hpp"
#include "errors.hpp"
#include "files.hpp"
#include "safetensors.hpp"

namespace sdic_internal {

namespace {

bool all_finite(const std::vector<float> &values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

std::string label(const std::string &name) { return name.empty() ? "the direction" : say("the direction \"", name, "\""); }

void check_rows(const RowRange &rows, const Sizes &sizes, const std::string &what) {
    if (rows.first >= 0 && rows.first < rows.second && rows.second <= sizes.rows) return;
    throw Error(SDIC_ERROR_ARGUMENT, say(what, " is for the style rows ", rows.first, " to ", rows.second, " (end not included), and this model has ",
                                         sizes.rows, " rows"));
}

// A constant offset.
class DirectionEdit : public Edit {
public:
    DirectionEdit(const DirectionFile &direction, const Sizes &sizes) : sizes_(sizes), direction_(direction) {
        const Shape &shape = direction.vector.shape;
        if (shape[1] != sizes.style_width || (shape[0] != 1 && shape[0] != sizes.rows)) {
            throw Error(SDIC_ERROR_ARGUMENT, say(label(direction.name), " has shape ", python_list(shape), ", and this model's latent codes are ",
                                                 python_list({sizes.rows, sizes.style_width}), "; use ", python_list({1, sizes.style_width}), " or ",
                                                 python_list({sizes.rows, sizes.style_width})));
        }
        if (direction.rows) check_rows(*direction.rows, sizes, label(direction.name));
    }

    void add_offset(float weight, const float *, float *total) const override {
        const auto width = static_cast<std::size_t>(sizes_.style_width);
        const RowRange rows = direction_.rows.value_or(RowRange{0, sizes_.rows});
        for (auto row = static_cast<std::size_t>(rows.first); row < static_cast<std::size_t>(rows.second); ++row) {
            const float *vector = direction_.vector.data.data() + (direction_.vector.shape[0] > 1 ? row * width : 0);
            for (std::size_t i = 0; i < width; ++i) total[row * width + i] += weight * vector[i];
        }
    }

private:
    Sizes sizes_;
    DirectionFile direction_;
};

// A move along one component of a PCA basis: to the coordinate sigma ("set"), or by sigma ("add").
class GanSpaceEdit : public Edit {
public:
    GanSpaceEdit(std::shared_ptr<const DirectionFile> basis, const sdic_edit_part &part, const Sizes &sizes)
        : width_(static_cast<std::size_t>(sizes.style_width)), basis_(std::move(basis)), component_(static_cast<std::size_t>(part.component)),
          rows_(part.first_row, part.end_row), sigma_(finite(part.sigma, "the GANSpace sigma")), set_(part.kind == SDIC_EDIT_GANSPACE_SET) {
        const auto count = static_cast<std::int32_t>(basis_->std.size());
        if (part.component < 0 || part.component >= count) {
            throw Error(SDIC_ERROR_ARGUMENT, say("the GANSpace component ", part.component, " does not exist; the basis has components 0 to ", count - 1));
        }
        if (basis_->components.shape[1] != sizes.style_width) {
            throw Error(SDIC_ERROR_ARGUMENT, say("the PCA basis has width ", basis_->components.shape[1], ", and this model's style width is ",
                                                 sizes.style_width, "; use a basis of this model"));
        }
        check_rows(rows_, sizes, "the GANSpace edit");
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
    RowRange rows_;
    float sigma_;
    bool set_;
};

// The direction of an array: [C], [1, C], [L, C] or [1, L, C] as [rows, C].
Tensor as_matrix(const Tensor &array, const std::string &what) {
    Shape shape = array.shape;
    if (shape.size() == 3 && shape[0] == 1) shape.erase(shape.begin());
    if (shape.size() == 1) shape.insert(shape.begin(), 1);
    if (shape.size() != 2 || array.data.empty()) {
        throw Error(SDIC_ERROR_ARGUMENT, say(what, " has shape ", python_list(shape), "; expected [C], [1, C], [L, C] or [1, L, C]"));
    }
    if (!all_finite(array.data)) throw Error(SDIC_ERROR_ARGUMENT, say(what, " holds NaN or infinite values; make it again"));
    return Tensor(shape, array.data);
}

std::optional<RowRange> read_rows(const std::map<std::string, std::string> &metadata) {
    const auto found = metadata.find("rows");
    if (found == metadata.end()) return std::nullopt;
    try {
        const Json pair = Json::parse(found->second);
        if (pair.is_array() && pair.size() == 2) return RowRange{pair[0].get<std::int64_t>(), pair[1].get<std::int64_t>()};
    } catch (const Json::exception &) {
        // The sentence below says what was found.
    }
    throw Error(SDIC_ERROR_ARGUMENT, say("its metadata \"rows\" is ", python_repr(found->second, 60), ", expected two numbers like [-3, 3]"));
}

void read_basis(const SafeTensors &file, DirectionFile &direction) {
    const Tensor &mean = *file.tensors.at("mean").tensor, &comp = *file.tensors.at("comp").tensor, &std = *file.tensors.at("std").tensor;
    const std::int64_t width = mean.shape.empty() ? 0 : mean.shape.back();
    const std::int64_t count = std.shape.size() == 1 ? std.shape[0] : -1;
    for (const auto &[name, tensor] : {std::pair{"mean", &mean}, {"comp", &comp}, {"std", &std}}) {
        if (!all_finite(tensor->data)) throw Error(SDIC_ERROR_ARGUMENT, say("the PCA basis' ", name, " holds NaN or infinite values; make it again"));
    }
    const bool fits = comp.shape == Shape{count, 1, width} || comp.shape == Shape{count, width};
    if (width < 1 || mean.data.size() != static_cast<std::size_t>(width) || count < 0 || !fits) {
        throw Error(SDIC_ERROR_ARGUMENT, say("the PCA basis has mean ", python_list(mean.shape), ", comp ", python_list(comp.shape), " and std ",
                                             python_list(std.shape), "; expected [1, C], [k, 1, C] and [k]"));
    }
    if (std::any_of(std.data.begin(), std.data.end(), [](float value) { return value <= 0; })) {
        throw Error(SDIC_ERROR_ARGUMENT, "the PCA basis has a component with a standard deviation of zero or less; make it again");
    }
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
        direction.rows = read_rows(file.metadata);
    } else {
        std::vector<std::string> names;
        for (const auto &[name, entry] : file.tensors) names.push_back(name);
        throw Error(SDIC_ERROR_ARGUMENT, say("it holds ", listed(names, "nothing"), ", expected \"direction\", or \"mean\", \"comp\" and \"std\""));
    }
    return direction;
}

DirectionFile read_direction(const std::string &path) {
    if (std::filesystem::path(path).extension() != ".safetensors") {
        throw Error(SDIC_ERROR_BUNDLE, say(path, " is not a direction file this program reads; use .safetensors"));
    }
    int number = 0;
    try {
        const SafeTensors file = read_safetensors(path, number);
        if (number != 0) throw Error(SDIC_ERROR_FILE, say("cannot read the direction ", path, ": ", reason(number)));
        return parse_direction(file, path);
    } catch (const NotSafeTensors &error) {
        throw Error(SDIC_ERROR_BUNDLE, say(path, " is not a direction file: ", error.what(), "; get it again"));
    } catch (const Error &error) {
        if (number != 0) throw;
        throw Error(SDIC_ERROR_BUNDLE, say(path, ": ", error.what()));
    }
}

std::unique_ptr<Edit> make_edit(const sdic_edit_part &part, Directions &directions, const Sizes &sizes) {
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
            return std::make_unique<DirectionEdit>(*direction, sizes);
        }
        DirectionFile direction;
        if (part.rows < 1 || part.width < 1 || (part.rows != 1 && part.rows != sizes.rows) || part.width != sizes.style_width) {
            direction.vector.shape = {part.rows, part.width};  // the sentence comes from the check of every direction
            return std::make_unique<DirectionEdit>(direction, sizes);
        }
        direction.vector = as_matrix(Tensor({part.rows, part.width}, std::vector<float>(part.vector, part.vector + part.rows * part.width)), label(""));
        return std::make_unique<DirectionEdit>(direction, sizes);
    }
    if (part.kind != SDIC_EDIT_GANSPACE_SET && part.kind != SDIC_EDIT_GANSPACE_ADD) {
        throw Error(SDIC_ERROR_ARGUMENT, say("the edit's kind is ", static_cast<int>(part.kind), "; use one of sdic_edit_kind"));
    }
    auto basis = by_name ? directions.get(part.direction) : nullptr;
    if (!basis || !basis->is_basis()) throw Error(SDIC_ERROR_ARGUMENT, "a GANSpace edit needs a PCA basis: the name of one in the bundle");
    return std::make_unique<GanSpaceEdit>(std::move(basis), part, sizes);
}

}  // namespace

std::shared_ptr<const DirectionFile> Directions::get(const std::string &name) {
    const auto &files = bundle_.manifest().directions;
    const auto found = files.find(name);
    if (found == files.end()) {
        std::vector<std::string> known;
        for (const auto &[direction, file] : files) known.push_back(direction);
        const std::string close = close_match(name, known);
        throw Error(SDIC_ERROR_ARGUMENT, say("there is no direction \"", name, "\"; the bundle \"", bundle_.manifest().name, "\" has: ", listed(known),
                                             close.empty() ? "" : "; did you mean \"" + close + "\"?"));
    }
    const std::lock_guard<std::mutex> hold(lock_);
    auto &entry = loaded_[name];
    if (!entry) entry = std::make_shared<const DirectionFile>(read_direction(bundle_.file(found->second)));
    return entry;
}

CombinedEdit::CombinedEdit(const sdic_edit_part *parts, std::size_t count, Directions &directions, const Sizes &sizes) {
    if (count == 0 || parts == nullptr) throw Error(SDIC_ERROR_ARGUMENT, "the combined edit is empty; give at least one (edit, strength)");
    for (std::size_t i = 0; i < count; ++i) {
        const float weight = finite(parts[i].weight, "the strength");
        parts_.emplace_back(weight, make_edit(parts[i], directions, sizes));
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
    throw Error(SDIC_ERROR_ARGUMENT, say(what, " is ", python_repr(double{value}), "; give a finite number"));
}

}  // namespace sdic_internal
