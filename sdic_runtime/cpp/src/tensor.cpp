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

TensorPtr slice(const TensorPtr &tensor, std::size_t first, std::size_t end, std::size_t times) {
    if (times == 1 && first == 0 && end == tensor->batch()) return tensor;
    Shape shape = tensor->shape;
    shape[0] = static_cast<std::int64_t>(end - first);
    auto part = std::make_shared<Tensor>(shape);
    for (std::size_t i = first; i < end; ++i) {
        std::copy_n(tensor->data.data() + i / times * tensor->stride(), tensor->stride(), part->data.data() + (i - first) * tensor->stride());
    }
    return part;
}

std::string text_of(const Shape &shape) {
    std::string text;
    for (const auto size : shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
    return "[" + text + "]";
}

}  // namespace sdic_internal
