#include "pictures.hpp"

#include <algorithm>
#include <cmath>


namespace sdic_internal {

namespace {

constexpr std::int64_t kPixelLimit = 100'000'000;  // width * height
constexpr std::int64_t kSideLimit = 65'535;        // of the longer side: between the two resizings a picture is S x its height
constexpr float kRangeSlack = 1e-3f;               // how far beyond [-1, 1] a float picture may be, for rounding

void check(const sdic_image &image) {
    const bool channels = image.channels == 1 || image.channels == 3 || image.channels == 4;
    if (!channels || image.width < 1 || image.height < 1) {
        throw Error(SDIC_ERROR_PICTURE, "the uint8 picture has shape ", text_of({image.height, image.width, image.channels}), "; expected [H, W, 3]");
    }
    const std::int64_t pixels = std::int64_t{image.width} * image.height;
    if (pixels > kPixelLimit) {
        throw Error(SDIC_ERROR_PICTURE, "the picture has ", pixels, " pixels, and the limit is ", kPixelLimit, "; make the picture smaller");
    }
    if (std::max(image.width, image.height) > kSideLimit) {
        throw Error(SDIC_ERROR_PICTURE, "the picture is ", image.width, " x ", image.height, ", and the longest side is ", kSideLimit, "; make the picture smaller");
    }
    require_argument(image.pixels != nullptr, "the picture's pixels are NULL; give its bytes");
    const auto row = static_cast<std::size_t>(image.width) * static_cast<std::size_t>(image.channels);
    const bool apart = image.stride == 0 || image.stride >= row;
    require_argument(apart, "the picture's stride is ", image.stride, " bytes, and one row has ", row, "; give 0 or at least that");
}

// One byte of a colour over white: round(colour * alpha / 255 + 255 - alpha).
std::uint8_t over_white(std::uint8_t colour, std::uint8_t alpha) {
    const std::uint32_t sum = colour * std::uint32_t{alpha} + 255u * (255u - alpha);
    return static_cast<std::uint8_t>((sum + 127) / 255);
}

std::size_t position(std::size_t channel, std::int64_t row, std::int64_t side) {
    return (channel * static_cast<std::size_t>(side) + static_cast<std::size_t>(row)) * static_cast<std::size_t>(side);
}

// `picture`, S wide, into the rows `first` and on of the plane-wise [3, S, S] at `out`.
void spread(const RgbPicture &picture, std::int64_t first, std::int64_t side, float *out) {
    const std::uint8_t *pixel = picture.pixels.data();
    for (std::int64_t y = 0; y < picture.height; ++y) {
        float *planes[3];
        for (std::size_t channel = 0; channel < 3; ++channel) planes[channel] = out + position(channel, first + y, side);
        for (std::int64_t x = 0; x < side; ++x) {
            for (auto &plane : planes) *plane++ = static_cast<float>(*pixel++) / 127.5f - 1.0f;
        }
    }
}

[[noreturn]] void fail_on_infinite() {
    throw Error(SDIC_ERROR_RUN, "the generated picture holds NaN or infinite values; run with precision fp32, or see: sdic-export verify DIR");
}

}  // namespace

RgbPicture to_rgb(const sdic_image &image) {
    check(image);
    RgbPicture picture{image.width, image.height, {}};
    picture.pixels.resize(static_cast<std::size_t>(picture.width * picture.height) * 3);
    const auto channels = static_cast<std::size_t>(image.channels), width = static_cast<std::size_t>(image.width);
    const std::size_t stride = image.stride != 0 ? image.stride : width * channels;
    std::uint8_t *out = picture.pixels.data();
    for (std::size_t y = 0; y < static_cast<std::size_t>(image.height); ++y) {
        const std::uint8_t *row = image.pixels + y * stride;
        if (channels == 3) {
            out = std::copy(row, row + width * 3, out);
            continue;
        }
        for (std::size_t x = 0; x < width; ++x, row += channels) {
            for (std::size_t channel = 0; channel < 3; ++channel) *out++ = channels == 1 ? *row : over_white(row[channel], row[3]);
        }
    }
    return picture;
}

TensorPtr prepared(const sdic_image *images, std::size_t count, const Manifest &manifest) {
    const std::int64_t side = manifest.size("S"), whole = manifest.size("R");
    const Rows rows{manifest.visible_rows.first * side / whole, manifest.visible_rows.second * side / whole};
    auto tensor = std::make_shared<Tensor>(manifest.shape(kImage, static_cast<std::int64_t>(count)));
    std::fill(tensor->data.begin(), tensor->data.end(), -1.0f);
    for (std::size_t i = 0; i < count; ++i) {
        spread(resized(to_rgb(images[i]), side, rows.second - rows.first, manifest.resampling), rows.first, side, tensor->data.data() + i * tensor->stride());
    }
    return tensor;
}

TensorPtr prepared(const float *images, std::size_t count, const Manifest &manifest) {
    const Shape shape = manifest.shape(kImage, static_cast<std::int64_t>(count));
    auto tensor = std::make_shared<Tensor>(shape, std::vector<float>(images, images + element_count(shape)));
    float low = tensor->data.front(), high = low;
    bool numbers = true;
    for (const float value : tensor->data) {
        numbers = numbers && !std::isnan(value);
        low = std::min(low, value);
        high = std::max(high, value);
    }
    if (!numbers || low < -1 - kRangeSlack || high > 1 + kRangeSlack) {
        const std::string found = numbers ? say("from ", low, " to ", high) : "that are NaN";
        throw Error(SDIC_ERROR_PICTURE, "the float32 picture has values ", found, "; expected [-1, 1] without NaN");
    }
    return tensor;
}

void to_bytes(const Tensor &pixels, std::size_t index, const Rows &rows, std::uint8_t *out) {
    const std::int64_t side = pixels.shape.at(3);
    const float *picture = pixels.data.data() + index * pixels.stride();
    for (std::int64_t y = rows.first; y < rows.second; ++y) {
        const float *planes[3];
        for (std::size_t channel = 0; channel < 3; ++channel) planes[channel] = picture + position(channel, y, side);
        for (std::int64_t x = 0; x < side; ++x) {
            for (const float *&plane : planes) {
                const float value = *plane++;
                if (!std::isfinite(value)) fail_on_infinite();
                const float scaled = (std::clamp(value, -1.0f, 1.0f) + 1.0f) * 127.5f;
                *out++ = static_cast<std::uint8_t>(std::lrint(scaled));
            }
        }
    }
}

}  // namespace sdic_internal
