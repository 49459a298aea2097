// JSON, and values in sentences.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "errors.hpp"

namespace sdic_internal {

using Json = nlohmann::ordered_json;  // keeps the order of the file
using Names = std::vector<std::string>;

// Parsed JSON. Throws Invalid, in which `what` names it, also for more parts than any file of ours has.
Json parse_json(const std::string &text, const std::string &what = "it");

// `value` as Python's json.dumps writes it.
std::string python_json(const Json &value);

// The beginning of `value` as JSON.
std::string shown(const Json &value);

// "a, b, c", or `empty` where there is none.
std::string listed(const Names &names, const std::string &empty = "none");

// The names of a table or a map.
template <typename Map>
Names keys_of(const Map &map) {
    Names keys;
    for (const auto &item : map) keys.push_back(item.first);
    return keys;
}

bool contains(const Names &names, const std::string &name);

}  // namespace sdic_internal
