// Pictures in and out: brought to the working size as Python's Pillow does, and back to 8 bits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "manifest.hpp"
#include "tensor.hpp"
#include "sdic/sdic.h"

namespace sdic_internal {

using Rows = std::pair<std::int64_t, std::int64_t>;  // first, end

// An 8-bit RGB picture without gaps between its rows.
struct RgbPicture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;
};

// `image` as RGB: gray is spread, transparency composited on white. Throws Error for what cannot be used.
RgbPicture to_rgb(const sdic_image &image);

// Bilinear with antialiasing, pixel by pixel what Pillow's Image.resize(..., BILINEAR) gives.
RgbPicture resized(const RgbPicture &picture, std::int64_t width, std::int64_t height);

// The network's input for `count` pictures, [count, 3, S, S] in [-1, 1], letterboxed with black where rows are hidden.
TensorPtr prepared(const sdic_image *images, std::size_t count, const Sizes &sizes, const Rows &visible);

// The same for floats that are prepared already; their range is checked.
TensorPtr prepared(const float *images, std::size_t count, const Sizes &sizes);

// The rows `rows` of picture `index` of [N, 3, H, W] as 8-bit RGB: clamped to [-1, 1], (x + 1) * 127.5 rounded.
void to_bytes(const Tensor &pixels, std::size_t index, const Rows &rows, std::uint8_t *out);

}  // namespace sdic_internal
