#include "instance_pool.hpp"

namespace segvit {

InstancePool::Lease InstancePool::take(std::optional<std::size_t> index) {
    std::size_t found = 0;
    {
        std::unique_lock lock(mutex_);
        const auto ticket = next_ticket_++;
        changed_.wait(lock, [&] { return ticket == served_tickets_ && find_free(index); });
        found = *find_free(index);
        busy_[found] = true;
        ++served_tickets_;
    }
    changed_.notify_all();
    return {*this, found};
}

std::optional<std::size_t> InstancePool::find_free(std::optional<std::size_t> index) const {
    if (index) return busy_[*index] ? std::nullopt : index;
    for (std::size_t i = 0; i < busy_.size(); ++i) {
        if (!busy_[i]) return i;
    }
    return std::nullopt;
}

void InstancePool::give_back(std::size_t index) {
    {
        const std::lock_guard lock(mutex_);
        busy_[index] = false;
    }
    changed_.notify_all();
}

}  // namespace segvit
