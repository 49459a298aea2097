// The safetensors file of an inversion: the same as sdic_runtime/inversion.py. It says itself what it holds.
#include <algorithm>
#include <cerrno>
#include <cmath>

#include "errors.hpp"
#include "files.hpp"
#include "pipeline.hpp"
#include "safetensors.hpp"

namespace sdic_internal {

namespace {

const std::string kFormat = "sdic-inversion";
const std::string kVersion = "2", kFirstVersion = "1";  // the second is read, too

// The metadata of one file.
class Metadata {
public:
    explicit Metadata(const std::map<std::string, std::string> &fields) : fields_(fields) {}

    std::string text(const std::string &key) const {
        const auto found = fields_.find(key);
        require(found != fields_.end(), "\"", key, "\" is missing");
        return found->second;
    }
    Json json(const std::string &key) const {
        try {
            return parse_json(text(key));
        } catch (const NotJson &) {
            throw wrong(key);
        }
    }
    Invalid wrong(const std::string &key) const { return Invalid(say("\"", key, "\" is ", shown(text(key)))); }

private:
    const std::map<std::string, std::string> &fields_;
};

Sizes read_sizes(const Metadata &metadata, bool first_version) {
    const Json data = metadata.json("sizes"), &letters = first_schema()["sizes"];
    Sizes sizes;
    for (const auto &[name, size] : data.items()) {
        if (!data.is_object() || !size.is_number_integer() || (first_version && !letters.contains(name))) throw metadata.wrong("sizes");
        sizes.emplace_back(first_version ? letters.at(name).get<std::string>() : name, size.get<std::int64_t>());
    }
    check_sizes(sizes);
    return sizes;
}

Table<Axes> read_kept(const Metadata &metadata, const Sizes &sizes, bool first_version) {
    Json data = Json::object();
    if (first_version) {
        for (const auto &name : first_schema()["keeps"].get<Names>()) data[name] = first_schema()["tensors"].at(name);
    } else {
        data = metadata.json("tensors");
    }
    Table<Axes> kept;
    for (const auto &[name, axes] : data.items()) {
        if (!data.is_object()) throw metadata.wrong("tensors");
        check_axes(name, axes, sizes);
        kept.emplace_back(name, axes);
    }
    require(kept.find(kPicture), "\"tensors\" lacks \"", kPicture, "\"");
    return kept;
}

Rows read_rows(const Metadata &metadata, std::int64_t height) {
    const Json data = metadata.json("visible_rows");
    if (data.is_array() && data.size() == 2 && data[0].is_number_integer() && data[1].is_number_integer()) {
        const Rows rows{data[0].get<std::int64_t>(), data[1].get<std::int64_t>()};
        if (rows.first >= 0 && rows.first < rows.second && rows.second <= height) return rows;
    }
    throw metadata.wrong("visible_rows");
}

Names read_names(const Metadata &metadata) {
    const Json data = metadata.json("names");
    Names names;
    for (const Json &name : data) names.push_back(name.is_string() ? name.get<std::string>() : name.dump());
    if (!data.is_array() || names.empty()) throw metadata.wrong("names");
    return names;
}

// The tensor stored as `name`, checked.
TensorPtr read_tensor(const SafeTensors &file, const std::string &name, const Shape &expected, const std::string &path) {
    const auto found = file.tensors.find(name);
    const bool there = found != file.tensors.end();
    if (!there || found->second.dtype != "F32" || found->second.tensor->shape != expected) {
        const std::string what = there ? found->second.dtype + " " + text_of(found->second.tensor->shape) : "nothing";
        throw Error(SDIC_ERROR_FILE, say(path, " holds ", what, " as \"", name, "\", expected F32 ", text_of(expected), "; invert the picture again"));
    }
    const auto &values = found->second.tensor->data;
    if (std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) return found->second.tensor;
    throw Error(SDIC_ERROR_FILE, say(path, " holds NaN or infinite values in \"", name, "\"; invert the picture again"));
}

SafeTensors read_inversion(const std::string &path) {
    int number = 0;
    try {
        SafeTensors file = read_safetensors(path, number);
        if (number == ENOENT) throw Error(SDIC_ERROR_FILE, say("there is no inversion at ", path, "; make one with: sdic-run invert IMG --save"));
        if (number != 0) throw Error(SDIC_ERROR_FILE, say("cannot read the inversion ", path, ": ", reason(number)));
        return file;
    } catch (const NotSafeTensors &error) {
        throw Error(SDIC_ERROR_FILE, say(path, " is not a saved inversion, or damaged (", error.what(), "); invert the picture again"));
    }
}

}  // namespace

void Result::save(const std::string &path) const {
    Json sizes = Json::object(), axes = Json::object();
    for (const auto &[letter, size] : model.sizes) sizes[letter] = size;
    Tensors held;
    for (const auto &[name, own] : model.kept) {
        axes[name] = own;
        if (tensors.count(name) == 0) throw Error(SDIC_ERROR_ARGUMENT, say("these are edited pictures, and no inversion: they have no \"", name, "\"; save the inversion"));
        held[name] = tensors.at(name);
    }
    const Json rows = {model.visible_rows.first, model.visible_rows.second};
    write_safetensors(path, held,
                      {{"format", kFormat}, {"version", kVersion}, {"model", model.identity}, {"bundle", model.name}, {"sizes", python_json(sizes)},
                       {"tensors", python_json(axes)}, {"visible_rows", python_json(rows)}, {"names", python_json(names)}});
}

Result Result::load(const std::string &path) {
    const SafeTensors file = read_inversion(path);
    const auto text = [&](const std::string &key) { return file.metadata.count(key) != 0 ? file.metadata.at(key) : "none"; };
    if (text("format") != kFormat) {
        throw Error(SDIC_ERROR_FILE, say(path, " is not a saved inversion; make one with: sdic-run invert IMG --save"));
    }
    const bool first_version = text("version") == kFirstVersion;
    if (!first_version && text("version") != kVersion) {
        throw Error(SDIC_ERROR_FILE, say(path, " is an inversion of format version ", text("version"), ", and this program reads version ", kVersion,
                                         "; invert the picture again"));
    }
    Result result;
    try {
        const Metadata metadata(file.metadata);
        const Sizes sizes = read_sizes(metadata, first_version);
        const Table<Axes> kept = read_kept(metadata, sizes, first_version);
        result.model = {metadata.text("model"), metadata.text("bundle"), sizes, kept, read_rows(metadata, *sizes.find("R"))};
        result.names = read_names(metadata);
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_FILE, say(path, " has damaged metadata (", error.what(), "); invert the picture again"));
    }
    for (const auto &[name, axes] : result.model.kept) {
        std::string stored = name;
        for (const auto &[old, tensor] : first_schema()["kept_names"].items()) {
            if (first_version && tensor == name) stored = old;
        }
        result.tensors[name] = read_tensor(file, stored, shape_of(axes, result.model.sizes, static_cast<std::int64_t>(result.names.size())), path);
    }
    return result;
}

}  // namespace sdic_internal
