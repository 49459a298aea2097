#include "stages.hpp"

#include <algorithm>
#include <map>

namespace sdic_internal {

namespace {

// Tensor name -> axes. "N" is the dynamic batch axis; the other letters are fields of Sizes; digits stand for themselves.
const std::map<std::string, std::vector<std::string>> &tensors() {
    static const std::map<std::string, std::vector<std::string>> table = {
        {"image", {"N", "3", "S", "S"}},
        {"latent", {"N", "L", "C"}},
        {"latent_enhanced", {"N", "L", "C"}},
        {"feature", {"N", "K", "64", "64"}},
        {"residual", {"N", "K", "64", "64"}},
        {"rgb", {"N", "3", "32", "32"}},
        {"reconstruction", {"N", "3", "S", "S"}},
        {"discrepancy", {"N", "3", "S", "S"}},
        {"picture", {"N", "3", "R", "R"}},
    };
    return table;
}

}  // namespace

Shape Sizes::shape(const std::string &tensor, std::int64_t batch) const {
    const std::map<std::string, std::int64_t> letters = {{"N", batch}, {"R", resolution}, {"S", working}, {"L", rows},
                                                         {"C", style_width}, {"K", feature_channels}};
    Shape shape;
    for (const auto &axis : tensors().at(tensor)) {
        const auto letter = letters.find(axis);
        shape.push_back(letter == letters.end() ? std::stoll(axis) : letter->second);
    }
    return shape;
}

const std::vector<SizeField> &size_fields() {
    static const std::vector<SizeField> fields = {{"resolution", &Sizes::resolution},
                                                  {"working", &Sizes::working},
                                                  {"rows", &Sizes::rows},
                                                  {"style_width", &Sizes::style_width},
                                                  {"feature_channels", &Sizes::feature_channels}};
    return fields;
}

std::string sizes_json(const Sizes &sizes, bool sorted) {
    std::vector<std::string> items;
    for (const auto &field : size_fields()) items.push_back("\"" + std::string(field.name) + "\": " + std::to_string(sizes.*field.field));
    if (sorted) std::sort(items.begin(), items.end());
    std::string text;
    for (const auto &item : items) text += (text.empty() ? "" : ", ") + item;
    return "{" + text + "}";
}

const std::vector<Stage> &stages() {
    static const std::vector<Stage> table = {
        {"e4e", {"image"}, {"latent"}},
        {"generator_head", {"latent"}, {"feature", "rgb"}},
        {"generator_preview", {"feature", "rgb", "latent"}, {"reconstruction"}},
        {"dipn", {"image", "reconstruction"}, {"discrepancy"}},
        {"dicn", {"discrepancy", "feature", "latent"}, {"latent_enhanced", "residual"}},
        {"generator_tail", {"feature", "residual", "rgb", "latent"}, {"picture"}},
    };
    return table;
}

const Stage &stage(const std::string &name) {
    return *std::find_if(stages().begin(), stages().end(), [&](const Stage &item) { return item.name == name; });
}

}  // namespace sdic_internal
