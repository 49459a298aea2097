// The stage table: every graph of the pipeline with its tensors by name. The same table as sdic_runtime/stages.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace sdic_internal {


using Shape = std::vector<std::int64_t>;

struct Sizes {
    std::int64_t resolution = 0;        // R: height and width of the generator's picture
    std::int64_t working = 0;           // S: height and width at which e4e, DIPN and DICN work
    std::int64_t rows = 0;              // L: style rows of a latent code in W+, 2 * log2(R) - 2
    std::int64_t style_width = 0;       // C: width of one style row
    std::int64_t feature_channels = 0;  // K: channels of the layer-7 feature

    // The shape of the tensor called `tensor` for `batch` pictures.
    Shape shape(const std::string &tensor, std::int64_t batch) const;
};

// Name -> field, in the order in which Python declares them.
struct SizeField {
    const char *name;
    std::int64_t Sizes::*field;
};
const std::vector<SizeField> &size_fields();

// {"feature_channels": 512, ...} as Python's json writes it: in declaration order, or sorted by name.
std::string sizes_json(const Sizes &sizes, bool sorted);

struct Stage {
    std::string name;
    std::vector<std::string> inputs;
    std::vector<std::string> outputs;
};
const std::vector<Stage> &stages();
const Stage &stage(const std::string &name);

}  // namespace sdic_internal
