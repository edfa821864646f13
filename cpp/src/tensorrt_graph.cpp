#include "tensorrt_graph.hpp"

namespace segvit {

void GraphLauncher::launch(int count) {
    try {
        if (count == bound_) {
            launch_bound();
            return;
        }
        drop();
        calls_.bind(count);
        calls_.enqueue();
        bound_ = count;
    } catch (...) {
        drop();
        throw;
    }
}

void GraphLauncher::drop() noexcept {
    bound_ = 0;
    if (!graph_) return;
    (void)cudaStreamSynchronize(stream_);  // it may still be running
    graph_.reset();
}

void GraphLauncher::launch_bound() {
    if (!graph_ && capture_) {
        try {
            capture();
        } catch (const Error&) {
            (void)cudaGetLastError();  // what was said here is no failure of what comes next
            capture_ = false;
        }
    }
    if (graph_) {
        cuda::check(cudaGraphLaunch(graph_.get(), stream_), "launching a CUDA graph");
    } else {
        calls_.enqueue();
    }
}

void GraphLauncher::capture() {
    // Other threads may reserve memory meanwhile; the default mode would make that fail.
    cuda::check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
                "starting a capture");
    cudaGraph_t captured = nullptr;
    try {
        calls_.enqueue();
    } catch (...) {
        (void)cudaStreamEndCapture(stream_, &captured);  // or the stream would go on capturing
        const cuda::Graph useless(captured);
        throw;
    }
    cuda::check(cudaStreamEndCapture(stream_, &captured), "ending a capture");
    const cuda::Graph graph(captured);
    cudaGraphExec_t instance = nullptr;
    cuda::check(cudaGraphInstantiate(&instance, captured, 0), "making a CUDA graph");
    graph_.reset(instance);
}

}  // namespace segvit
