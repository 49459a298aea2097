// A float32 tensor on the host. Shared, and never changed once it is shared.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace sdic_internal {

using Shape = std::vector<std::int64_t>;

inline std::size_t element_count(const Shape &shape) {
    std::size_t count = 1;
    for (const auto axis : shape) count *= static_cast<std::size_t>(axis);
    return count;
}

struct Tensor {
    explicit Tensor(Shape shape_) : shape(std::move(shape_)), data(element_count(shape)) {}
    Tensor(Shape shape_, std::vector<float> data_) : shape(std::move(shape_)), data(std::move(data_)) {}

    Shape shape;
    std::vector<float> data;

    std::size_t batch() const { return static_cast<std::size_t>(shape.at(0)); }
    std::size_t stride() const { return batch() ? data.size() / batch() : 0; }
};

using TensorPtr = std::shared_ptr<const Tensor>;
using Tensors = std::map<std::string, TensorPtr>;

// The tensors one after the other along the batch axis.
TensorPtr joined(const std::vector<TensorPtr> &parts);
// Rows `first` to `end` of the batch axis where each row stands `times` in a row; the tensor itself where that is all of it.
TensorPtr slice(const TensorPtr &tensor, std::size_t first, std::size_t end, std::size_t times = 1);
// "[1, 3, 128, 128]"
std::string text_of(const Shape &shape);

}  // namespace sdic_internal
