/// Calls from many threads: who runs, who waits, how batches are cut, and how a session ends.
#include "session.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <thread>

#include "artifacts.hpp"
#include "fake_backend.hpp"

namespace segvit::test {
namespace {

using namespace std::chrono_literals;

constexpr int kSide = 4;
constexpr std::size_t kPixels = kSide * kSide;

/// An image whose every value is the same.
struct Plain {
    std::array<std::uint8_t, kPixels * 3> pixels;
    explicit Plain(int value) { pixels.fill(static_cast<std::uint8_t>(value)); }
    [[nodiscard]] ImageView view() const {
        return {.data = pixels.data(), .height = kSide, .width = kSide, .stride = 0};
    }
};

class SessionTest : public testing::Test {
protected:
    std::unique_ptr<Session> make(BatchRange batch, int instances) {
        EngineInfo info{.target = Target::kOpenVino,
                        .height = kSide,
                        .width = kSide,
                        .label_bytes = 1,
                        .batch = batch,
                        .classes = {},
                        .notes = {}};
        auto backend = std::make_unique<FakeBackend>(record_, kPixels, batch.largest);
        return std::make_unique<Session>(std::move(info), std::move(backend), instances);
    }

    /// Calls `segment` `calls` times on each of `threads` threads, and counts wrong labels.
    static int hammer(Session& session, int threads, int calls) {
        std::atomic<int> wrong = 0;
        std::vector<std::thread> callers;
        for (int t = 0; t < threads; ++t) {
            callers.emplace_back([&, t] {
                for (int i = 0; i < calls; ++i) {
                    const Plain image(16 * t + i % 16);
                    wrong += session.segment(image.view()).at(3, 3) != 16 * t + i % 16 ? 1 : 0;
                }
            });
        }
        for (auto& caller : callers) caller.join();
        return wrong;
    }

