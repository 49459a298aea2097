#include "onnx_file.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>

#include "files.hpp"
#include "text.hpp"

namespace sdic_internal {

extern const char *const kOperators;  // sdic_runtime/bundle/operators.json, put into the library when it is built

namespace {

constexpr int kDeepestMessage = 32;             // messages in each other
constexpr std::size_t kMostMessageFields = 5'000'000;
constexpr std::size_t kLargestText = 4096;  // bytes of a name
constexpr int kLongestVarint = 10;       // bytes
enum Wire { kVarint = 0, kFixed64 = 1, kWithLength = 2, kFixed32 = 5 };

// Message -> field number -> the message that it holds, or what a text means to us. Other fields are skipped.
const std::map<std::string, std::map<std::uint64_t, std::string>> &messages() {
    static const std::map<std::string, std::map<std::uint64_t, std::string>> table = {
        {"ModelProto", {{7, "GraphProto"}, {20, "TrainingInfoProto"}, {25, "FunctionProto"}}},
        {"TrainingInfoProto", {{1, "GraphProto"}, {2, "GraphProto"}}},
        {"FunctionProto", {{7, "NodeProto"}, {11, "AttributeProto"}}},
        {"GraphProto", {{1, "NodeProto"}, {5, "TensorProto"}, {15, "SparseTensorProto"}}},
        {"NodeProto", {{4, "operator"}, {5, "AttributeProto"}, {7, "domain"}}},
        {"AttributeProto",
         {{5, "TensorProto"}, {6, "GraphProto"}, {10, "TensorProto"}, {11, "GraphProto"}, {22, "SparseTensorProto"}, {23, "SparseTensorProto"}}},
        {"SparseTensorProto", {{1, "TensorProto"}, {2, "TensorProto"}}},
        {"TensorProto", {{13, "StringStringEntryProto"}}},
        {"StringStringEntryProto", {{1, "key"}, {2, "value"}}},
    };
    return table;
}

class FieldReader {
public:
    FieldReader(const std::string &data, OnnxFile &found) : data_(data), found_(found) {}

    void message(const std::string &kind, std::size_t position, std::size_t end, int depth) {
        require(depth <= kDeepestMessage, "its graphs are nested more than ", kDeepestMessage, " levels deep");
        const auto &fields = messages().at(kind);
        std::map<std::string, std::string> texts;
        while (position < end) {
            require(++fields_ <= kMostMessageFields, "it has more than ", kMostMessageFields, " fields");
            const std::uint64_t tag = varint(position, end);
            const std::uint64_t number = tag >> 3, wire = tag & 7;
            require(number != 0, "it has a field without a number");
            std::uint64_t size = 0;
            if (wire == kWithLength) size = varint(position, end);
            else if (wire == kVarint) varint(position, end);
            else if (wire == kFixed64 || wire == kFixed32) size = wire == kFixed64 ? 8 : 4;
            else throw Invalid("it has a field of the wire type ", wire);
            require(size <= end - position, "it ends in the middle of a field");
            const std::size_t last = position + static_cast<std::size_t>(size);
            if (const auto meaning = fields.find(number); wire == kWithLength && meaning != fields.end()) {
                if (messages().count(meaning->second)) message(meaning->second, position, last, depth + 1);
                else texts[meaning->second] = text(position, last);
            }
            position = last;
        }
        if (kind == "NodeProto") {
            const std::string &domain = texts["domain"], &name = texts["operator"];
            found_.operators.insert(domain.empty() || domain == "ai.onnx" ? name : domain + ":" + name);
        } else if (const auto key = texts.find("key"); key != texts.end() && key->second == "location") {
            found_.locations.insert(texts["value"]);
        }
    }

private:
    std::string text(std::size_t first, std::size_t last) const {
        require(last - first <= kLargestText, "it has a name of ", last - first, " bytes");
        return data_.substr(first, last - first);
    }

    std::uint64_t varint(std::size_t &position, std::size_t end) const {
        std::uint64_t value = 0;
        for (int index = 0; index < kLongestVarint && position < end; ++index) {
            const auto byte = static_cast<unsigned char>(data_[position++]);
            if (7 * index < 64) value |= static_cast<std::uint64_t>(byte & 127) << 7 * index;
            if (byte < 128) return value;
        }
        throw Invalid("it ends in the middle of a number");
    }

    const std::string &data_;
    OnnxFile &found_;
    std::size_t fields_ = 0;
};

}  // namespace

std::set<std::string> OnnxFile::unknown() const {
    static const Names known = Json::parse(kOperators).get<Names>();
    std::set<std::string> others;
    for (const auto &name : operators) {
        if (!contains(known, name)) others.insert(name);
    }
    return others;
}

OnnxFile read_onnx_file(const std::string &path, int &number) {
    OnnxFile found;
    const std::string data = read_file(path, number);
    if (number != 0) return found;
    require(!data.empty(), "it is empty");
    FieldReader(data, found).message("ModelProto", 0, data.size(), 0);
    return found;
}

}  // namespace sdic_internal
