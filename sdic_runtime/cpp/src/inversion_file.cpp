// The safetensors file of an inversion: the same as sdic_runtime/inversion.py. It says itself what it holds.
#include <algorithm>
#include <cmath>

#include "files.hpp"
#include "pipeline.hpp"
#include "safetensors.hpp"

namespace sdic_internal {

namespace {

const std::string kFormat = "sdic-inversion";
const std::string kVersion = "2", kFirstVersion = "1";  // the latter is only read

// The tensor stored as `name`, checked.
TensorPtr read_tensor(const SafeTensors &file, const std::string &name, const Shape &expected) {
    const auto found = file.tensors.find(name);
    require(found != file.tensors.end(), "it holds no \"", name, "\"");
    const auto &[dtype, tensor] = found->second;
    const bool fits = dtype == "F32" && tensor->shape == expected;
    require(fits, "it holds ", dtype, " ", text_of(tensor->shape), " as \"", name, "\", expected F32 ", text_of(expected));
    const bool finite = std::all_of(tensor->data.begin(), tensor->data.end(), [](float value) { return std::isfinite(value); });
    require(finite, "it holds NaN or infinite values in \"", name, "\"");
    return tensor;
}

Result read_result(const SafeTensors &file) {
    const auto text = [&](const std::string &key) {
        require(file.metadata.count(key) != 0, "its metadata lacks \"", key, "\"");
        return file.metadata.at(key);
    };
    const auto json = [&](const std::string &key) { return parse_json(text(key), key); };
    require(text("format") == kFormat, "its format is ", shown(text("format")));
    const bool first_version = text("version") == kFirstVersion;
    require(first_version || text("version") == kVersion, "its format has version ", text("version"), ", and this program reads version ", kVersion);
    const Json &first = first_schema();
    Result result;
    Model &model = result.model;
    model.identity = text("model");
    model.name = text("bundle");
    model.sizes = Value(json("sizes"), "sizes").table(&Value::integer);
    if (first_version) {
        for (auto &item : model.sizes) {
            require(first["sizes"].contains(item.first), "sizes has \"", item.first, "\"");
            item.first = first["sizes"].at(item.first).get<std::string>();
        }
        for (const auto &name : first["keeps"].get<Names>()) model.kept.emplace_back(name, first["tensors"].at(name));
    } else {
        model.kept = Value(json("tensors"), "tensors").table(&Value::list_json);
    }
    check_sizes(model.sizes);
    for (const auto &[name, axes] : model.kept) check_axes(name, axes, model.sizes);
    require(model.kept.find(kPicture), "tensors lacks \"", kPicture, "\"");
    const auto [top, end] = model.visible_rows = Value(json("visible_rows"), "visible_rows").pair(&Value::integer);
    require(0 <= top && top < end && end <= *model.sizes.find("R"), "visible_rows is [", top, ", ", end, "]");
    result.names = Value(json("names"), "names").names();
    require(!result.names.empty(), "names is empty");
    for (const auto &[name, axes] : model.kept) {
        std::string stored = name;
        for (const auto &[old, tensor] : first["kept_names"].items()) {
            if (first_version && tensor == name) stored = old;
        }
        result.tensors[name] = read_tensor(file, stored, shape_of(axes, model.sizes, static_cast<std::int64_t>(result.names.size())));
    }
    return result;
}

}  // namespace

void Result::save(const std::string &path) const {
    Json sizes = Json::object(), axes = Json::object();
    for (const auto &[letter, size] : model.sizes) sizes[letter] = size;
    Tensors held;
    for (const auto &[name, own] : model.kept) {
        axes[name] = own;
        if (tensors.count(name) == 0) throw Error(SDIC_ERROR_ARGUMENT, "these are edited pictures, without \"", name, "\"; save the inversion");
        held[name] = tensors.at(name);
    }
    const Json rows = {model.visible_rows.first, model.visible_rows.second};
    write_safetensors(path, held,
                      {{"format", kFormat}, {"version", kVersion}, {"model", model.identity}, {"bundle", model.name}, {"sizes", python_json(sizes)},
                       {"tensors", python_json(axes)}, {"visible_rows", python_json(rows)}, {"names", python_json(names)}});
}

Result Result::load(const std::string &path) {
    if (!exists(path)) throw Error(SDIC_ERROR_FILE, "there is no inversion at ", path, "; make one with: sdic-run invert IMG --save");
    try {
        return read_result(read_safetensors(path));
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_FILE, path, " is not a saved inversion, or damaged (", error.what(), "); invert the picture again");
    }
}

}  // namespace sdic_internal