    std::shared_ptr<Record> record_ = std::make_shared<Record>();
};

TEST_F(SessionTest, ThreadsOnOneInstanceWaitForEachOther) {
    const auto session = make({1, 1, 1}, 1);
    EXPECT_EQ(hammer(*session, 4, 50), 0);
    EXPECT_EQ(record_->most_running, 1);
    EXPECT_EQ(record_->counts.size(), 200U);
}

TEST_F(SessionTest, AsManyRunAtOnceAsThereAreInstances) {
    const auto session = make({1, 1, 1}, 3);
    record_->hold();
    std::vector<std::thread> callers;
    for (int t = 0; t < 5; ++t) {
        callers.emplace_back([&, t] {
            const Plain image(t);
            EXPECT_EQ(session->segment(image.view()).at(0, 0), t);
        });
    }
    record_->wait_until_running(3);
    record_->let_go();
    for (auto& caller : callers) caller.join();
    EXPECT_EQ(record_->most_running, 3);
    const std::set<int> used(record_->instance_of.begin(), record_->instance_of.end());
    EXPECT_EQ(used.size(), 3U);
}

TEST_F(SessionTest, ManyThreadsOnSeveralInstancesGetTheirOwnLabels) {
    const auto session = make({1, 2, 4}, 2);
    EXPECT_EQ(hammer(*session, 8, 50), 0);
    EXPECT_LE(record_->most_running, 2);
}

TEST_F(SessionTest, ACallerInALoopDoesNotOvertakeOneThatWaits) {
    const auto session = make({1, 1, 1}, 1);
    const Plain looping(1), waiting(2);
    std::atomic<bool> served = false;
    record_->hold();
    std::thread loop([&] {
        // It would go on for ever if the other were never served.
        while (!served) (void)session->segment(looping.view());
    });
    record_->wait_until_running(1);
    std::thread other([&] {
        (void)session->segment(waiting.view());
        served = true;
    });
    record_->let_go();
    loop.join();
    other.join();
    EXPECT_TRUE(served);
}

TEST_F(SessionTest, BatchesAreSplitAndFilledUp) {
    std::vector<Plain> images;
    std::vector<ImageView> views;
    for (int i = 0; i < 10; ++i) images.emplace_back(20 + i);
    for (const auto& image : images) views.push_back(image.view());
    for (const auto& [batch, expected] :
         {std::pair<BatchRange, std::vector<int>>{{1, 2, 4}, {4, 4, 2}},
          {{4, 4, 4}, {4, 4, 4}},
          {{3, 3, 8}, {8, 3}},
          {{1, 1, 16}, {10}}}) {
        const auto session = make(batch, 1);
        record_->counts.clear();
        const auto labels = session->segment(views);
        EXPECT_EQ(record_->counts, expected);
        ASSERT_EQ(labels.size(), 10U);
        for (int i = 0; i < 10; ++i)
            EXPECT_EQ(labels[static_cast<std::size_t>(i)].at(1, 2), 20 + i);
    }
}

TEST_F(SessionTest, AsynchronousCallsAnswerEachWithItsLabels) {
    const auto session = make({1, 2, 4}, 2);
    std::vector<Plain> images;
    for (int i = 0; i < 20; ++i) images.emplace_back(i);
    std::vector<std::future<LabelMap>> futures;
    for (const auto& image : images) futures.push_back(session->segment_async(image.view()));
    auto several = session->segment_async({images[3].view(), images[4].view(), images[5].view()});
    for (int i = 0; i < 20; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].get().at(0, 0), i);
    const auto labels = several.get();
    ASSERT_EQ(labels.size(), 3U);
    EXPECT_EQ(labels[2].at(0, 0), 5);
}

TEST_F(SessionTest, AsynchronousErrorsComeWithTheFuture) {
    const auto session = make({1, 1, 1}, 1);
    auto future = session->segment_async(ImageView{});
    expect_error(ErrorCode::kInvalidArgument, "null pointer", [&] { (void)future.get(); });
    const Plain image(9);
    EXPECT_EQ(session->segment_async(image.view()).get().at(0, 0), 9);
}

TEST_F(SessionTest, FailuresOfARunLeaveItUsable) {
    const auto session = make({1, 1, 1}, 1);
    const Plain image(7);
    record_->fail_next(std::make_exception_ptr(Error(ErrorCode::kRuntime, "the engine stopped")));
    expect_error(ErrorCode::kRuntime, "the engine stopped",
                 [&] { (void)session->segment(image.view()); });
    record_->fail_next(std::make_exception_ptr(std::bad_alloc()));
    expect_error(ErrorCode::kOutOfMemory, "segmenting: memory does not suffice",
                 [&] { (void)session->segment(image.view()); });
    EXPECT_EQ(session->segment(image.view()).at(0, 0), 7);
}

TEST_F(SessionTest, WarmUpRunsEveryInstanceOnce) {
    const auto session = make({1, 2, 4}, 3);
    session->warm_up();
    EXPECT_EQ(record_->counts, (std::vector{2, 2, 2}));
    EXPECT_EQ(std::set(record_->instance_of.begin(), record_->instance_of.end()).size(), 3U);
}

TEST_F(SessionTest, ClosingWaitsForCallsInFlight) {
    const auto session = make({1, 1, 1}, 1);
    const Plain image(5);
    record_->hold();
    auto running = session->segment_async(image.view());
    auto queued = session->segment_async(image.view());
    record_->wait_until_running(1);
    std::thread closer([&] { session->close(); });
    // Until it is closed, calls are let in; this one may be one of them or not.
    while (true) {
        try {
            (void)session->segment_async(image.view());
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kClosed);
            break;
        }
        std::this_thread::sleep_for(1ms);
    }
    EXPECT_EQ(running.wait_for(0s), std::future_status::timeout);
    record_->let_go();
    closer.join();
    EXPECT_EQ(running.get().at(0, 0), 5);
    EXPECT_EQ(queued.get().at(0, 0), 5);
    EXPECT_EQ(record_->instances, 0);
}

TEST_F(SessionTest, AClosedOneRefusesEveryCall) {
    const auto session = make({1, 1, 1}, 2);
    const Plain image(5);
    session->close();
    session->close();
    expect_error(ErrorCode::kClosed, "is closed; load the artifact again",
                 [&] { (void)session->segment(image.view()); });
    expect_error(ErrorCode::kClosed, "is closed", [&] { session->segment_into({}, {}); });
    expect_error(ErrorCode::kClosed, "is closed",
                 [&] { (void)session->segment_async(image.view()); });
    expect_error(ErrorCode::kClosed, "is closed", [&] { session->warm_up(); });
    EXPECT_EQ(session->info().height, kSide);
}

TEST_F(SessionTest, ClosingFromSeveralThreadsWhileOthersCall) {
    const auto session = make({1, 2, 4}, 2);
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            const Plain image(t);
            try {
                for (;;) EXPECT_EQ(session->segment(image.view()).at(0, 0), t);
            } catch (const Error& error) {
                EXPECT_EQ(error.code(), ErrorCode::kClosed);
            }
        });
    }
    std::this_thread::sleep_for(20ms);
    for (int t = 0; t < 2; ++t) threads.emplace_back([&] { session->close(); });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(record_->instances, 0);
}

}  // namespace
}  // namespace segvit::test
