/// A deserialised engine, of TensorRT or TensorRT-RTX, checked against the manifest.
#pragma once

#include <NvInfer.h>

#include <cstddef>
#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace segvit {

/// The target that this library's TensorRT runs.
#ifdef TRT_MAJOR_RTX
inline constexpr Target kOwnTarget = Target::kTensorRtRtx;
#else
inline constexpr Target kOwnTarget = Target::kTensorRt;
#endif

/// Returns the version of the TensorRT that is loaded, such as `10.16.0.72`.
[[nodiscard]] std::string tensorrt_version();

/// Keeps errors for our messages.
class ErrorLog : public nvinfer1::ILogger {
public:
    void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override;
    /// Returns what went wrong since the last call.
    [[nodiscard]] std::string take();

private:
    std::mutex mutex_;
    std::vector<std::string> errors_;
};

class TensorRtEngine {
public:
    /// Deserialises an engine on the GPU chosen last; the bytes are those that were hashed.
    ///
    /// Throws `Error`: kDamaged if the file is not as built or its tensors are not those of the
    /// manifest, kOutOfMemory, or kIncompatible if TensorRT does not take it.
    TensorRtEngine(const Manifest& manifest, const std::string& file);
    TensorRtEngine(const TensorRtEngine&) = delete;
    TensorRtEngine(TensorRtEngine&&) = delete;
    TensorRtEngine& operator=(const TensorRtEngine&) = delete;
    TensorRtEngine& operator=(TensorRtEngine&&) = delete;
    /// Keeps what TensorRT-RTX compiled for the next load.
    ~TensorRtEngine();

    /// Returns one more execution context. Throws `Error` (kOutOfMemory, kRuntime).
    [[nodiscard]] std::unique_ptr<nvinfer1::IExecutionContext> make_context();

    /// Returns the tightest optimisation profile that holds a batch. Throws `Error`
    /// (kInvalidArgument) if none does.
    [[nodiscard]] int choose_profile(int count) const;

    /// Returns the error of something that TensorRT refused, with its reason.
    [[nodiscard]] Error refused(const std::string& what);

private:
    struct Profile {
        int smallest, largest;  // images
    };

    void check_tensors(const Manifest& manifest) const;
    void read_profiles(const Manifest& manifest);
    [[nodiscard]] Error failed(ErrorCode code, const std::string& problem, const std::string& what,
                               std::size_t bytes);

    // Each must outlive those below it.
    ErrorLog log_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::vector<Profile> profiles_;

#ifdef TRT_MAJOR_RTX
    void open_cache(const std::string& engine_sha256);
    void save_cache() noexcept;

    std::unique_ptr<nvinfer1::IRuntimeCache> cache_;
    std::filesystem::path cache_path_;
    std::vector<std::byte> cached_;  // what an earlier run left
#endif
};

/// Returns the dimensions of a batch of images or, without channels, of labels.
[[nodiscard]] nvinfer1::Dims image_dims(const Manifest& manifest, int count);
[[nodiscard]] nvinfer1::Dims label_dims(const Manifest& manifest, int count);
[[nodiscard]] bool equal(const nvinfer1::Dims& left, const nvinfer1::Dims& right);
[[nodiscard]] std::string describe(const nvinfer1::Dims& dims);

}  // namespace segvit
