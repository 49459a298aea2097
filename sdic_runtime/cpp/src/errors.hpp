// The one exception of the library: a status code and a sentence. It never crosses the C interface.
#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

#include "sdic/sdic.h"

namespace sdic_internal {

class Error : public std::runtime_error {
public:
    Error(sdic_status status, const std::string &sentence) : std::runtime_error(sentence), status_(status) {}
    sdic_status status() const noexcept { return status_; }

private:
    sdic_status status_;
};

// The parts written one after the other.
template <typename... Parts>
std::string say(const Parts &...parts) {
    std::ostringstream stream;
    stream.imbue(std::locale::classic());  // a program may have set one that groups thousands
    (stream << ... << parts);
    return stream.str();
}

}  // namespace sdic_internal
