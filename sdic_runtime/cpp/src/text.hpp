// JSON, and values in sentences.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace sdic_internal {

using Json = nlohmann::ordered_json;  // keeps the order of the file
using Names = std::vector<std::string>;

// Why a text is not JSON that this library reads, in a few words. Callers make the sentence.
class NotJson : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Parsed JSON. Throws NotJson, also for nesting and numbers of keys far beyond those of any file of ours.
Json parse_json(const std::string &text);

// `value` as Python's json.dumps writes it.
std::string python_json(const Json &value);

// The beginning of `value` as JSON.
std::string shown(const Json &value);

// "a, b, c", or `empty` where there is none.
std::string listed(const Names &names, const std::string &empty = "none");

bool contains(const Names &names, const std::string &name);

}  // namespace sdic_internal
