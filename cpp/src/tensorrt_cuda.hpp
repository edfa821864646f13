/// What the TensorRT back end holds of CUDA, each freed by its owner; every status is checked.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "segvit/segmenter.hpp"

namespace segvit::cuda {

/// Calls the function that frees a handle; what it answers can no longer matter.
template <auto Free>
struct Freed {
    template <typename Handle>
    void operator()(Handle handle) const noexcept {
        (void)Free(handle);
    }
};

template <typename Handle, auto Free>
using Owned = std::unique_ptr<std::remove_pointer_t<Handle>, Freed<Free>>;

using Stream = Owned<cudaStream_t, cudaStreamDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphInstance = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
using DeviceMemory = Owned<std::byte*, cudaFree>;  ///< aligned to 256 bytes, as TensorRT needs it
using PinnedMemory = Owned<std::byte*, cudaFreeHost>;  ///< copied from and to by the GPU itself

/// Throws `Error` (kRuntime, or kOutOfMemory) unless a call succeeded; `doing` is what was tried.
void check(cudaError_t status, std::string_view doing);

/// Makes a GPU that of the calling thread.
void choose_device(int device);

/// Returns the compute capability of a GPU as `SM89`. Throws `Error` (kIncompatible) without it.
[[nodiscard]] std::string find_capability(int device);

/// Returns bytes that are free on the GPU chosen last.
[[nodiscard]] std::size_t free_memory();

/// Returns the error of `bytes` that the GPU chosen last does not have; forgets CUDA's own.
[[nodiscard]] Error out_of_memory(std::string_view what, std::size_t bytes);

/// Each throws `Error` (kOutOfMemory), naming `what` and the MiB needed.
[[nodiscard]] DeviceMemory allocate(std::size_t bytes, std::string_view what);
[[nodiscard]] PinnedMemory allocate_pinned(std::size_t bytes, std::string_view what);

/// Returns a stream that does not wait for the default one.
[[nodiscard]] Stream make_stream();

}  // namespace segvit::cuda
