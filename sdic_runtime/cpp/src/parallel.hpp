// Work shared between threads.
#pragma once

#include <atomic>
#include <exception>
#include <future>
#include <mutex>
#include <vector>

namespace sdic_internal {

// Does the tasks 0 to `count` - 1: this thread takes tasks until none is left, and as many others help it as make up `workers`. The first
// failure ends it and is thrown.
template <typename Task>
void in_parallel(std::size_t count, std::size_t workers, Task task) {
    std::atomic<std::size_t> next{0};
    std::mutex lock;
    std::exception_ptr failure;
    const auto work = [&]() noexcept {
        for (std::size_t i = next++; i < count; i = next++) {
            try {
                task(i);
            } catch (...) {
                const std::lock_guard<std::mutex> hold(lock);
                if (!failure) failure = std::current_exception();
                next = count;
            }
        }
    };
    {
        std::vector<std::future<void>> helpers;  // wait for their threads when they go
        for (std::size_t i = 1; i < workers && i < count; ++i) helpers.push_back(std::async(std::launch::async, work));
        work();
    }
    if (failure) std::rethrow_exception(failure);
}

}  // namespace sdic_internal
