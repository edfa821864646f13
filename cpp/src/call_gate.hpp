/// Lets calls in until it is closed, and knows when the last one has left.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <utility>

namespace segvit {

class CallGate {
public:
    /// A call that was let in, until it is destroyed.
    class Pass {
    public:
        explicit Pass(CallGate* gate) : gate_(gate) {}
        Pass(Pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
        Pass& operator=(Pass&&) = delete;
        Pass(const Pass&) = delete;
        Pass& operator=(const Pass&) = delete;
        ~Pass() {
            if (gate_ != nullptr) gate_->leave();
        }

    private:
        CallGate* gate_;
    };

    /// Throws `Error` (kClosed) once `close` was called.
    [[nodiscard]] Pass enter();
    /// Lets nobody in any more, and waits until all who are have left.
    void close();

private:
    void leave();

    std::mutex mutex_;
    std::condition_variable left_;
    std::size_t inside_ = 0;
    bool closed_ = false;
};

}  // namespace segvit
