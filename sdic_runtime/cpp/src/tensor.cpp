#include "tensor.hpp"

#include <algorithm>

namespace sdic_internal {

TensorPtr joined(const std::vector<TensorPtr> &parts) {
    if (parts.size() == 1) return parts.front();
    Shape shape = parts.front()->shape;
    shape[0] = 0;
    for (const auto &part : parts) shape[0] += part->shape[0];
    auto whole = std::make_shared<Tensor>(shape);
    auto place = whole->data.begin();
    for (const auto &part : parts) place = std::copy(part->data.begin(), part->data.end(), place);
    return whole;
}

TensorPtr slice(const TensorPtr &tensor, std::size_t first, std::size_t end) {
    if (first == 0 && end == tensor->batch()) return tensor;
    Shape shape = tensor->shape;
    shape[0] = static_cast<std::int64_t>(end - first);
    const auto begin = tensor->data.begin() + static_cast<std::ptrdiff_t>(first * tensor->stride());
    return std::make_shared<Tensor>(shape, std::vector<float>(begin, begin + static_cast<std::ptrdiff_t>((end - first) * tensor->stride())));
}

}  // namespace sdic_internal
