/// Not NVIDIA's NvInfer.h: our own declarations of the little that the back end uses.
///
/// No wheel and no Debian package holds the real headers. These let the back end be compiled on
/// every change, which finds our slips, and are no proof that it fits TensorRT: that is what
/// `tensorrt_compile` is for, against the real headers. Nothing is defined here, so nothing that
/// is compiled with this file can be linked.
///
/// Names, parameters and constness are those of NVIDIA's published headers (10.x, github.com/
/// NVIDIA/TensorRT, include/NvInferRuntime.h) and, below SEGVIT_DECLARE_RTX, of the published
/// reference of TensorRT-RTX 1.3. Layout is not: the real classes forward to an implementation.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#ifdef SEGVIT_DECLARE_RTX
#define TRT_MAJOR_RTX 1
#endif

namespace nvinfer1 {

using AsciiChar = char;

class Dims64 {
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
    int64_t d[MAX_DIMS];
};
using Dims = Dims64;

enum class DataType : int32_t { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8 };
enum class TensorIOMode : int32_t { kNONE, kINPUT, kOUTPUT };
enum class OptProfileSelector : int32_t { kMIN, kOPT, kMAX };
enum class ExecutionContextAllocationStrategy : int32_t {
    kSTATIC,
    kON_PROFILE_CHANGE,
    kUSER_MANAGED
};

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR, kERROR, kWARNING, kINFO, kVERBOSE };
    virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;
    ILogger() = default;
    virtual ~ILogger() = default;
};

/// Classes of the library can neither be made, copied nor moved by others.
class INoCopy {
public:
    INoCopy(INoCopy const&) = delete;
    INoCopy(INoCopy&&) = delete;
    INoCopy& operator=(INoCopy const&) = delete;
    INoCopy& operator=(INoCopy&&) = delete;

protected:
    INoCopy() = default;
    virtual ~INoCopy() = default;
};

class IHostMemory : public INoCopy {
public:
    virtual ~IHostMemory() noexcept = default;
    void* data() const noexcept;
    std::size_t size() const noexcept;
};

class IExecutionContext : public INoCopy {
public:
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const* tensorName, Dims const& dims) noexcept;
    Dims getTensorShape(char const* tensorName) const noexcept;
    bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept;
    bool setTensorAddress(char const* tensorName, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
};

#ifdef SEGVIT_DECLARE_RTX
enum class CudaGraphStrategy : int32_t { kDISABLED, kWHOLE_GRAPH_CAPTURE };

class IRuntimeCache : public INoCopy {
public:
    virtual ~IRuntimeCache() noexcept = default;
    IHostMemory* serialize() const noexcept;
    bool deserialize(void const* blob, std::size_t size) noexcept;
};
#endif

class IRuntimeConfig : public INoCopy {
public:
    virtual ~IRuntimeConfig() noexcept = default;
#ifdef SEGVIT_DECLARE_RTX
    IRuntimeCache* createRuntimeCache() const noexcept;
    bool setRuntimeCache(IRuntimeCache const& cache) noexcept;
    bool setCudaGraphStrategy(CudaGraphStrategy strategy) noexcept;
#endif
};

class ICudaEngine : public INoCopy {
public:
    virtual ~ICudaEngine() noexcept = default;
    Dims getTensorShape(char const* tensorName) const noexcept;
    DataType getTensorDataType(char const* tensorName) const noexcept;
    TensorIOMode getTensorIOMode(char const* tensorName) const noexcept;
    int32_t getNbIOTensors() const noexcept;
    char const* getIOTensorName(int32_t index) const noexcept;
    int32_t getNbOptimizationProfiles() const noexcept;
    Dims getProfileShape(char const* tensorName, int32_t profileIndex,
                         OptProfileSelector select) const noexcept;
    int64_t getDeviceMemorySizeV2() const noexcept;
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy strategy =
            ExecutionContextAllocationStrategy::kSTATIC) noexcept;
    IExecutionContext* createExecutionContext(IRuntimeConfig* runtimeConfig) noexcept;
    IRuntimeConfig* createRuntimeConfig() noexcept;
};

class IRuntime : public INoCopy {
public:
    virtual ~IRuntime() noexcept = default;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1

extern "C" int32_t getInferLibMajorVersion() noexcept;
extern "C" int32_t getInferLibMinorVersion() noexcept;
extern "C" int32_t getInferLibPatchVersion() noexcept;
extern "C" int32_t getInferLibBuildVersion() noexcept;
