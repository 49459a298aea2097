// The safetensors file of an inversion: the same file, and the same refusals, as sdic_runtime/inversion.py.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <set>

#include "errors.hpp"
#include "files.hpp"
#include "pipeline.hpp"
#include "safetensors.hpp"

namespace sdic_internal {

namespace {

const std::string kFormat = "sdic-inversion";
const std::string kVersion = "1";

// Name in the file -> tensor of the stage table, in the order in which Python checks them.
const std::vector<std::pair<std::string, std::string>> &names_in_file() {
    static const std::vector<std::pair<std::string, std::string>> table = {
        {"latent", "latent"}, {"latent_enhanced", "latent_enhanced"}, {"feature", "feature"}, {"residual", "residual"},
        {"reconstruction", "reconstruction"}, {"discrepancy", "discrepancy"}, {"pixels", "picture"}};
    return table;
}

Error damaged(const std::string &path, const std::string &what) {
    return Error(SDIC_ERROR_FILE, say(path, " has damaged metadata (", what, "); invert the picture again"));
}

// The field of the metadata, parsed.
Json field(const std::map<std::string, std::string> &metadata, const std::string &key, const std::string &path) {
    const auto found = metadata.find(key);
    if (found == metadata.end()) throw damaged(path, "'" + key + "'");
    try {
        return Json::parse(found->second);
    } catch (const Json::exception &) {
        throw damaged(path, say("\"", key, "\" is ", python_repr(found->second, 60)));
    }
}

Sizes read_sizes(const Json &data, const std::string &path) {
    Sizes sizes;
    for (const auto &item : size_fields()) {
        const bool valid = data.is_object() && data.contains(item.name) && data[item.name].is_number_integer();
        if (!valid || data[item.name].get<std::int64_t>() < 1 || data[item.name].get<std::int64_t>() > 1 << 20) {
            throw damaged(path, say("\"sizes\" is ", python_repr(data, 60)));
        }
        sizes.*item.field = data[item.name].get<std::int64_t>();
    }
    return sizes;
}

Rows read_rows(const Json &data, const Sizes &sizes, const std::string &path) {
    const bool pair = data.is_array() && data.size() == 2 && data[0].is_number_integer() && data[1].is_number_integer();
    if (pair) {
        const Rows rows{data[0].get<std::int64_t>(), data[1].get<std::int64_t>()};
        if (rows.first >= 0 && rows.first < rows.second && rows.second <= sizes.resolution) return rows;
    }
    throw damaged(path, say("\"visible_rows\" is ", python_repr(data, 60)));
}

void check_arrays(const SafeTensors &file, const Sizes &sizes, std::size_t count, const std::string &path) {
    for (const auto &[name, tensor] : names_in_file()) {
        const Shape expected = sizes.shape(tensor, static_cast<std::int64_t>(count));
        const auto found = file.tensors.find(name);
        if (found == file.tensors.end() || found->second.dtype != "F32" || found->second.tensor->shape != expected) {
            std::string what = "nothing";
            if (found != file.tensors.end()) {
                const std::string dtype = found->second.dtype == "F32" ? "float32" : found->second.dtype == "F16" ? "float16" : "float64";
                what = dtype + " " + python_list(found->second.tensor->shape);
            }
            throw Error(SDIC_ERROR_FILE, say(path, " holds ", what, " as \"", name, "\", expected float32 ", python_list(expected), "; invert the picture again"));
        }
        const auto &values = found->second.tensor->data;
        if (!std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); })) {
            throw Error(SDIC_ERROR_FILE, say(path, " holds NaN or infinite values in \"", name, "\"; invert the picture again"));
        }
    }
}

SafeTensors read(const std::string &path) {
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

void Inversion::save(const std::string &path) const {
    const Json rows = {model.visible_rows.first, model.visible_rows.second};
    write_safetensors(path, tensors,
                      {{"format", kFormat}, {"version", kVersion}, {"model", model.identity}, {"bundle", model.name},
                       {"sizes", sizes_json(model.sizes, false)}, {"visible_rows", rows.dump()}, {"names", Json(names).dump()}});
}

Inversion Inversion::load(const std::string &path) {
    SafeTensors file = read(path);
    const auto text = [&](const std::string &key) {
        const auto found = file.metadata.find(key);
        return found == file.metadata.end() ? std::string("None") : found->second;
    };
    if (text("format") != kFormat) {
        throw Error(SDIC_ERROR_FILE, say(path, " is not a saved inversion; make one with: sdic-run invert IMG --save"));
    }
    if (text("version") != kVersion) {
        throw Error(SDIC_ERROR_FILE, say(path, " is an inversion of format version ", text("version"), ", and this program reads version ", kVersion,
                                         "; invert the picture again"));
    }
    const Json rows = field(file.metadata, "visible_rows", path), names = field(file.metadata, "names", path);
    for (const char *key : {"model", "bundle"}) {
        if (file.metadata.count(key) == 0) throw damaged(path, say("'", key, "'"));
    }
    Inversion inversion;
    inversion.model.identity = text("model");
    inversion.model.name = text("bundle");
    inversion.model.sizes = read_sizes(field(file.metadata, "sizes", path), path);
    inversion.model.visible_rows = read_rows(rows, inversion.model.sizes, path);
    if (!names.is_array() || names.empty()) throw damaged(path, say("\"names\" is ", python_repr(names, 60)));
    for (const auto &name : names) inversion.names.push_back(name.is_string() ? name.get<std::string>() : name.dump());
    check_arrays(file, inversion.model.sizes, inversion.names.size(), path);
    for (auto &[name, entry] : file.tensors) inversion.tensors[name] = entry.tensor;
    return inversion;
}

}  // namespace sdic_internal
