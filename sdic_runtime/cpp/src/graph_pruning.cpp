#include "graph_pruning.hpp"

#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace sdic_internal {

namespace {

// Field numbers of the ONNX format (onnx.proto), which is encoded as protocol buffers.
constexpr std::uint64_t kModelGraph = 7;
constexpr std::uint64_t kGraphNode = 1, kGraphInitializer = 5, kGraphOutput = 12;
constexpr std::uint64_t kNodeInput = 1, kNodeOutput = 2, kNodeAttribute = 5;
constexpr std::uint64_t kAttributeGraph = 6, kAttributeGraphs = 11;
constexpr std::uint64_t kTensorName = 8, kValueName = 1;
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;

struct NotUnderstood : std::runtime_error {
    NotUnderstood() : std::runtime_error("not an ONNX graph") {}
};

// One field of a message: `whole` is its encoding, `content` what a field of bytes holds. Both point into the model.
struct Field {
    std::uint64_t number;
    int type;
    std::string_view whole, content;
};

std::uint64_t take_varint(std::string_view &bytes) {
    std::uint64_t value = 0;
    for (int shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
        const auto byte = static_cast<unsigned char>(bytes.front());
        bytes.remove_prefix(1);
        value |= std::uint64_t{byte & 127u} << shift;
        if (byte < 128) return value;
    }
    throw NotUnderstood();
}

std::vector<Field> fields(std::string_view message) {
    std::vector<Field> all;
    while (!message.empty()) {
        const std::string_view start = message;
        const std::uint64_t key = take_varint(message);
        Field field{key >> 3, static_cast<int>(key & 7), {}, {}};
        std::size_t length = 0;
        switch (field.type) {
            case kVarint: take_varint(message); break;
            case kFixed64: length = 8; break;
            case kFixed32: length = 4; break;
            case kBytes: length = static_cast<std::size_t>(take_varint(message)); break;
            default: throw NotUnderstood();
        }
        if (length > message.size()) throw NotUnderstood();
        field.content = message.substr(0, length);
        message.remove_prefix(length);
        field.whole = start.substr(0, start.size() - message.size());
        all.push_back(field);
    }
    return all;
}

std::vector<std::string> texts(const std::vector<Field> &message, std::uint64_t number) {
    std::vector<std::string> found;
    for (const Field &field : message) {
        if (field.number == number) found.emplace_back(field.content);
    }
    return found;
}

// The name of a tensor or value, without walking through its contents twice.
bool named(const Field &message, std::uint64_t number, const std::set<std::string> &names) {
    for (const auto &name : texts(fields(message.content), number)) return names.count(name) != 0;
    return false;
}

// A graph inside a node may use any value of the outer graph without naming it as an input.
bool holds_graph(const std::vector<Field> &node) {
    for (const Field &field : node) {
        if (field.number != kNodeAttribute) continue;
        for (const Field &part : fields(field.content)) {
            if (part.number == kAttributeGraph || part.number == kAttributeGraphs) return true;
        }
    }
    return false;
}

void append_field(std::string &out, std::uint64_t number, const std::string &content) {
    const auto append_varint = [&](std::uint64_t value) {
        for (; value >= 128; value >>= 7) out += static_cast<char>((value & 127) | 128);
        out += static_cast<char>(value);
    };
    append_varint(number << 3 | kBytes);
    append_varint(content.size());
    out += content;
}

// Nodes lie in the order in which they run, so one walk from the end finds all that is needed.
std::vector<bool> needed_nodes(const std::vector<Field> &graph, std::set<std::string> &needed) {
    std::vector<bool> keep(graph.size(), true);
    for (std::size_t i = graph.size(); i-- > 0;) {
        if (graph[i].number != kGraphNode) continue;
        const auto node = fields(graph[i].content);
        if (holds_graph(node)) throw NotUnderstood();
        keep[i] = false;
        for (const auto &output : texts(node, kNodeOutput)) keep[i] = keep[i] || (!output.empty() && needed.count(output) != 0);
        if (!keep[i]) continue;
        for (const auto &input : texts(node, kNodeInput)) needed.insert(input);
    }
    return keep;
}

std::string pruned_graph(std::string_view content, const std::set<std::string> &wanted) {
    const auto graph = fields(content);
    std::set<std::string> needed = wanted;
    const auto keep = needed_nodes(graph, needed);
    std::string out;
    for (std::size_t i = 0; i < graph.size(); ++i) {
        const Field &field = graph[i];
        if (field.number == kGraphOutput && !named(field, kValueName, wanted)) continue;
        if (field.number == kGraphInitializer && !named(field, kTensorName, needed)) continue;
        if (keep[i]) out += field.whole;
    }
    return out;
}

}  // namespace

std::string pruned_model(const std::string &model, const std::set<std::string> &wanted) {
    try {
        std::string out;
        for (const Field &field : fields(model)) {
            if (field.number == kModelGraph) append_field(out, kModelGraph, pruned_graph(field.content, wanted));
            else out += field.whole;
        }
        return out;
    } catch (const NotUnderstood &) {
        return model;
    }
}

}  // namespace sdic_internal
