#include "text.hpp"

#include <algorithm>

namespace sdic_internal {

namespace {

constexpr int kDeepest = 64;
constexpr int kMostKeys = 20'000, kMostValues = 100'000;  // names are found one by one
constexpr std::size_t kShown = 60;

}  // namespace

Json parse_json(const std::string &text, const std::string &what) {
    int keys = 0, values = 0;
    const auto bounded = [&](int depth, Json::parse_event_t event, Json &) {
        if (depth > kDeepest) throw Invalid(what, " is nested too deeply");
        keys += event == Json::parse_event_t::key;
        values += event == Json::parse_event_t::value;
        if (keys > kMostKeys || values > kMostValues) throw Invalid(what, " has too many parts");
        return true;
    };
    try {
        return Json::parse(text, bounded);
    } catch (const Json::exception &error) {
        const std::string why = error.what();  // behind the parser's own number
        throw Invalid(what, " is not valid JSON: ", why.substr(why.find("] ") + 2));
    }
}

std::string python_json(const Json &value) {
    if (!value.is_structured()) return value.dump(-1, ' ', true, Json::error_handler_t::replace);
    const auto key_text = [&](const std::string &key) { return value.is_object() ? python_json(key) + ": " : std::string(); };
    Names items;
    for (const auto &[key, item] : value.items()) items.push_back(key_text(key) + python_json(item));
    return value.is_object() ? "{" + listed(items, "") + "}" : "[" + listed(items, "") + "]";
}

std::string shown(const Json &value) {
    std::string text = value.dump();
    if (text.size() <= kShown) return text;
    std::size_t end = kShown;
    while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character of UTF-8
    return text.substr(0, end) + "...";
}

std::string listed(const Names &names, const std::string &empty) {
    std::string text;
    for (const auto &name : names) text += (text.empty() ? "" : ", ") + name;
    return text.empty() ? empty : text;
}

bool contains(const Names &names, const std::string &name) { return std::find(names.begin(), names.end(), name) != names.end(); }

}  // namespace sdic_internal
