#include "manifest.hpp"

#include <algorithm>
#include <cmath>

#include "files.hpp"

namespace sdic_internal {

namespace {

constexpr int kSchema = 2;

// One value of the manifest and its place in it, for sentences.
class Value {
public:
    Value(const Json &json, std::string place) : json_(json), place_(std::move(place)) {}

    void expect(bool holds, const char *what) const {
        if (!holds) throw Invalid(say(place_, " is ", shown(json_), ", expected ", what));
    }
    std::string text() const {
        expect(json_.is_string(), "a string");
        return json_.get<std::string>();
    }
    std::int64_t integer() const {
        expect(json_.is_number_integer(), "an integer");
        return json_.get<std::int64_t>();
    }
    double number() const {
        expect(json_.is_number(), "a number");
        return json_.get<double>();
    }
    const Json &axes() const {
        expect(json_.is_array(), "a list");
        return json_;
    }
    std::vector<Value> list() const {
        expect(json_.is_array(), "a list");
        std::vector<Value> values;
        for (std::size_t i = 0; i < json_.size(); ++i) values.emplace_back(json_[i], say(place_, "[", i, "]"));
        return values;
    }
    Names names() const {
        Names all;
        for (const Value &value : list()) all.push_back(value.text());
        return all;
    }
    // What `read` makes of every value of an object, by name.
    template <typename Read>
    auto table(Read read) const {
        expect(json_.is_object(), "an object");
        Table<decltype(read(*this))> all;
        for (const auto &[key, value] : json_.items()) all.emplace_back(key, read(Value(value, say(place_, "[\"", key, "\"]"))));
        return all;
    }
    // An object of these keys. One that is not listed is an error: it would be a promise that this version does not keep.
    const Value &of(const Names &needed, const Names &optional = {}) const {
        expect(json_.is_object(), "an object");
        for (const auto &item : json_.items()) {
            require(contains(needed, item.key()) || contains(optional, item.key()), place_, " has the unknown key \"", item.key(), "\"");
        }
        for (const auto &key : needed) require(json_.contains(key), place_, " lacks the key \"", key, "\"");
        return *this;
    }
    bool has(const char *key) const { return json_.contains(key) && !json_.at(key).is_null(); }
    // The value of a key; where it is not there, `otherwise`, which must outlive it.
    Value at(const char *key, const Json &otherwise = nullptr) const {
        return {json_.contains(key) ? json_.at(key) : otherwise, place_ == "it" ? std::string(key) : say(place_, ".", key)};
    }

private:
    const Json &json_;
    std::string place_;
};

std::string text_in(const Value &value) { return value.text(); }
Names names_in(const Value &value) { return value.names(); }

Step read_step(const Value &value) {
    const auto parts = value.list();
    value.expect(parts.size() == 3, "[stage, inputs, outputs]");
    return {parts[0].text(), parts[1].table(text_in), parts[2].table(text_in)};
}

Program read_program(const Value &value) {
    value.of({"takes", "steps", "gives"}, {"zeros"});
    Program program{value.at("takes").names(), {}, value.at("gives").table(text_in), value.at("zeros", Json::array()).names()};
    for (const Value &step : value.at("steps").list()) program.steps.push_back(read_step(step));
    return program;
}

Move read_move(const Value &value) {
    value.of({"program", "codes"}, {"kinds"});
    return {value.at("program").text(), value.at("codes").names(), value.at("kinds", {kDirectionKind, kGanSpaceKind}).names()};
}

FileEntry read_file_entry(const Value &value) {
    value.of({"sha256", "bytes"});
    FileEntry entry{value.at("sha256").text(), value.at("bytes").integer()};
    const bool hash = entry.sha256.size() == 64 && entry.sha256.find_first_not_of("0123456789abcdef") == std::string::npos;
    value.expect(hash && entry.bytes >= 0, "the SHA-256 and the bytes of a file");
    return entry;
}

void read_input(const Value &value, Manifest &manifest) {
    value.of({"visible_rows"}, {"resampling"});
    const Value rows = value.at("visible_rows");
    const auto pair = rows.list();
    rows.expect(pair.size() == 2, "[first, end]");
    const auto [first, end] = manifest.visible_rows = {pair[0].integer(), pair[1].integer()};
    const std::int64_t picture = manifest.size("R"), working = manifest.size("S");
    require(0 <= first && first < end && end <= picture, "visible_rows is [", first, ", ", end, "], expected [first, end] within 0..", picture);
    const bool whole = first * working % picture == 0 && end * working % picture == 0;
    require(whole, "visible_rows [", first, ", ", end, "] does not fall on whole rows at the working size ", working);
    manifest.resampling = value.at("resampling", "bilinear").text();
    const bool known = contains({"bilinear", "bicubic", "lanczos"}, manifest.resampling);
    require(known, "resampling is \"", manifest.resampling, "\", expected bilinear, bicubic or lanczos");
}

void check_graphs(const Manifest &manifest) {
    for (const Stage &stage : manifest.stages) {
        const auto *variants = manifest.graphs.find(stage.name);
        require(variants && !variants->empty(), "the stage \"", stage.name, "\" has no graphs");
    }
    for (const auto &[key, variants] : manifest.graphs) {
        const auto colon = key.find(':');
        const Stage *stage = manifest.stage(key.substr(0, colon));
        const bool known = stage && (colon == std::string::npos || contains(stage->outputs, key.substr(colon + 1)));
        require(known, "graphs has \"", key, "\", expected a stage or \"stage:output\" of the stage table");
        for (const auto &[variant, files] : variants) {
            require(!files.empty(), "graphs[\"", key, "\"][\"", variant, "\"] is empty, expected a list of files");
        }
    }
    const Names complete = manifest.precisions();
    require(contains(complete, manifest.default_precision), "default_precision is \"", manifest.default_precision,
            "\", and all stages are there in: ", listed(complete));
}

void check_files(const Manifest &manifest, const Value &data) {
    const auto listed_file = [&](const std::string &name) { require(manifest.files.count(name) != 0, "\"", name, "\" is not listed under files"); };
    for (const auto &item : manifest.files) require(is_inside(item.first), "the file name \"", item.first, "\" leaves the bundle");
    for (const auto &[key, variants] : manifest.graphs) {
        for (const auto &[variant, files] : variants) std::for_each(files.begin(), files.end(), listed_file);
    }
    for (const auto &[graph, files] : manifest.weights) std::for_each(files.begin(), files.end(), listed_file);
    for (const auto &[direction, file] : manifest.directions) listed_file(file);
    if (data.has("golden")) listed_file(data.at("golden").text());
}

Manifest read_manifest(const Value &data) {
    data.of({"method", "sizes", "tensors", "stages", "programs", "keeps", "moves", "name", "domain", "input", "graphs", "default_precision", "files"},
            {"schema", "faces", "weights", "directions", "golden", "tolerances", "tools", "licence", "checkpoint"});
    const Json none = Json::object();
    Manifest manifest;
    manifest.method = data.at("method").text();
    manifest.sizes = data.at("sizes").table([](const Value &value) { return value.integer(); });
    manifest.tensors = data.at("tensors").table([](const Value &value) { return value.axes(); });
    for (auto &[name, stage] : data.at("stages").table([](const Value &value) -> Stage {
             value.of({"inputs", "outputs"});
             return {"", value.at("inputs").names(), value.at("outputs").names()};
         })) {
        manifest.stages.push_back({name, stage.inputs, stage.outputs});
    }
    manifest.programs = data.at("programs").table(read_program);
    manifest.keeps = data.at("keeps").names();
    manifest.moves = data.at("moves").table(read_move);
    check_method(manifest);
    manifest.name = data.at("name").text();
    manifest.domain = data.at("domain").text();
    manifest.licence = data.at("licence", "").text();
    manifest.default_precision = data.at("default_precision").text();
    read_input(data.at("input"), manifest);
    if (data.has("faces")) data.at("faces").text();
    manifest.graphs = data.at("graphs").table([](const Value &value) { return value.table(names_in); });
    for (auto &[graph, files] : data.at("weights", none).table(names_in)) manifest.weights[graph] = files;
    for (auto &[name, entry] : data.at("files").table(read_file_entry)) manifest.files[name] = entry;
    for (auto &[name, file] : data.at("directions", none).table(text_in)) manifest.directions[name] = file;
    data.at("tools", none).table(text_in);
    data.at("checkpoint", none).table(text_in);
    for (const auto &[name, value] : data.at("tolerances", none).table([](const Value &number) { return number.number(); })) {
        require(value > 0 && std::isfinite(value), "tolerances[\"", name, "\"] is ", value, ", expected a positive number");
    }
    check_graphs(manifest);
    check_files(manifest, data);
    return manifest;
}

}  // namespace

Manifest parse_manifest(const std::string &text, const std::string &origin) {
    try {
        Json data = parse_json(text);
        require(data.is_object(), "it is not a JSON object");
        const Json schema = data.contains("schema") ? data["schema"] : Json();
        if (schema.is_number_integer() && schema.get<std::int64_t>() > kSchema) {
            throw Error(SDIC_ERROR_BUNDLE, say(origin, " has schema ", schema.dump(), ", and this version reads schema ", kSchema,
                                               "; update with: pip install --upgrade sdic-toolkit"));
        }
        require(schema.is_number_integer() && (schema == 1 || schema == kSchema), "schema is ", shown(schema), ", expected ", kSchema);
        if (schema == 1) data = from_first_schema(data);
        return read_manifest(Value(data, "it"));
    } catch (const NotJson &error) {
        throw Error(SDIC_ERROR_BUNDLE, say(origin, " is not valid JSON (", error.what(), "); ", kBuildHint));
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_BUNDLE, say(origin, " is not a valid bundle manifest: ", error.what(), "; ", kBuildHint));
    }
}

