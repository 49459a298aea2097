// The safetensors format: 8 bytes with the length of a JSON header, the header, and the tensors' bytes in little-endian order.
#pragma once

#include <map>
#include <stdexcept>
#include <string>

#include "tensor.hpp"

namespace sdic_internal {

struct SafeTensors {
    struct Entry {
        std::string dtype;  // as in the file: "F32", "F16", "F64"
        TensorPtr tensor;   // its values as float32
    };
    std::map<std::string, Entry> tensors;
    std::map<std::string, std::string> metadata;
};

// Why a file is not a safetensors file, in a few words. Callers make the sentence.
class NotSafeTensors : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// Reads a whole file. Where the operating system refuses, `number` is its errno. Throws NotSafeTensors.
SafeTensors read_safetensors(const std::string &path, int &number);

// Writes float32 tensors, whole or not at all.
void write_safetensors(const std::string &path, const Tensors &tensors, const std::map<std::string, std::string> &metadata);

}  // namespace sdic_internal
