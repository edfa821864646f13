#include "tensorrt_cuda.hpp"

#include "text.hpp"

namespace segvit::cuda {
namespace {

constexpr std::size_t kMib = std::size_t{1} << 20;

std::size_t to_mib(std::size_t bytes) {
    return (bytes + kMib - 1) / kMib;
}

int attribute(cudaDeviceAttr name, int device) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, name, device), concat("asking GPU ", device));
    return value;
}

}  // namespace

void check(cudaError_t status, std::string_view doing) {
    if (status == cudaSuccess) return;
    const auto code =
        status == cudaErrorMemoryAllocation ? ErrorCode::kOutOfMemory : ErrorCode::kRuntime;
    throw Error(code, concat(doing, " failed: ", cudaGetErrorName(status), " (",
                             cudaGetErrorString(status), ")"));
}

void choose_device(int device) {
    check(cudaSetDevice(device), concat("choosing GPU ", device));
}

std::string find_capability(int device) {
    int count = 0;
    const auto status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) {
        throw Error(ErrorCode::kIncompatible,
                    concat("this machine has no NVIDIA GPU in working order (",
                           cudaGetErrorString(status), ")"));
    }
    if (device >= count) {
        throw Error(ErrorCode::kIncompatible, concat("there is no GPU ", device, ", only ", count));
    }
    return concat("SM", attribute(cudaDevAttrComputeCapabilityMajor, device),
                  attribute(cudaDevAttrComputeCapabilityMinor, device));
}

std::size_t free_memory() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "asking for free GPU memory");
    return free;
}

Error out_of_memory(std::string_view what, std::size_t bytes) {
    (void)cudaGetLastError();  // or the next call that looks would find it
    return {ErrorCode::kOutOfMemory,
            concat(what, " takes ", to_mib(bytes), " MiB of GPU memory, ", to_mib(free_memory()),
                   " MiB are free; free some, open fewer instances, or build with a smaller "
                   "--batch or with --tail-strips 4")};
}

DeviceMemory allocate(std::size_t bytes, std::string_view what) {
    void* address = nullptr;
    const auto status = cudaMalloc(&address, bytes);
    if (status == cudaErrorMemoryAllocation) throw out_of_memory(what, bytes);
    check(status, concat("reserving ", what));
    return DeviceMemory(static_cast<std::byte*>(address));
}

PinnedMemory allocate_pinned(std::size_t bytes, std::string_view what) {
    void* address = nullptr;
    const auto status = cudaHostAlloc(&address, bytes, cudaHostAllocDefault);
    if (status == cudaErrorMemoryAllocation) (void)cudaGetLastError();
    check(status, concat("pinning ", to_mib(bytes), " MiB of host memory for ", what));
    return PinnedMemory(static_cast<std::byte*>(address));
}

Stream make_stream() {
    cudaStream_t stream = nullptr;
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
    return Stream(stream);
}

}  // namespace segvit::cuda