Names Manifest::precisions() const {
    Names common;
    for (const auto &item : *graphs.find(stages.front().name)) {
        const auto has = [&](const Stage &stage) { return graphs.find(stage.name)->find(item.first) != nullptr; };
        if (std::all_of(stages.begin(), stages.end(), has)) common.push_back(item.first);
    }
    std::sort(common.begin(), common.end());
    return common;
}

Graph Manifest::graph_for(const std::string &stage, const Names &outputs, const Names &variants) const {
    Names keys = {stage};
    if (outputs.size() == 1) keys.insert(keys.begin(), stage + ":" + outputs.front());
    for (const auto &key : keys) {
        const auto *choices = graphs.find(key);
        for (const auto &variant : variants) {
            if (const Names *found = choices ? choices->find(variant) : nullptr) return {key, *found};
        }
    }
    throw Error(SDIC_ERROR_INTERNAL, say("there is no graph of the stage \"", stage, "\" in ", listed(variants)));
}

Names Manifest::files_of(const Names &graph_files) const {
    Names all;
    const auto add = [&all](const std::string &name) {
        if (!contains(all, name)) all.push_back(name);
    };
    for (const auto &graph : graph_files) {
        add(graph);
        if (const auto found = weights.find(graph); found != weights.end()) std::for_each(found->second.begin(), found->second.end(), add);
    }
    return all;
}

std::string Manifest::identity() const {
    const std::string precision = contains(precisions(), kStandard) ? kStandard : default_precision;
    std::map<std::string, std::string> hashes;
    for (const Stage &stage : stages) {
        for (const auto &name : files_of(*graphs.find(stage.name)->find(precision))) hashes[name] = files.at(name).sha256;
    }
    std::map<std::string, std::int64_t> named(sizes.begin(), sizes.end());
    for (const auto &[name, letter] : first_schema()["sizes"].items()) {  // so that inversions of schema 1 stay valid
        if (auto size = named.extract(letter.get<std::string>())) {
            size.key() = name;
            named.insert(std::move(size));
        }
    }
    return sha256_of_text(python_json({method, named, {visible_rows.first, visible_rows.second}, hashes}));
}

}  // namespace sdic_internal
