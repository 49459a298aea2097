// Cuts an ONNX graph down to some of its outputs. Python asks ONNX Runtime at run time to execute only the path to the outputs it
// fetches; the C interface of ONNX Runtime has no such switch, so the dead nodes are taken out of the file's bytes before it is loaded.
#pragma once

#include <set>
#include <string>

namespace sdic_internal {

// The model with the outputs `wanted`, and only the nodes and weights that these need. The model itself where the graph is not one
// that this function understands.
std::string pruned_model(const std::string &model, const std::set<std::string> &wanted);

}  // namespace sdic_internal
