#include "manifest.hpp"

#include <algorithm>
#include <cmath>
#include <set>

#include "files.hpp"

namespace sdic_internal {

namespace {

constexpr int kSchema = 2;

Step read_step(const Value &value) {
    const auto parts = value.list();
    value.expect(parts.size() == 3, "[stage, inputs, outputs]");
    return {parts[0].text(), parts[1].table(&Value::text), parts[2].table(&Value::text)};
}

Program read_program(const Value &value) {
    value.of({"takes", "steps", "gives"}, {"zeros"});
    Program program{value.at("takes").names(), {}, value.at("gives").table(&Value::text), value.at("zeros", Json::array()).names()};
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
    const auto [first, end] = manifest.visible_rows = value.at("visible_rows").pair(&Value::integer);
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
            // What edits skip that leave the first style rows alone is not read here: all steps run, with the same pictures.
            {"schema", "rows", "cuts", "part_graphs", "faces", "style_layers", "weights", "directions", "golden", "tolerances", "psnr", "tools",
             "licence", "checkpoint"});
    const Json none = Json::object();
    Manifest manifest;
    manifest.method = data.at("method").text();
    manifest.sizes = data.at("sizes").table(&Value::integer);
    manifest.tensors = data.at("tensors").table(&Value::list_json);
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
    manifest.graphs = data.at("graphs").table([](const Value &value) { return value.table(&Value::names); });
    for (auto &[graph, files] : data.at("weights", none).table(&Value::names)) manifest.weights[graph] = files;
    for (auto &[name, entry] : data.at("files").table(read_file_entry)) manifest.files[name] = entry;
    for (auto &[name, file] : data.at("directions", none).table(&Value::text)) manifest.directions[name] = file;
    data.at("tools", none).table(&Value::text);
    data.at("checkpoint", none).table(&Value::text);
    for (const auto &[name, value] : data.at("tolerances", none).table(&Value::number)) {
        require(value > 0 && std::isfinite(value), "tolerances[\"", name, "\"] is ", value, ", expected a positive number");
    }
    data.at("psnr", none).table(&Value::number);
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
            throw Error(SDIC_ERROR_BUNDLE, origin, " has schema ", schema.dump(), ", and this version reads schema ", kSchema,
                        "; update with: pip install --upgrade sdic-toolkit");
        }
        require(schema.is_number_integer() && (schema == 1 || schema == kSchema), "schema is ", shown(schema), ", expected ", kSchema);
        if (schema == 1) data = from_first_schema(data);
        return read_manifest(Value(data, "it"));
    } catch (const Invalid &error) {
        throw Error(SDIC_ERROR_BUNDLE, origin, " is not a valid bundle manifest: ", error.what(), "; ", kBuildHint);
    }
}

Names Manifest::precisions() const {
    Names common;
    for (const auto &item : *graphs.find(stages.front().name)) {
        const auto has = [&](const Stage &stage) { return graphs.find(stage.name)->find(item.first) != nullptr; };
        if (!contains(kForms, item.first) && std::all_of(stages.begin(), stages.end(), has)) common.push_back(item.first);
    }
    std::sort(common.begin(), common.end());
    return common;
}

Graph Manifest::graph_for(const std::string &whole, const Names &outputs, const Names &variants) const {
    Names keys = {whole};
    if (outputs.size() == 1) keys.insert(keys.begin(), whole + ":" + outputs.front());
    for (const auto &key : keys) {
        const auto *choices = graphs.find(key);
        for (const auto &variant : variants) {
            if (const Names *found = choices ? choices->find(variant) : nullptr) return {key, key == whole ? stage(whole)->outputs : outputs, *found};
        }
    }
    throw Error(SDIC_ERROR_INTERNAL, "there is no graph of the stage \"", whole, "\" in ", listed(variants));
}

Names Manifest::files_of(const Names &graph_files) const {
    std::set<std::string> all(graph_files.begin(), graph_files.end());
    for (const auto &graph : graph_files) {
        if (const auto found = weights.find(graph); found != weights.end()) all.insert(found->second.begin(), found->second.end());
    }
    return {all.begin(), all.end()};
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
