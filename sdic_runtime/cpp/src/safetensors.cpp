#include "safetensors.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "files.hpp"
#include "text.hpp"

namespace sdic_internal {

namespace {

constexpr std::size_t kLengthBytes = 8;
constexpr std::size_t kAlignment = 8;
constexpr std::size_t kMostAxes = 8;
constexpr std::uintmax_t kLargestFile = std::uintmax_t{1} << 32;

bool little_endian() {
    const std::uint16_t probe = 1;
    unsigned char first = 0;
    std::memcpy(&first, &probe, 1);
    return first == 1;
}

std::uint64_t read_length(const char *bytes) {
    std::uint64_t value = 0;
    for (int i = 7; i >= 0; --i) value = value << 8 | static_cast<unsigned char>(bytes[i]);
    return value;
}

float half_to_float(std::uint16_t half) {
    const int exponent = half >> 10 & 31;
    const int fraction = half & 1023;
    float magnitude = 0;
    if (exponent == 31) {
        magnitude = fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
    } else {
        magnitude = exponent ? std::ldexp(static_cast<float>(1024 + fraction), exponent - 25) : std::ldexp(static_cast<float>(fraction), -24);
    }
    return half & 0x8000 ? -magnitude : magnitude;
}

template <typename Stored, typename Convert>
void convert(const char *bytes, std::vector<float> &values, Convert to_float) {
    for (std::size_t i = 0; i < values.size(); ++i) {
        Stored stored;
        std::memcpy(&stored, bytes + i * sizeof stored, sizeof stored);
        values[i] = to_float(stored);
    }
}

std::size_t bytes_per_value(const std::string &dtype) {
    if (dtype == "F64") return 8;
    if (dtype == "F32") return 4;
    if (dtype == "F16") return 2;
    return 0;
}

void decode(const std::string &dtype, const char *bytes, std::vector<float> &values) {
    if (dtype == "F32" && !values.empty()) std::memcpy(values.data(), bytes, values.size() * sizeof(float));
    if (dtype == "F16") convert<std::uint16_t>(bytes, values, half_to_float);
    if (dtype == "F64") convert<double>(bytes, values, [](double value) { return static_cast<float>(value); });
}

struct Place {
    std::size_t begin, end;
};

Place read_place(const std::string &name, const Json &entry, const Shape &shape, std::size_t width, std::size_t size) {
    const auto &offsets = entry.at("data_offsets");
    require(offsets.is_array() && offsets.size() == 2 && offsets[0].is_number_unsigned() && offsets[1].is_number_unsigned(),
            "the offsets of the tensor \"", name, "\" are ", shown(offsets));
    const auto begin = offsets[0].get<std::size_t>(), end = offsets[1].get<std::size_t>();
    std::size_t expected = width;
    for (const auto axis : shape) {
        if (axis < 0) throw Invalid("the tensor \"", name, "\" has a negative size");
        if (axis != 0 && expected > size / static_cast<std::size_t>(axis)) expected = size + 1;
        else expected *= static_cast<std::size_t>(axis);
    }
    if (begin > end || end > size || end - begin != expected) throw Invalid("the tensor \"", name, "\" does not lie where the header says");
    return {begin, end};
}

SafeTensors parse_safetensors(const std::string &file) {
    if (!little_endian()) throw Invalid("this machine stores numbers in another order than the file");
    if (file.size() < kLengthBytes) throw Invalid("it has only ", file.size(), " bytes");
    const std::uint64_t length = read_length(file.data());
    if (length > file.size() - kLengthBytes) throw Invalid("its header does not fit into it");
    const Json header = parse_json(file.substr(kLengthBytes, static_cast<std::size_t>(length)));
    const char *bytes = file.data() + kLengthBytes + length;
    const std::size_t size = file.size() - kLengthBytes - static_cast<std::size_t>(length);
    SafeTensors found;
    std::vector<std::pair<std::size_t, std::size_t>> places;
    for (const auto &[name, entry] : header.items()) {
        if (name == "__metadata__") {
            for (const auto &[key, value] : entry.items()) found.metadata[key] = value.get<std::string>();
            continue;
        }
        const auto dtype = entry.at("dtype").get<std::string>();
        const std::size_t width = bytes_per_value(dtype);
        if (width == 0) throw Invalid("the tensor \"", name, "\" has type ", dtype, ", expected F32, F16 or F64");
        const Json &axes = entry.at("shape");
        const bool sizes = axes.is_array() && std::all_of(axes.begin(), axes.end(), [](const Json &axis) { return axis.is_number_unsigned(); });
        require(sizes && axes.size() <= kMostAxes, "the shape of the tensor \"", name, "\" is ", shown(axes));
        const auto shape = axes.get<Shape>();
        const Place place = read_place(name, entry, shape, width, size);
        places.emplace_back(place.begin, place.end);
        auto tensor = std::make_shared<Tensor>(shape);
        decode(dtype, bytes + place.begin, tensor->data);
        found.tensors[name] = {dtype, tensor};
    }
    // The tensors must cover the bytes without holes: a file that was cut off, or lengthened, is found out here.
    std::sort(places.begin(), places.end());
    std::size_t covered = 0;
    for (const auto &[first, end] : places) {
        if (first != covered) throw Invalid("its tensors overlap or leave a hole");
        covered = end;
    }
    if (covered != size) throw Invalid("it has ", size, " bytes of tensors where its header announces ", covered);
    return found;
}

}  // namespace

SafeTensors read_safetensors(const std::string &path) {
    int number = 0;
    std::error_code ignored;
    if (exists(path) && !is_folder(path) && !std::filesystem::is_regular_file(path, ignored)) throw Invalid("it is no regular file");
    if (std::filesystem::is_regular_file(path, ignored) && std::filesystem::file_size(path, ignored) > kLargestFile) {
        throw Invalid("it has more than ", kLargestFile, " bytes");
    }
    const std::string file = read_file(path, number);
    if (number != 0) throw Error(SDIC_ERROR_FILE, "cannot read ", path, ": ", reason(number));
    try {
        return parse_safetensors(file);
    } catch (const Json::exception &) {
        throw Invalid("its header is not what safetensors files have");
    }
}

void write_safetensors(const std::string &path, const Tensors &tensors, const std::map<std::string, std::string> &metadata) {
    if (!little_endian()) throw Error(SDIC_ERROR_FILE, "tensor files cannot be written on a big-endian machine; save the pictures instead");
    Json header = {{"__metadata__", metadata}};
    std::size_t offset = 0;
    for (const auto &[name, tensor] : tensors) {
        const std::size_t bytes = tensor->data.size() * sizeof(float);
        header[name] = {{"dtype", "F32"}, {"shape", tensor->shape}, {"data_offsets", {offset, offset + bytes}}};
        offset += bytes;
    }
    std::string text = header.dump();
    text.append((kAlignment - text.size() % kAlignment) % kAlignment, ' ');
    write_into_place(path, [&](std::ostream &stream) {
        for (std::size_t i = 0; i < kLengthBytes; ++i) stream.put(static_cast<char>(text.size() >> 8 * i & 255));
        stream << text;
        for (const auto &[name, tensor] : tensors) {
            stream.write(reinterpret_cast<const char *>(tensor->data.data()), static_cast<std::streamsize>(tensor->data.size() * sizeof(float)));
        }
    });
}

}  // namespace sdic_internal
