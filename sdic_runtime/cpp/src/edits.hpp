// Edits of latent codes: the same arithmetic, in the same order, as sdic_runtime/edits.py.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bundle.hpp"
#include "sdic/sdic.h"

namespace sdic_internal {

// The size of one latent code.
struct CodeSize {
    std::int64_t rows, width;  // L, C
};

// One edit, checked against the size of the model's codes [L, C]: adds to `total` `weight` times what strength 1 adds to `code`.
using Edit = std::function<void(float weight, const float *code, float *total)>;

// What a direction file of a bundle holds: a direction [1 or L, C], or a PCA basis.
struct DirectionFile {
    std::string name;
    Tensor vector{Shape{0, 0}};        // [rows, C]; empty for a basis
    std::optional<Rows> rows;          // the direction is for these style rows only
    std::optional<std::pair<double, double>> strength_range;  // what a slider should offer
    std::vector<float> mean, std;      // [C], [k]
    Tensor components{Shape{0, 0}};    // [k, C]; empty for a direction
    bool is_basis() const { return !std.empty(); }
};

// The directions of a bundle, read (and checked against their hashes) on first use.
class Directions {
public:
    explicit Directions(Bundle &bundle) : bundle_(bundle) {}
    std::shared_ptr<const DirectionFile> get(const std::string &name);

private:
    Bundle &bundle_;
    std::mutex lock_;
    std::map<std::string, std::shared_ptr<const DirectionFile>> loaded_;
};

// Several edits combined: sum of weight * offset, all read off the unedited code.
class CombinedEdit {
public:
    CombinedEdit(const sdic_edit_part *parts, std::size_t count, Directions &directions, const CodeSize &size);

    // The kinds of the parts, as `Move` has them.
    const Names &kinds() const { return kinds_; }
    // code + strength * offset(code) for every code of [N, L, C] and every strength, all strengths of the first code first.
    TensorPtr apply(const Tensor &codes, const std::vector<float> &strengths) const;

private:
    std::vector<std::pair<float, Edit>> parts_;
    Names kinds_;
};

// `value` where it is finite; else Error, naming it by `what`.
float finite(float value, const std::string &what);

}  // namespace sdic_internal
