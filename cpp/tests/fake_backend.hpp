/// A back end without an engine: a label is its pixel's red value. It records what runs at the same
/// time, can be held up, and fails on demand.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "session.hpp"

namespace segvit::test {

/// What all instances of one back end share with the test.
struct Record {
    std::mutex mutex;
    std::condition_variable changed;
    int running = 0, most_running = 0, instances = 0;
    bool held = false;             ///< runs wait until it is false again
    std::vector<int> counts;       ///< images of each run
    std::vector<int> instance_of;  ///< which instance ran each
    std::exception_ptr failure;    ///< thrown by the next run

    void hold() {
        const std::lock_guard lock(mutex);
        held = true;
    }
    void let_go() {
        const std::lock_guard lock(mutex);
        held = false;
        changed.notify_all();
    }
    void wait_until_running(int count) {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return running == count; });
    }
    void fail_next(std::exception_ptr error) {
        const std::lock_guard lock(mutex);
        failure = std::move(error);
    }
};

class FakeInstance : public Instance {
public:
    FakeInstance(std::shared_ptr<Record> record, int index, std::size_t pixels, int largest)
        : record_(std::move(record)),
          index_(index),
          pixels_(pixels),
          input_(pixels * 3 * static_cast<std::size_t>(largest)),
          output_(pixels * static_cast<std::size_t>(largest)) {}
    ~FakeInstance() override {
        const std::lock_guard lock(record_->mutex);
        --record_->instances;
    }
    FakeInstance(const FakeInstance&) = delete;
    FakeInstance& operator=(const FakeInstance&) = delete;

    std::span<std::uint8_t> input() override { return input_; }

    std::span<const std::byte> run(int count) override {
        enter(count);
        const auto labels = pixels_ * static_cast<std::size_t>(count);
        for (std::size_t i = 0; i < labels; ++i) output_[i] = std::byte{input_[3 * i]};
        leave();
        return std::span(output_).first(labels);
    }

private:
    void enter(int count) {
        std::unique_lock lock(record_->mutex);
        if (record_->failure) std::rethrow_exception(std::exchange(record_->failure, nullptr));
        ++record_->running;
        record_->most_running = std::max(record_->most_running, record_->running);
        record_->counts.push_back(count);
        record_->instance_of.push_back(index_);
        record_->changed.notify_all();
        record_->changed.wait(lock, [&] { return !record_->held; });
    }
    void leave() {
        const std::lock_guard lock(record_->mutex);
        --record_->running;
        record_->changed.notify_all();
    }

    std::shared_ptr<Record> record_;
    int index_;
    std::size_t pixels_;
    std::vector<std::uint8_t> input_;
    std::vector<std::byte> output_;
};

class FakeBackend : public Backend {
public:
    FakeBackend(std::shared_ptr<Record> record, std::size_t pixels, int largest)
        : record_(std::move(record)), pixels_(pixels), largest_(largest) {}
    std::unique_ptr<Instance> make_instance() override {
        return std::make_unique<FakeInstance>(record_, record_->instances++, pixels_, largest_);
    }

private:
    std::shared_ptr<Record> record_;
    std::size_t pixels_;
    int largest_;
};

}  // namespace segvit::test
