#include "workers.hpp"

#include <system_error>

#include "segvit/segmenter.hpp"
#include "text.hpp"

namespace segvit {

Workers::~Workers() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    given_.notify_all();
    for (auto& thread : threads_) thread.join();
}

void Workers::submit(std::packaged_task<void()> work) {
    {
        const std::lock_guard lock(mutex_);
        if (threads_.size() < most_) start_thread();
        queue_.push_back(std::move(work));
    }
    given_.notify_one();
}

void Workers::start_thread() {
    try {
        threads_.emplace_back([this] { work(); });
    } catch (const std::system_error& error) {
        throw Error(ErrorCode::kRuntime, concat("no thread could be started: ", error.what()));
    }
}

void Workers::work() {
    for (;;) {
        std::packaged_task<void()> task;
        {
            std::unique_lock lock(mutex_);
            given_.wait(lock, [this] { return ending_ || !queue_.empty(); });
            if (queue_.empty()) return;
            task = std::move(queue_.front());
            queue_.pop_front();
        }
        task();
    }
}

}  // namespace segvit
