#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "errors.hpp"
#include "files.hpp"

namespace sdic_internal {

namespace {

using Kinds = std::vector<Json::value_t>;

// Makes the error for one manifest: where, what, and the command that mends it.
struct Fail {
    std::string origin;

    template <typename... Parts>
    Error operator()(const Parts &...what) const {
        return Error(SDIC_ERROR_BUNDLE, say(origin, " is not a valid bundle manifest: ", what..., "; ", kBuildHint));
    }
};

struct Key {
    const char *name;
    Kinds kinds;
    bool required;
};

// A key that is not here is an error: it would be a promise that this version does not keep.
const std::vector<Key> &keys() {
    using Type = Json::value_t;
    static const Kinds integer = {Type::number_integer, Type::number_unsigned, Type::boolean};
    static const Kinds string = {Type::string}, object = {Type::object}, list = {Type::array};
    static const std::vector<Key> table = {
        {"schema", integer, true}, {"name", string, true}, {"method", string, true}, {"domain", string, true},
        {"sizes", object, true}, {"visible_rows", list, true}, {"stages", object, true}, {"default_precision", string, true},
        {"files", object, true}, {"directions", object, false}, {"golden", {Type::string, Type::null}, false},
        {"tolerances", object, false}, {"tools", object, false}, {"licence", string, false},
        {"checkpoint", object, false}, {"partials", object, false}, {"cpu", object, false},
    };
    return table;
}

std::string kind_name(Json::value_t kind) {
    switch (kind) {
        case Json::value_t::string: return "a string";
        case Json::value_t::object: return "an object";
        case Json::value_t::array: return "a list";
        case Json::value_t::null: return "null";
        default: return "an integer";
    }
}

std::string expected_kinds(const Kinds &kinds) {
    std::string text;
    for (const auto kind : kinds) {
        const std::string name = kind_name(kind);
        if (text.find(name) == std::string::npos) text += (text.empty() ? "" : " or ") + name;
    }
    return text;
}

void check_types(const Json &data, const Fail &fail) {
    for (const auto &[name, value] : data.items()) {
        const bool known = std::any_of(keys().begin(), keys().end(), [&key = name](const Key &item) { return key == item.name; });
        if (!known) throw fail("unknown key \"", name, "\"");
    }
    for (const auto &key : keys()) {
        const auto found = data.find(key.name);
        if (found == data.end()) {
            if (key.required) throw fail("the key \"", key.name, "\" is missing");
        } else if (std::find(key.kinds.begin(), key.kinds.end(), found->type()) == key.kinds.end()) {
            throw fail("\"", key.name, "\" is ", python_repr(*found, 60), ", expected ", expected_kinds(key.kinds));
        }
    }
}

bool is_count(const Json &value) { return value.is_number_integer() && value.get<std::int64_t>() > 0; }

Sizes read_sizes(const Json &data, const Fail &fail) {
    std::string names;
    bool valid = data.size() == size_fields().size();
    for (const auto &field : size_fields()) {
        names += (names.empty() ? "" : ", ") + std::string(field.name);
        valid = valid && data.contains(field.name) && is_count(data[field.name]);
    }
    if (!valid) throw fail("sizes is ", python_repr(data), ", expected positive integers for ", names);
    Sizes sizes;
    for (const auto &field : size_fields()) sizes.*field.field = data[field.name].get<std::int64_t>();
    if (static_cast<double>(sizes.rows) != 2 * std::log2(static_cast<double>(sizes.resolution)) - 2) {
        throw fail("sizes has ", sizes.rows, " rows at resolution ", sizes.resolution, ", expected 2 * log2(resolution) - 2");
    }
    return sizes;
}

std::pair<std::int64_t, std::int64_t> read_visible_rows(const Json &data, const Sizes &sizes, const Fail &fail) {
    bool valid = data.size() == 2 && data[0].is_number_integer() && data[1].is_number_integer();
    std::pair<std::int64_t, std::int64_t> rows{-1, -1};
    if (valid) rows = {data[0].get<std::int64_t>(), data[1].get<std::int64_t>()};
    valid = valid && rows.first >= 0 && rows.first < rows.second && rows.second <= sizes.resolution;
    if (!valid) throw fail("visible_rows is ", python_repr(data), ", expected [first, end] within 0..", sizes.resolution);
    if (rows.first * sizes.working % sizes.resolution != 0 || rows.second * sizes.working % sizes.resolution != 0) {
        throw fail("visible_rows ", python_repr(data), " does not fall on whole rows at the working size ", sizes.working);
    }
    return rows;
}

FileEntry read_file_entry(const std::string &name, const Json &data, const Fail &fail) {
    if (!is_inside(name)) throw fail("the file name \"", name, "\" leaves the bundle");
    bool valid = data.is_object() && data.size() == 2 && data.contains("sha256") && data.contains("bytes") &&
                 data["bytes"].is_number_integer() && data["sha256"].is_string();
    if (valid) {
        const auto &hash = data["sha256"].get_ref<const std::string &>();
        valid = hash.size() == 64 && hash.find_first_not_of("0123456789abcdef") == std::string::npos;
    }
    if (!valid) throw fail("the entry of file \"", name, "\" is ", python_repr(data, 80), ", expected sha256 and bytes");
    return {data["sha256"].get<std::string>(), data["bytes"].get<std::int64_t>()};
}

std::map<std::string, std::string> read_strings(const std::string &key, const Json &data, const Fail &fail) {
    std::map<std::string, std::string> strings;
    for (const auto &[name, value] : data.items()) {
        if (!value.is_string()) throw fail(key, "[\"", name, "\"] is ", python_repr(value, 60), ", expected a string");
        strings[name] = value.get<std::string>();
    }
    return strings;
}

std::map<std::string, std::map<std::string, std::string>> read_stages(const Json &data, const Fail &fail) {
    for (const auto &item : stages()) {
        if (!data.contains(item.name)) throw fail("the stage \"", item.name, "\" is missing");
    }
    for (const auto &[name, choices] : data.items()) {
        const bool known = std::any_of(stages().begin(), stages().end(), [&key = name](const Stage &item) { return key == item.name; });
        if (!known) throw fail("unknown stage \"", name, "\"");
        if (!choices.is_object() || choices.empty()) {
            throw fail("stages[\"", name, "\"] is ", python_repr(choices, 60), ", expected precision -> file");
        }
    }
    std::map<std::string, std::map<std::string, std::string>> found;
    for (const auto &item : stages()) found[item.name] = read_strings("stages[\"" + item.name + "\"]", data[item.name], fail);
    return found;
}

// The stage of "stage:output", or of a stage alone.
std::string stage_of(const std::string &key) { return key.substr(0, key.find(':')); }

// Whether `key` is a "stage:output" of the stage table.
bool is_partial(const std::string &key) {
    return std::any_of(stages().begin(), stages().end(), [&](const Stage &item) {
        return std::any_of(item.outputs.begin(), item.outputs.end(), [&](const std::string &output) { return key == item.name + ":" + output; });
    });
}

std::map<std::string, std::map<std::string, std::string>> read_partials(const Json &data, const Fail &fail) {
    std::map<std::string, std::map<std::string, std::string>> found;
    for (const auto &[key, choices] : data.items()) {
        if (!is_partial(key)) throw fail("partials has \"", key, "\", expected \"stage:output\" of the stage table");
        if (!choices.is_object()) throw fail("partials[\"", key, "\"] is ", python_repr(choices, 60), ", expected precision -> file");
    }
    for (const auto &[key, choices] : data.items()) found[key] = read_strings("partials[\"" + key + "\"]", choices, fail);
    return found;
}

std::map<std::string, std::vector<std::string>> read_cpu(const Json &data, const Manifest &manifest, const Fail &fail) {
    std::map<std::string, std::vector<std::string>> found;
    for (const auto &[key, names] : data.items()) {
        const auto own = manifest.stages.find(stage_of(key));
        const bool known = own != manifest.stages.end() && own->second.count(kCpuPrecision) != 0;
        if (!known || (own->first != key && !is_partial(key))) {
            throw fail("cpu has \"", key, "\", expected a stage or \"stage:output\" of the stage table with a graph in ", kCpuPrecision);
        }
        const bool valid = names.is_array() && !names.empty() && std::all_of(names.begin(), names.end(), [](const Json &name) { return name.is_string(); });
        if (!valid) throw fail("cpu[\"", key, "\"] is ", python_repr(names, 60), ", expected a list of files");
        found[key] = names.get<std::vector<std::string>>();
    }
    return found;
}

void check_tolerances(const Json &data, const Fail &fail) {
    for (const auto &[name, value] : data.items()) {
        if (!value.is_number() || !(value.get<double>() > 0) || std::isinf(value.get<double>())) {
            throw fail("tolerances[\"", name, "\"] is ", python_repr(value, 60), ", expected a positive number");
        }
    }
}

void check_listing(const Manifest &manifest, const std::string &golden, const Fail &fail) {
    const auto check = [&](const std::string &name) {
        if (manifest.files.find(name) == manifest.files.end()) throw fail("\"", name, "\" is not listed under files");
    };
    for (const auto &item : stages()) {
        for (const auto &[precision, name] : manifest.stages.at(item.name)) check(name);
    }
    for (const auto &[key, choices] : manifest.partials) {
        for (const auto &[precision, name] : choices) check(name);
    }
    for (const auto &[stage, names] : manifest.cpu) {
        for (const auto &name : names) check(name);
    }
    for (const auto &[direction, name] : manifest.directions) check(name);
    if (!golden.empty()) check(golden);
}

void check_schema(const Json &data, const std::string &origin, const Fail &fail) {
    const Json schema = data.contains("schema") ? data["schema"] : Json();
    if (schema.is_number_integer() && schema.get<std::int64_t>() > kSchema) {
        throw Error(SDIC_ERROR_BUNDLE, say(origin, " has schema ", schema.dump(), ", and this version reads schema ", kSchema,
                                           "; update with: pip install --upgrade sdic"));
    }
    if (!schema.is_number() || schema.get<double>() != kSchema) throw fail("schema is ", python_repr(schema), ", expected ", kSchema);
}

bool starts_with(const std::string &text, const std::string &beginning) { return text.compare(0, beginning.size(), beginning) == 0; }

}  // namespace

Manifest manifest_from_json(const Json &data, const std::string &origin) {
    const Fail fail{origin};
    if (!data.is_object()) throw fail("it is not a JSON object");
    check_schema(data, origin, fail);
    check_types(data, fail);
    const auto text = [&](const char *key) { return data.contains(key) && data[key].is_string() ? data[key].get<std::string>() : std::string(); };
    const auto object = [&](const char *key) { return data.contains(key) ? data[key] : Json::object(); };
    if (text("method") != "sdic") throw fail("method is \"", text("method"), "\", and this version runs \"sdic\"");
    Manifest manifest;
    manifest.name = text("name");
    manifest.method = text("method");
    manifest.domain = text("domain");
    manifest.licence = text("licence");
    manifest.default_precision = text("default_precision");
    manifest.sizes = read_sizes(data["sizes"], fail);
    manifest.visible_rows = read_visible_rows(data["visible_rows"], manifest.sizes, fail);
    for (const auto &[name, entry] : data["files"].items()) manifest.files[name] = read_file_entry(name, entry, fail);
    manifest.stages = read_stages(data["stages"], fail);
    manifest.directions = read_strings("directions", object("directions"), fail);
    check_tolerances(object("tolerances"), fail);
    read_strings("tools", object("tools"), fail);
    read_strings("checkpoint", object("checkpoint"), fail);
    manifest.partials = read_partials(object("partials"), fail);
    manifest.cpu = read_cpu(object("cpu"), manifest, fail);
    check_listing(manifest, text("golden"), fail);
    const auto complete = manifest.precisions();
    if (std::find(complete.begin(), complete.end(), manifest.default_precision) == complete.end()) {
        throw fail("default_precision is \"", manifest.default_precision, "\", and all stages are there in: ", listed(complete));
    }
    return manifest;
}

std::vector<std::string> Manifest::precisions() const {
    std::vector<std::string> common;
    for (const auto &[precision, file] : stages.begin()->second) {
        const bool everywhere = std::all_of(stages.begin(), stages.end(), [&key = precision](const auto &item) { return item.second.count(key) != 0; });
        if (everywhere) common.push_back(precision);
    }
    return common;
}

std::vector<std::string> Manifest::graph_files(const std::string &stage, const std::string &precision, bool arranged) const {
    const std::string &own = stages.at(stage_of(stage)).at(precision);
    const auto form = arranged ? cpu.find(stage) : cpu.end();
    std::vector<std::string> names = form != cpu.end() ? form->second : std::vector<std::string>{own};
    std::vector<std::string> sharing = names;
    sharing.push_back(own);
    if (const auto whole = arranged ? cpu.find(stage_of(stage)) : cpu.end(); whole != cpu.end()) {
        sharing.insert(sharing.end(), whole->second.begin(), whole->second.end());
    }
    for (const auto &item : files) {
        const auto belongs = [&](const std::string &graph) { return starts_with(item.first, graph + "."); };
        if (std::any_of(sharing.begin(), sharing.end(), belongs)) names.push_back(item.first);
    }
    return names;
}

std::vector<std::string> Manifest::stage_files(const std::string &precision, bool arranged) const {
    std::set<std::string> names;
    for (const auto &[stage, choices] : stages) {
        if (choices.count(precision) == 0) continue;
        for (const auto &name : graph_files(stage, precision, arranged)) names.insert(name);
    }
    for (const auto &[key, graphs] : cpu) {
        if (!arranged || !is_partial(key)) continue;
        for (const auto &name : graph_files(key, precision, true)) names.insert(name);
    }
    return {names.begin(), names.end()};
}

std::string Manifest::identity() const {
    const auto complete = precisions();
    const bool full = std::find(complete.begin(), complete.end(), "fp32") != complete.end();
    const auto quoted = [](const std::string &text) { return Json(text).dump(-1, ' ', true); };
    std::string hashes;
    for (const auto &name : stage_files(full ? "fp32" : default_precision)) {
        hashes += (hashes.empty() ? "" : ", ") + quoted(name) + ": " + quoted(files.at(name).sha256);
    }
    return sha256_of_text(say("[", quoted(method), ", ", sizes_json(sizes, true), ", [", visible_rows.first, ", ", visible_rows.second,
                              "], {", hashes, "}]"));
}

}  // namespace sdic_internal
