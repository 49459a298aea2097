// JSON of a file, read with a sentence for whatever is not as it should be.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "text.hpp"

namespace sdic_internal {

// Values by name, in the order of the file.
template <typename Value>
struct Table : std::vector<std::pair<std::string, Value>> {
    // The value called `name`; NULL where there is none.
    const Value *find(const std::string &name) const {
        for (const auto &[key, value] : *this) {
            if (key == name) return &value;
        }
        return nullptr;
    }
};

// One value of a file and its place in it, for sentences. Whatever is not as asked throws Invalid.
class Value {
public:
    Value(const Json &json, std::string place) : json_(json), place_(std::move(place)) {}

    void expect(bool holds, const char *what) const {
        if (!holds) throw Invalid(place_, " is ", shown(json_), ", expected ", what);
    }
    std::string text() const {
        expect(json_.is_string(), "a string");
        return json_.get<std::string>();
    }
    std::int64_t integer() const {
        expect(json_.is_number_integer(), "an integer");
        return json_.get<std::int64_t>();
    }
    double number() const {
        expect(json_.is_number(), "a number");
        return json_.get<double>();
    }
    Json list_json() const {
        expect(json_.is_array(), "a list");
        return json_;
    }
    std::vector<Value> list() const {
        expect(json_.is_array(), "a list");
        std::vector<Value> values;
        for (std::size_t i = 0; i < json_.size(); ++i) values.emplace_back(json_[i], say(place_, "[", i, "]"));
        return values;
    }
    // What `read` makes of both values of a list of two.
    template <typename Read>
    auto pair(Read read) const {
        const auto both = list();
        expect(both.size() == 2, "two numbers");
        return std::pair{std::invoke(read, both[0]), std::invoke(read, both[1])};
    }
    Names names() const {
        Names all;
        for (const Value &value : list()) all.push_back(value.text());
        return all;
    }
    // What `read` makes of every value of an object, by name.
    template <typename Read>
    auto table(Read read) const {
        expect(json_.is_object(), "an object");
        Table<std::decay_t<std::invoke_result_t<Read, Value>>> all;
        for (const auto &[key, value] : json_.items()) all.emplace_back(key, std::invoke(read, Value(value, say(place_, "[\"", key, "\"]"))));
        return all;
    }
    // An object of these keys. One that is not listed is an error: it would be a promise that this version does not keep.
    const Value &of(const Names &needed, const Names &optional = {}) const {
        expect(json_.is_object(), "an object");
        for (const auto &item : json_.items()) {
            require(contains(needed, item.key()) || contains(optional, item.key()), place_, " has the unknown key \"", item.key(), "\"");
        }
        for (const auto &key : needed) require(json_.contains(key), place_, " lacks the key \"", key, "\"");
        return *this;
    }
    bool has(const char *key) const { return json_.contains(key) && !json_.at(key).is_null(); }
    // The value of a key; where it is not there, `otherwise`, which must outlive it.
    Value at(const char *key, const Json &otherwise = nullptr) const {
        return {json_.contains(key) ? json_.at(key) : otherwise, place_ == "it" ? std::string(key) : say(place_, ".", key)};
    }

private:
    const Json &json_;
    std::string place_;
};

}  // namespace sdic_internal
