#include "close_match.hpp"

#include <string_view>

namespace sdic_internal {

namespace {

constexpr double kCutoff = 0.6;

// How many characters match: the longest common run, and the same again on either side of it.
std::size_t matching(std::string_view first, std::string_view second) {
    std::size_t best_i = 0, best_j = 0, longest = 0;
    for (std::size_t i = 0; i < first.size(); ++i) {
        for (std::size_t j = 0; j < second.size(); ++j) {
            std::size_t length = 0;
            while (i + length < first.size() && j + length < second.size() && first[i + length] == second[j + length]) ++length;
            if (length > longest) best_i = i, best_j = j, longest = length;
        }
    }
    if (longest == 0) return 0;
    return longest + matching(first.substr(0, best_i), second.substr(0, best_j)) +
           matching(first.substr(best_i + longest), second.substr(best_j + longest));
}

}  // namespace

std::string close_match(const std::string &word, const std::vector<std::string> &names) {
    std::string best;
    double highest = kCutoff;
    for (const auto &name : names) {
        if (word.size() > 100 || name.size() > 100 || word.empty() || name.empty()) continue;
        const double ratio = 2.0 * static_cast<double>(matching(name, word)) / static_cast<double>(word.size() + name.size());
        if (ratio > highest || (ratio == highest && name > best)) best = name, highest = ratio;
    }
    return best;
}

}  // namespace sdic_internal
