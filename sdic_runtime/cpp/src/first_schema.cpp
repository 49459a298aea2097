// Bundles of schema 1, turned into schema 2.
#include <algorithm>

#include "manifest.hpp"

namespace sdic_internal {

extern const char *const kFirstSchema;  // sdic_runtime/bundle/schema1.json, put into the library when it is built

namespace {

bool starts_with(const std::string &text, const std::string &start) { return text.compare(0, start.size(), start) == 0; }
bool ends_with(const std::string &text, const std::string &end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

const Json &object(const Json &value) {
    require(value.is_object(), "it has ", shown(value), " in place of an object");
    return value;
}

Json member_or_empty(const Json &data, const std::string &key) { return data.contains(key) ? data.at(key) : Json::object(); }

// "stage" or "stage:output" -> variant -> files
Json first_graphs(const Json &data, const std::string &cpu) {
    Json graphs = Json::object();
    for (const Json &table : {data.at("stages"), member_or_empty(data, "partials")}) {
        for (const auto &[key, choices] : object(table).items()) {
            graphs[key] = Json::object();
            for (const auto &[variant, file] : object(choices).items()) graphs[key][variant] = Json::array({file});
        }
    }
    const Json optimized = member_or_empty(data, "cpu");
    for (const auto &[key, files] : object(optimized).items()) graphs[key][cpu] = files;
    return graphs;
}

// External weights were found by their names: those of the stage's own graphs may be read by all of its graphs.
Json first_weights(const Json &graphs, const Json &files, const std::string &cpu) {
    Json weights = Json::object();
    for (const auto &[key, variants] : graphs.items()) {
        const Json whole = member_or_empty(graphs, key.substr(0, key.find(':')));
        for (const auto &[variant, own] : variants.items()) {
            Names sharing = own.get<Names>();
            const auto add = [&](const std::string &other) {
                for (const Json &file : member_or_empty(whole, other)) sharing.push_back(file.get<std::string>());
            };
            add(variant == cpu ? kStandard : variant);
            if (variant == cpu) add(cpu);
            Names names;
            for (const auto &item : object(files).items()) {
                const auto shares = [&](const std::string &graph) { return starts_with(item.key(), graph + "."); };
                if (ends_with(item.key(), ".data") && std::any_of(sharing.begin(), sharing.end(), shares)) names.push_back(item.key());
            }
            if (names.empty()) continue;
            for (const Json &graph : own) weights[graph.get<std::string>()] = names;
        }
    }
    return weights;
}

}  // namespace

const Json &first_schema() {
    static const Json data = parse_json(kFirstSchema);
    return data;
}

Json from_first_schema(const Json &data) {
    const Json &first = first_schema();
    const auto same = first.at("same").get<Names>(), changed = first.at("changed").get<Names>();
    try {
        Json converted = first.at("defaults");
        for (const auto &[key, value] : data.items()) {
            if (contains(same, key)) converted[key] = value;
            require(contains(same, key) || contains(changed, key) || key == "schema", "unknown key \"", key, "\"");
        }
        for (const char *table : {"tensors", "stages", "programs", "keeps", "moves"}) converted[table] = first.at(table);
        converted["sizes"] = Json::object();
        for (const auto &[name, size] : data.at("sizes").items()) converted["sizes"][first.at("sizes").at(name).get<std::string>()] = size;
        converted["input"] = {{"visible_rows", data.at("visible_rows")}};
        converted["graphs"] = first_graphs(data, first.at("cpu"));
        converted["weights"] = first_weights(converted["graphs"], data.at("files"), first.at("cpu"));
        return converted;
    } catch (const Json::exception &error) {
        throw Invalid("it is not of the form of schema 1 (", error.what(), ")");
    }
}

}  // namespace sdic_internal
