// Whole files or none: reading, writing into place, hashing, and names that stay inside their folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <ostream>
#include <string>

namespace sdic_internal {

// The operating system's words for an errno, in lower case: "permission denied".
std::string reason(int number);

// `path` without "./", doubled and trailing slashes.
std::string clean_path(const std::string &path);

bool is_folder(const std::string &path);
bool exists(const std::string &path);

// The bytes of a file. On failure `number` is the errno, and the answer is empty.
std::string read_file(const std::string &path, int &number);

// The SHA-256 of a file in hexadecimal, read in pieces; on failure `number` is the errno and the answer means nothing.
std::string sha256_of_file(const std::string &path, int &number);
std::string sha256_of_text(const std::string &text);

// Writes `path` through a temporary file beside it that becomes `path` when `write` ends well and vanishes when it does not.
void write_into_place(const std::string &path, const std::function<void(std::ostream &)> &write);

// Whether `name` is a plain relative path with forward slashes that cannot leave the folder it is joined to.
bool is_inside(const std::string &name);

}  // namespace sdic_internal
