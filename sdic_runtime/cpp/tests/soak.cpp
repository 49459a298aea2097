// Inverts, edits, saves, loads and fails on purpose, again and again, in several threads with a handle each, and compares every
// picture with that of the first round. What it is run under finds leaks, invalid access and races.
//
//     soak BUNDLE ROUNDS THREADS [own|shared [CORES]]
//
// With "shared" the threads use one handle. Each handle is opened for as many cores, 1 when omitted.
#include <sdic/sdic.hpp>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>

namespace {

using Bytes = std::vector<std::uint8_t>;

struct Photo {
    std::int32_t width, height, channels;
    Bytes pixels;
};

std::vector<Photo> photos() {
    std::mt19937 random(7);
    std::vector<Photo> all = {{97, 61, 3, {}}, {300, 200, 4, {}}, {16, 16, 1, {}}, {1, 1, 3, {}}};
    for (Photo &photo : all) {
        photo.pixels.resize(static_cast<std::size_t>(photo.width) * static_cast<std::size_t>(photo.height) * static_cast<std::size_t>(photo.channels));
        for (auto &byte : photo.pixels) byte = static_cast<std::uint8_t>(random());
    }
    return all;
}

void expect(bool condition, const std::string &what) {
    if (condition) return;
    std::cerr << "error: " << what << "\n";
    std::exit(1);
}

void expect_error(sdic_status status, const std::function<void()> &work) {
    try {
        work();
    } catch (const sdic::Error &error) {
        expect(error.status() == status && std::string(error.what()).size() > 10, std::string("the wrong error: ") + error.what());
        return;
    }
    expect(false, "no error where one was due");
}

// Ways to fail that leave half-made objects behind if anything does.
void fail_on_purpose(sdic::Pipeline &pipeline, const sdic::Result &inversion, const std::string &folder) {
    expect_error(SDIC_ERROR_BUNDLE, [&] { sdic::Pipeline missing(folder + "/nowhere"); });
    expect_error(SDIC_ERROR_ARGUMENT, [&] { pipeline.edit(inversion, {"no such direction"}); });
    expect_error(SDIC_ERROR_ARGUMENT, [&] { pipeline.edit(inversion, {{std::vector<float>(3, 1.0f), 1}}); });
    expect_error(SDIC_ERROR_ARGUMENT, [&] { pipeline.edit(inversion, {}, {}); });
    expect_error(SDIC_ERROR_ARGUMENT, [&] { pipeline.edit(inversion, {pipeline.names(SDIC_NAMES_DIRECTIONS).front()}, {1}, "no such move"); });
    expect_error(SDIC_ERROR_ARGUMENT, [&] { pipeline.direction("no such direction"); });
    expect_error(SDIC_ERROR_PICTURE, [&] { pipeline.invert(sdic::Image{nullptr, 0, 0}); });
    expect_error(SDIC_ERROR_FILE, [&] { inversion.save(folder + "/nowhere/file"); });
    expect_error(SDIC_ERROR_FILE, [&] { sdic::Result::load(folder); });
}

// One round: pictures by what made them.
std::map<std::string, Bytes> run(sdic::Pipeline &pipeline, const std::string &folder, const std::string &file) {
    static const std::vector<Photo> inputs = photos();
    std::vector<sdic::Image> images;
    for (const Photo &photo : inputs) images.push_back({photo.pixels.data(), photo.width, photo.height, photo.channels, 0, "photo"});
    std::map<std::string, Bytes> made;
    const sdic::Result inversion = pipeline.invert(images, 3);
    for (std::size_t i = 0; i < inversion.size(); ++i) made["inversion " + std::to_string(i)] = inversion.picture(i);
    inversion.save(file);
    const sdic::Result loaded = sdic::Result::load(file);
    expect(loaded.picture(1) == inversion.picture(1) && loaded.name(1) == "photo", "the loaded inversion is another one");
    const auto width = static_cast<std::size_t>(pipeline.size("C"));
    const std::vector<sdic::Part> parts = {{std::vector<float>(width, 0.1f), 1, 0.5f}, {std::vector<float>(width, -0.05f), 1}};
    const sdic::Result edited = pipeline.edit(loaded, parts, {-1, 0, 2.5f}, "", 5);
    for (std::size_t i = 0; i < edited.size(); ++i) made["edit " + std::to_string(i)] = edited.picture(i);
    for (const auto &move : pipeline.names(SDIC_NAMES_MOVES)) made[move] = pipeline.edit(loaded, parts, {1}, move).picture(0);
    made["baseline"] = pipeline.baseline(loaded).picture(2);
    for (const auto &name : pipeline.names(SDIC_NAMES_DIRECTIONS)) {
        const bool basis = pipeline.direction(name).kind == SDIC_EDIT_GANSPACE_SET;
        made[name] = pipeline.edit(loaded, {basis ? sdic::Part::ganspace(name, 0, 0, 1, 1) : sdic::Part(name)}).picture(0);
    }
    fail_on_purpose(pipeline, inversion, folder);
    return made;
}

}  // namespace

int main(int count, char **arguments) try {
    expect(count >= 4, "usage: soak BUNDLE ROUNDS THREADS [own|shared [CORES]]");
    const std::string bundle = arguments[1];
    const int rounds = std::atoi(arguments[2]), threads = std::atoi(arguments[3]);
    const bool shared = count > 4 && std::string(arguments[4]) == "shared";
    const auto folder = (std::filesystem::temp_directory_path() / ("sdic-soak-" + std::to_string(std::random_device()()))).string();
    std::filesystem::create_directories(folder);
    sdic::Options options;
    options.threads = count > 5 ? std::atoi(arguments[5]) : 1;
    auto common = shared ? std::make_unique<sdic::Pipeline>(bundle, options) : nullptr;
    const auto first = [&] {
        sdic::Pipeline pipeline(bundle, options);
        return run(pipeline, folder, folder + "/first.safetensors");
    }();
    const auto work = [&](int number) {
        auto own = shared ? nullptr : std::make_unique<sdic::Pipeline>(bundle, options);
        for (int round = 0; round < rounds; ++round) {
            expect(run(shared ? *common : *own, folder, folder + "/" + std::to_string(number) + ".safetensors") == first, "another picture than in the first round");
        }
    };
    std::vector<std::thread> workers;
    for (int number = 0; number < threads; ++number) workers.emplace_back(work, number);
    for (auto &worker : workers) worker.join();
    std::filesystem::remove_all(folder);
    std::cout << rounds * threads + 1 << " rounds of " << first.size() << " pictures, all the same\n";
    return 0;
} catch (const std::exception &error) {
    std::cerr << "error: " << error.what() << "\n";
    return 2;
}
