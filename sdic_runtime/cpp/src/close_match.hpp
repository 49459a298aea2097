// The guess in "did you mean": the same as Python's difflib makes.
#pragma once

#include <string>
#include <vector>

namespace sdic_internal {

// The name most similar to `word`, "" where none is similar by at least 0.6.
std::string close_match(const std::string &word, const std::vector<std::string> &names);

}  // namespace sdic_internal
