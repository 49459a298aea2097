// The safetensors format: 8 bytes with the length of a JSON header, the header, and the tensors' bytes in little-endian order.
#pragma once

#include <map>
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

// Reads a whole file. Throws Error where the operating system refuses, and Invalid where it is not a safetensors file.
SafeTensors read_safetensors(const std::string &path);

// Writes float32 tensors, whole or not at all.
void write_safetensors(const std::string &path, const Tensors &tensors, const std::map<std::string, std::string> &metadata);

}  // namespace sdic_internal
