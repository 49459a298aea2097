// Pictures in and out: brought to the working size as Python's Pillow does, and back to 8 bits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "manifest.hpp"

namespace sdic_internal {

// An 8-bit RGB picture without gaps between its rows.
struct RgbPicture {
    std::int64_t width = 0, height = 0;
    std::vector<std::uint8_t> pixels;
};

// `image` as RGB: gray is spread, transparency composited on white. Throws Error for what cannot be used.
RgbPicture to_rgb(const sdic_image &image);

// With antialiasing, pixel by pixel what Pillow's Image.resize gives with the filter `resampling`: bilinear, bicubic or lanczos.
RgbPicture resized(const RgbPicture &picture, std::int64_t width, std::int64_t height, const std::string &resampling);

// The network's input for `count` pictures, [count, 3, S, S] in [-1, 1], letterboxed with black where rows are hidden.
TensorPtr prepared(const sdic_image *images, std::size_t count, const Manifest &manifest);

// The same for floats that are prepared already; their range is checked.
TensorPtr prepared(const float *images, std::size_t count, const Manifest &manifest);

// The rows `rows` of picture `index` of [N, 3, H, W] as 8-bit RGB: clamped to [-1, 1], (x + 1) * 127.5 rounded.
void to_bytes(const Tensor &pixels, std::size_t index, const Rows &rows, std::uint8_t *out);

}  // namespace sdic_internal
