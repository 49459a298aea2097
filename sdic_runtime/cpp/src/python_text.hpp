// Values as Python writes them, so that a sentence reads the same in both languages.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace sdic_internal {

// Keeps the order of the file, as Python's dictionaries do.
using Json = nlohmann::ordered_json;

// repr() of parsed JSON, cut to `limit` characters.
std::string python_repr(const Json &value, std::size_t limit = 1000);
std::string python_repr(const std::string &text, std::size_t limit = 1000);
std::string python_repr(double value);

// "%g" of a number.
std::string python_general(double value);

// [1, 3, 128, 128]
std::string python_list(const std::vector<std::int64_t> &values);

// "a, b, c", or `empty` where there is none.
std::string listed(const std::vector<std::string> &names, const std::string &empty = "none");

}  // namespace sdic_internal
