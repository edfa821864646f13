/// The CUDA graph of an execution context: its kernels launched with one call.
#pragma once

#include <functional>

#include "tensorrt_cuda.hpp"

namespace segvit {

/// Enqueues a context for batches: as it comes after a change, then captured, then as a graph.
///
/// The first enqueue for a batch size brings the context's own state up to date, which may not be
/// captured; the second is captured; from then on the graph is launched. NVIDIA leaves undefined
/// what a graph does once its context has changed, so there is at most one. Where capture fails
/// there is ordinary enqueueing.
class GraphLauncher {
public:
    struct Calls {
        std::function<void(int)> bind;  ///< sets the context to a batch size; throws
        std::function<void()> enqueue;  ///< enqueues the context on the stream; throws
    };

    /// `capture` is false where the library captures by itself.
    GraphLauncher(cudaStream_t stream, Calls calls, bool capture)
        : stream_(stream), calls_(std::move(calls)), capture_(capture) {}
    GraphLauncher(const GraphLauncher&) = delete;
    GraphLauncher(GraphLauncher&&) = delete;
    GraphLauncher& operator=(const GraphLauncher&) = delete;
    GraphLauncher& operator=(GraphLauncher&&) = delete;
    ~GraphLauncher() { drop(); }

    /// Enqueues `count` images; throws what the calls throw, and then starts afresh.
    void launch(int count);

    /// Forgets batch size and graph.
    void drop() noexcept;

private:
    void launch_bound();
    void capture();

    cudaStream_t stream_;
    Calls calls_;
    bool capture_;
    int bound_ = 0;  // images; 0 is none
    cuda::GraphInstance graph_;
};

}  // namespace segvit
