#include "python_text.hpp"

#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace sdic_internal {

namespace {

constexpr int kDepth = 20;  // far deeper than what is left of a value after the cut

std::string quoted(const std::string &text) {
    const bool single = text.find('\'') == std::string::npos || text.find('"') != std::string::npos;
    const char mark = single ? '\'' : '"';
    std::string out(1, mark);
    for (const unsigned char letter : text) {
        char escaped[8];
        if (letter == mark || letter == '\\') {
            out += '\\';
            out += static_cast<char>(letter);
        } else if (letter == '\n' || letter == '\r' || letter == '\t') {
            out += letter == '\n' ? "\\n" : letter == '\r' ? "\\r" : "\\t";
        } else if (letter < 0x20 || letter == 0x7f) {
            std::snprintf(escaped, sizeof escaped, "\\x%02x", letter);
            out += escaped;
        } else {
            out += static_cast<char>(letter);
        }
    }
    return out + mark;
}

std::string repr(const Json &value, int depth) {
    if (depth > kDepth) return "...";
    switch (value.type()) {
        case Json::value_t::null: return "None";
        case Json::value_t::boolean: return value.get<bool>() ? "True" : "False";
        case Json::value_t::string: return quoted(value.get_ref<const std::string &>());
        case Json::value_t::number_float: return python_repr(value.get<double>());
        case Json::value_t::array: {
            std::string text = "[";
            for (const auto &item : value) text += (text.size() > 1 ? ", " : "") + repr(item, depth + 1);
            return text + "]";
        }
        case Json::value_t::object: {
            std::string text = "{";
            for (const auto &[key, item] : value.items()) text += (text.size() > 1 ? ", " : "") + quoted(key) + ": " + repr(item, depth + 1);
            return text + "}";
        }
        default: return value.dump();
    }
}

// The first `limit` characters of UTF-8 text.
std::string cut(const std::string &text, std::size_t limit) {
    std::size_t characters = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
        const bool starts = (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
        if (starts && ++characters > limit) return text.substr(0, i);
    }
    return text;
}

}  // namespace

std::string python_repr(const Json &value, std::size_t limit) { return cut(repr(value, 0), limit); }

std::string python_repr(const std::string &text, std::size_t limit) { return cut(quoted(text), limit); }

std::string python_repr(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
    char text[40];
    for (int digits = 1; digits <= 17; ++digits) {
        std::snprintf(text, sizeof text, "%.*g", digits, value);
        if (std::strtod(text, nullptr) == value) break;
    }
    const std::string shortest = text;
    return shortest.find_first_of(".e") == std::string::npos ? shortest + ".0" : shortest;
}

std::string python_general(double value) {
    char text[40];
    std::snprintf(text, sizeof text, "%g", value);
    return text;
}

std::string python_list(const std::vector<std::int64_t> &values) {
    std::string text = "[";
    for (const auto value : values) text += (text.size() > 1 ? ", " : "") + std::to_string(value);
    return text + "]";
}

std::string listed(const std::vector<std::string> &names, const std::string &empty) {
    std::string text;
    for (const auto &name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? empty : text;
}

}  // namespace sdic_internal
