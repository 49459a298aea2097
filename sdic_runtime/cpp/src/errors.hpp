// The exceptions of the library. None crosses the C interface.
#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#include "sdic/sdic.h"

namespace sdic_internal {

// The parts written one after the other.
template <typename... Parts>
std::string say(const Parts &...parts) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());  // a program may have set one that groups thousands
    (stream << ... << parts);
    return stream.str();
}

// A status code and a sentence.
class Error : public std::runtime_error {
public:
    // The sentence is its parts, one after the other.
    template <typename... Parts>
    explicit Error(sdic_status status, const Parts &...sentence) : std::runtime_error(say(sentence...)), status_(status) {}
    sdic_status status() const noexcept { return status_; }

private:
    sdic_status status_;
};

// Throws Error unless what the caller gave is as it must be.
template <typename... Parts>
void require_argument(bool holds, const Parts &...sentence) {
    if (!holds) throw Error(SDIC_ERROR_ARGUMENT, sentence...);
}

// What is wrong with a file, in a few words. Callers make the sentence.
class Invalid : public std::runtime_error {
public:
    template <typename... Parts>
    explicit Invalid(const Parts &...what) : std::runtime_error(say(what...)) {}
    Invalid(const Invalid &) = default;
};

template <typename... Parts>
void require(bool holds, const Parts &...what) {
    if (!holds) throw Invalid(what...);
}

}  // namespace sdic_internal
