/// Instances that calls take and give back, first come, first served.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backend.hpp"

namespace segvit {

class InstancePool {
public:
    /// An instance for the time of a call; gives it back when it ends.
    class Lease {
    public:
        Lease(InstancePool& pool, std::size_t index) : pool_(pool), index_(index) {}
        ~Lease() { pool_.give_back(index_); }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        Instance* operator->() const { return pool_.instances_[index_].get(); }

    private:
        InstancePool& pool_;
        std::size_t index_;
    };

    explicit InstancePool(std::vector<std::unique_ptr<Instance>> instances)
        : instances_(std::move(instances)), busy_(instances_.size()) {}

    /// Returns an instance, or the one at `index`, once those who came before have theirs.
    [[nodiscard]] Lease take(std::optional<std::size_t> index = std::nullopt);
    [[nodiscard]] std::size_t size() const noexcept { return instances_.size(); }

private:
    [[nodiscard]] std::optional<std::size_t> find_free(std::optional<std::size_t> index) const;
    void give_back(std::size_t index);

    std::vector<std::unique_ptr<Instance>> instances_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<bool> busy_;
    // A thread that calls in a loop would otherwise overtake those that it should wake.
    std::uint64_t next_ticket_ = 0, served_tickets_ = 0;
};

}  // namespace segvit
