#include "tensorrt_cuda.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "tensorrt_fake_cuda.hpp"
#include "tensorrt_graph.hpp"

namespace segvit {
namespace {

using Calls = std::vector<std::string>;
using test::fake_cuda;

const Calls kCapture{"StreamBeginCapture", "enqueue",      "StreamEndCapture",
                     "GraphInstantiate",   "GraphDestroy", "GraphLaunch"};

class Cuda : public ::testing::Test {
protected:
    void SetUp() override { fake_cuda() = {}; }
    void TearDown() override { EXPECT_EQ(fake_cuda().alive, 0) << "something was not freed"; }
};

class Graph : public Cuda {
protected:
    GraphLauncher make(bool capture = true) {
        return {nullptr,
                {[](int count) { fake_cuda().calls.push_back("bind " + std::to_string(count)); },
                 [this] { enqueue(); }},
                capture};
    }

    void enqueue() const {
        auto& calls = fake_cuda().calls;
        const bool capturing = !calls.empty() && calls.back() == "StreamBeginCapture";
        calls.emplace_back("enqueue");
        if (refuses_ || (refuses_capture_ && capturing))
            throw Error(ErrorCode::kRuntime, "refused");
    }

    bool refuses_ = false, refuses_capture_ = false;
};

TEST_F(Graph, ABatchIsEnqueuedOnceCapturedAndThenLaunched) {
    auto launcher = make();
    launcher.launch(1);
    EXPECT_EQ(fake_cuda().take(), (Calls{"bind 1", "enqueue"}));
    launcher.launch(1);
    EXPECT_EQ(fake_cuda().take(), kCapture);
    launcher.launch(1);
    EXPECT_EQ(fake_cuda().take(), Calls{"GraphLaunch"});
}

TEST_F(Graph, DoesNotOutliveTheBatchItsContextIsBoundTo) {
    auto launcher = make();
    launcher.launch(1);
    launcher.launch(1);
    (void)fake_cuda().take();
    launcher.launch(2);
    EXPECT_EQ(fake_cuda().take(),
              (Calls{"StreamSynchronize", "GraphExecDestroy", "bind 2", "enqueue"}));
    launcher.launch(2);
    EXPECT_EQ(fake_cuda().take(), kCapture);
}

TEST_F(Graph, OfAlternatingBatchesIsNeverCaptured) {
    auto launcher = make();
    for (const int count : {1, 2, 1, 2}) launcher.launch(count);
    EXPECT_EQ(fake_cuda().take(), (Calls{"bind 1", "enqueue", "bind 2", "enqueue", "bind 1",
                                         "enqueue", "bind 2", "enqueue"}));
}

TEST_F(Graph, IsLeftAloneWhereTheLibraryCaptures) {
    auto launcher = make(false);
    for (int call = 0; call < 3; ++call) launcher.launch(1);
    EXPECT_EQ(fake_cuda().take(), (Calls{"bind 1", "enqueue", "enqueue", "enqueue"}));
}

class FailingCapture : public Graph, public ::testing::WithParamInterface<const char*> {};

TEST_P(FailingCapture, MeansOrdinaryEnqueueing) {
    fake_cuda().failing = GetParam();
    refuses_capture_ = fake_cuda().failing == "enqueue";
    auto launcher = make();
    for (int call = 0; call < 4; ++call) launcher.launch(1);
    const auto calls = fake_cuda().take();
    EXPECT_EQ(std::ranges::count(calls, "GraphLaunch"), 0);
    EXPECT_EQ(std::ranges::count(calls, "StreamBeginCapture"), 1);
    const bool began = fake_cuda().failing != "StreamBeginCapture";
    EXPECT_EQ(std::ranges::count(calls, "StreamEndCapture"), began ? 1 : 0);
    EXPECT_EQ((Calls{calls.end() - 2, calls.end()}), (Calls{"enqueue", "enqueue"}));
}

INSTANTIATE_TEST_SUITE_P(Anywhere, FailingCapture,
                         ::testing::Values("StreamBeginCapture", "enqueue", "StreamEndCapture",
                                           "GraphInstantiate"));

TEST_F(Graph, AfterAFailureAllIsBoundAnew) {
    auto launcher = make();
    launcher.launch(1);
    launcher.launch(1);
    fake_cuda().failing = "GraphLaunch";
    EXPECT_THROW(launcher.launch(1), Error);
    fake_cuda().failing.clear();
    (void)fake_cuda().take();
    launcher.launch(1);
    EXPECT_EQ(fake_cuda().take(), (Calls{"bind 1", "enqueue"}));
    refuses_ = true;
    EXPECT_THROW(launcher.launch(2), Error);
    refuses_ = false;
    (void)fake_cuda().take();
    launcher.launch(2);
    EXPECT_EQ(fake_cuda().take(), (Calls{"bind 2", "enqueue"}));
}

TEST_F(Cuda, AFullGpuIsSaidInMib) {
    fake_cuda().free = std::size_t{12} << 20U;
    try {
        (void)cuda::allocate((std::size_t{300} << 20U) + 1, "images of 4 images");
        FAIL() << "it had no room";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
        EXPECT_STREQ(error.what(),
                     "images of 4 images takes 301 MiB of GPU memory, 12 MiB are free; free some, "
                     "open fewer instances, or build with a smaller --batch or with --tail-strips "
                     "4");
    }
    EXPECT_FALSE(fake_cuda().error_is_left);
    EXPECT_NE(cuda::allocate(1024, "less"), nullptr);  // usable after
}

TEST_F(Cuda, HostMemoryThatIsLackingIsToldFromTheGpuS) {
    fake_cuda().free = 0;
    try {
        (void)cuda::allocate_pinned(std::size_t{3} << 20U, "labels");
        FAIL() << "it had no room";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kOutOfMemory);
        EXPECT_NE(std::string(error.what()).find("pinning 3 MiB of host memory for labels"),
                  std::string::npos);
    }
    EXPECT_FALSE(fake_cuda().error_is_left);
}

TEST_F(Cuda, WhatIsMadeIsFreed) {
    {
        const auto stream = cuda::make_stream();
        const auto device = cuda::allocate(16, "images");
        const auto host = cuda::allocate_pinned(16, "images");
        EXPECT_EQ(fake_cuda().alive, 3);
    }
    EXPECT_EQ(fake_cuda().take(), (Calls{"StreamCreateWithFlags", "Malloc", "HostAlloc", "FreeHost",
                                         "Free", "StreamDestroy"}));
}

TEST_F(Cuda, CapabilityIsThatOfTheGpu) {
    EXPECT_EQ(cuda::find_capability(0), "SM120");
    for (const auto& [gpus, message] :
         {std::pair{1, "there is no GPU 1, only 1"},
          std::pair{0, "this machine has no NVIDIA GPU in working"}}) {
        fake_cuda().gpus = gpus;
        try {
            (void)cuda::find_capability(1);
            FAIL() << "there is none";
        } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
            EXPECT_EQ(std::string(error.what()).rfind(message, 0), 0U) << error.what();
        }
    }
}

}  // namespace
}  // namespace segvit
