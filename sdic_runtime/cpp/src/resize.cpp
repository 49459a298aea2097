// Resizing with antialiasing in 8-bit fixed point. A picture that Python resizes with Pillow comes out the same here, so every
// rounding is part of the contract: weights in double precision, rounded to kPrecision bits, one pass along the rows, rounded to
// bytes, then one along the columns.
#include <algorithm>
#include <cmath>

#include "pictures.hpp"

namespace sdic_internal {

namespace {

constexpr int kPrecision = 32 - 8 - 2;  // 8 bits for the pixel, 2 for sums beyond its range
constexpr std::int64_t kChannels = 3;

// The weights of one output position: `weights[i]` belongs to the input position `first + i`.
struct Window {
    std::int64_t first = 0;
    std::vector<std::int32_t> weights;
};

double bilinear(double x) { return std::abs(x) < 1 ? 1 - std::abs(x) : 0; }

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::abs(x);
    if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

double sinc(double x) {
    const double angle = x * 3.14159265358979323846;
    return x == 0 ? 1 : std::sin(angle) / angle;
}

double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

struct Filter {
    double (*weight)(double);
    double support;  // where the weight has become 0
};

std::vector<Window> windows(std::int64_t input, std::int64_t output, const Filter &filter) {
    const double scale = static_cast<double>(input) / static_cast<double>(output);
    const double stretch = std::max(scale, 1.0);  // antialiasing: the filter is as wide as an output pixel
    const double shrink = 1.0 / stretch, reach = filter.support * stretch;
    std::vector<Window> all(static_cast<std::size_t>(output));
    for (std::int64_t position = 0; position < output; ++position) {
        const double centre = (static_cast<double>(position) + 0.5) * scale;
        const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - reach + 0.5));
        const auto end = std::min<std::int64_t>(input, static_cast<std::int64_t>(centre + reach + 0.5));
        std::vector<double> exact;
        double sum = 0;
        for (std::int64_t i = first; i < end; ++i) {
            exact.push_back(filter.weight((static_cast<double>(i) - centre + 0.5) * shrink));
            sum += exact.back();
        }
        Window &window = all[static_cast<std::size_t>(position)];
        window.first = first;
        for (const double weight : exact) {
            const double scaled = (sum != 0 ? weight * (1.0 / sum) : weight) * (1 << kPrecision);
            window.weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
        }
    }
    return all;
}

std::uint8_t to_byte(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kPrecision, 0, 255)); }

RgbPicture along_rows(const RgbPicture &picture, std::int64_t width, const Filter &filter) {
    const auto all = windows(picture.width, width, filter);
    RgbPicture out{width, picture.height, std::vector<std::uint8_t>(static_cast<std::size_t>(width * picture.height * kChannels))};
    std::uint8_t *target = out.pixels.data();
    for (std::int64_t y = 0; y < picture.height; ++y) {
        const std::uint8_t *row = picture.pixels.data() + y * picture.width * kChannels;
        for (const Window &window : all) {
            std::int32_t sums[kChannels] = {1 << (kPrecision - 1), 1 << (kPrecision - 1), 1 << (kPrecision - 1)};
            const std::uint8_t *pixel = row + window.first * kChannels;
            for (const std::int32_t weight : window.weights) {
                for (int channel = 0; channel < kChannels; ++channel) sums[channel] += *pixel++ * weight;
            }
            for (const std::int32_t sum : sums) *target++ = to_byte(sum);
        }
    }
    return out;
}

RgbPicture along_columns(const RgbPicture &picture, std::int64_t height, const Filter &filter) {
    const auto all = windows(picture.height, height, filter);
    const auto pitch = static_cast<std::size_t>(picture.width * kChannels);
    RgbPicture out{picture.width, height, std::vector<std::uint8_t>(pitch * static_cast<std::size_t>(height))};
    std::vector<std::int32_t> sums(pitch);
    std::uint8_t *target = out.pixels.data();
    for (const Window &window : all) {
        std::fill(sums.begin(), sums.end(), 1 << (kPrecision - 1));
        const std::uint8_t *pixel = picture.pixels.data() + static_cast<std::size_t>(window.first) * pitch;
        for (const std::int32_t weight : window.weights) {
            for (auto &sum : sums) sum += *pixel++ * weight;
        }
        target = std::transform(sums.begin(), sums.end(), target, to_byte);
    }
    return out;
}

}  // namespace

RgbPicture resized(const RgbPicture &picture, std::int64_t width, std::int64_t height, const std::string &resampling) {
    const Filter filter = resampling == "bilinear" ? Filter{bilinear, 1} : resampling == "bicubic" ? Filter{bicubic, 2} : Filter{lanczos, 3};
    RgbPicture narrowed = width == picture.width ? picture : along_rows(picture, width, filter);
    return height == picture.height ? narrowed : along_columns(narrowed, height, filter);
}

}  // namespace sdic_internal
