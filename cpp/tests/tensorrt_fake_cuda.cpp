#include "tensorrt_fake_cuda.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <utility>

namespace segvit::test {

FakeCuda& fake_cuda() {
    static FakeCuda cuda;
    return cuda;
}

std::vector<std::string> FakeCuda::take() {
    return std::exchange(calls, {});
}

namespace {

/// Notes a call, and returns whether it is the one that fails.
bool note(const std::string& call) {
    fake_cuda().calls.push_back(call);
    return fake_cuda().failing == call;
}

template <typename Handle>
cudaError_t make(Handle* handle, const std::string& call) {
    if (note(call)) {
        *handle = nullptr;
        return cudaErrorStreamCaptureInvalidated;
    }
    ++fake_cuda().alive;
    *handle = reinterpret_cast<Handle>(new std::byte[1]);  // nobody looks into it
    return cudaSuccess;
}

template <typename Handle>
cudaError_t release(Handle handle, const std::string& call) {
    (void)note(call);
    --fake_cuda().alive;
    delete[] reinterpret_cast<std::byte*>(handle);
    return cudaSuccess;
}

cudaError_t reserve(void** address, std::size_t bytes, const std::string& call) {
    if (bytes > fake_cuda().free) {
        fake_cuda().error_is_left = true;
        return cudaErrorMemoryAllocation;
    }
    fake_cuda().free -= bytes;
    return make(address, call);
}

}  // namespace
}  // namespace segvit::test

using segvit::test::fake_cuda;
using segvit::test::make;
using segvit::test::note;
using segvit::test::release;

extern "C" {

cudaError_t cudaMalloc(void** devPtr, std::size_t size) {
    return segvit::test::reserve(devPtr, size, "Malloc");
}
cudaError_t cudaHostAlloc(void** pHost, std::size_t size, unsigned int /*flags*/) {
    return segvit::test::reserve(pHost, size, "HostAlloc");
}
cudaError_t cudaFree(void* devPtr) {
    return release(devPtr, "Free");
}
cudaError_t cudaFreeHost(void* ptr) {
    return release(ptr, "FreeHost");
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int /*flags*/) {
    return make(stream, "StreamCreateWithFlags");
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    return release(stream, "StreamDestroy");
}
cudaError_t cudaStreamSynchronize(cudaStream_t /*stream*/) {
    (void)note("StreamSynchronize");
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t /*stream*/, cudaStreamCaptureMode mode) {
    if (mode != cudaStreamCaptureModeThreadLocal) return cudaErrorInvalidValue;
    return note("StreamBeginCapture") ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t /*stream*/, cudaGraph_t* graph) {
    return make(graph, "StreamEndCapture");
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* pGraphExec, cudaGraph_t /*graph*/,
                                 unsigned long long /*flags*/) {
    return make(pGraphExec, "GraphInstantiate");
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t /*graphExec*/, cudaStream_t /*stream*/) {
    return note("GraphLaunch") ? cudaErrorLaunchFailure : cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    return release(graph, "GraphDestroy");
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    return release(graph, "GraphExecDestroy");
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    *free = fake_cuda().free;
    *total = std::size_t{8} << 30U;
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    return std::exchange(fake_cuda().error_is_left, false) ? cudaErrorMemoryAllocation
                                                           : cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t /*error*/) {
    return "cudaErrorOfATest";
}
const char* cudaGetErrorString(cudaError_t /*error*/) {
    return "as the test wants it";
}

cudaError_t cudaSetDevice(int device) {
    return device < fake_cuda().gpus ? cudaSuccess : cudaErrorInvalidDevice;
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = fake_cuda().gpus;
    return fake_cuda().gpus > 0 ? cudaSuccess : cudaErrorNoDevice;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int /*device*/) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 12 : 0;
    return cudaSuccess;
}

}  // extern "C"
