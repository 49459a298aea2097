// Inverts a PNG picture with libsdic and writes the inversion, one picture per edit, and the inversion's file:
//
//     invert_and_edit BUNDLE photo.png FOLDER smile age glasses
#include <png.h>

#include <cstdint>
#include <filesystem>
#include <iostream>
#include <sdic/sdic.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Photo {
    std::vector<std::uint8_t> pixels;
    std::int32_t width, height, channels;
};

Photo read_png(const std::string &path) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    if (!png_image_begin_read_from_file(&png, path.c_str())) {
        throw std::runtime_error(path + " cannot be read: " + png.message + "; name a PNG file");
    }
    if (std::uint64_t{png.width} * png.height > 100'000'000) {
        png_image_free(&png);
        throw std::runtime_error(path + " has more than 100 megapixels; make the picture smaller");
    }
    png.format = png.format & PNG_FORMAT_FLAG_ALPHA ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
    Photo photo{std::vector<std::uint8_t>(PNG_IMAGE_SIZE(png)), static_cast<std::int32_t>(png.width), static_cast<std::int32_t>(png.height),
                static_cast<std::int32_t>(PNG_IMAGE_PIXEL_CHANNELS(png.format))};
    if (!png_image_finish_read(&png, nullptr, photo.pixels.data(), 0, nullptr)) {
        throw std::runtime_error(path + " is damaged: " + png.message + "; get the picture again");
    }
    return photo;
}

void write_png(const std::filesystem::path &path, const std::vector<std::uint8_t> &pixels, std::int32_t width, std::int32_t height) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    png.format = PNG_FORMAT_RGB;
    png.width = static_cast<png_uint_32>(width);
    png.height = static_cast<png_uint_32>(height);
    if (!png_image_write_to_file(&png, path.c_str(), 0, pixels.data(), 0, nullptr)) {
        throw std::runtime_error("cannot write " + path.string() + ": " + png.message);
    }
    std::cout << path.string() << "\n";
}

int main(int count, char **arguments) try {
    if (count < 5) throw std::runtime_error("too few arguments; usage: invert_and_edit BUNDLE photo.png FOLDER DIRECTION...");
    const std::filesystem::path folder = arguments[3];
    const Photo photo = read_png(arguments[2]);
    sdic::Pipeline pipeline(arguments[1]);
    for (int i = 4; i < count; ++i) {  // a mistyped name is found before the work begins
        if (pipeline.direction(arguments[i]).kind != SDIC_EDIT_DIRECTION) {
            throw std::runtime_error(std::string(arguments[i]) + " is a PCA basis, whose components this example does not take; name a direction");
        }
    }
    const sdic::Result inversion = pipeline.invert({photo.pixels.data(), photo.width, photo.height, photo.channels, 0, arguments[2]});
    std::filesystem::create_directories(folder);
    inversion.save((folder / "inversion.safetensors").string());
    write_png(folder / "inversion.png", inversion.picture(0), inversion.width(), inversion.height());
    for (int i = 4; i < count; ++i) {
        const sdic::Result edited = pipeline.edit(inversion, {arguments[i]}, {2.0f});
        write_png(folder / (std::string(arguments[i]) + ".png"), edited.picture(0), edited.width(), edited.height());
    }
    return 0;
} catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
