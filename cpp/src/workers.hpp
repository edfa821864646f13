/// Threads that do work in the order it was given, started when there is some.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

namespace segvit {

class Workers {
public:
    explicit Workers(std::size_t most) : most_(most) {}
    /// Does what is left, then ends the threads.
    ~Workers();
    Workers(const Workers&) = delete;
    Workers& operator=(const Workers&) = delete;

    /// Throws `Error` (kRuntime) if no thread can be started.
    void submit(std::packaged_task<void()> work);

private:
    void start_thread();
    void work();

    const std::size_t most_;
    std::mutex mutex_;
    std::condition_variable given_;
    std::deque<std::packaged_task<void()>> queue_;
    bool ending_ = false;
    std::vector<std::thread> threads_;
};

}  // namespace segvit
