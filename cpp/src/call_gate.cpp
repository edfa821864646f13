#include "call_gate.hpp"

#include "segvit/segmenter.hpp"

namespace segvit {

CallGate::Pass CallGate::enter() {
    const std::lock_guard lock(mutex_);
    if (closed_) {
        throw Error(ErrorCode::kClosed, "the segmenter is closed; load the artifact again");
    }
    ++inside_;
    return Pass(this);
}

void CallGate::close() {
    std::unique_lock lock(mutex_);
    closed_ = true;
    left_.wait(lock, [this] { return inside_ == 0; });
}

void CallGate::leave() {
    const std::lock_guard lock(mutex_);
    // Notified under the lock: once it is released, the gate may be gone.
    if (--inside_ == 0) left_.notify_all();
}

}  // namespace segvit
