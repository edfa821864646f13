#include "tensorrt_engine.hpp"

#include <algorithm>
#include <array>
#include <cctype>

#include "artifact_files.hpp"
#include "tensorrt_cache.hpp"
#include "tensorrt_cuda.hpp"
#include "text.hpp"

namespace segvit {
namespace {

constexpr std::size_t kMostErrors = 16;

struct Tensor {
    std::string name;
    nvinfer1::TensorIOMode mode;
    nvinfer1::DataType type;
    nvinfer1::Dims dims;  // the batch is the manifest's to check
};

std::string describe_tensor(const Tensor& tensor) {
    return concat("'", shortened(tensor.name), "' of ", describe(tensor.dims), ", type ",
                  static_cast<int>(tensor.type));
}

/// Whether two tensors are the same but for the batch.
bool fits(const Tensor& found, const Tensor& wanted) {
    auto dims = found.dims;
    if (dims.nbDims > 0) dims.d[0] = wanted.dims.d[0];
    return found.name == wanted.name && found.mode == wanted.mode && found.type == wanted.type &&
           equal(dims, wanted.dims);
}

bool says_out_of_memory(std::string text) {
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return std::tolower(c); });
    return text.find("out of memory") != std::string::npos;
}

}  // namespace

std::string tensorrt_version() {
    return concat(getInferLibMajorVersion(), ".", getInferLibMinorVersion(), ".",
                  getInferLibPatchVersion(), ".", getInferLibBuildVersion());
}

void ErrorLog::log(Severity severity, const nvinfer1::AsciiChar* message) noexcept {
    if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
    try {
        const std::scoped_lock lock(mutex_);
        if (errors_.size() < kMostErrors) errors_.emplace_back(message);
    } catch (const std::exception&) {
        return;  // no memory for a message; TensorRT's caller learns of the failure itself
    }
}

std::string ErrorLog::take() {
    const std::scoped_lock lock(mutex_);
    std::string text;
    for (const auto& error : errors_) text += (text.empty() ? "" : " | ") + error;
    errors_.clear();
    return text.empty() ? "TensorRT gave no reason" : text;
}

TensorRtEngine::TensorRtEngine(const Manifest& manifest, const std::string& file) {
    // Read whole, whatever its size: a stream reader would load bytes before they are hashed.
    const auto plan = manifest.read_verified(file);
    const auto path = manifest.folder / file;
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    if (!runtime_) throw refused("a TensorRT runtime");
    engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
    if (!engine_) {
        throw failed(ErrorCode::kIncompatible, quoted(path) + " did not load", "the engine",
                     plan.size());
    }
    try {
        check_tensors(manifest);
    } catch (const Error& error) {
        throw Error(error.code(), concat(quoted(path), " ", error.what(),
                                         "; rebuild it: ", rebuild_command(path)));
    }
    read_profiles(manifest);
#ifdef TRT_MAJOR_RTX
    open_cache(manifest.files.at(file));
#endif
}

TensorRtEngine::~TensorRtEngine() {
#ifdef TRT_MAJOR_RTX
    save_cache();
#endif
}

std::unique_ptr<nvinfer1::IExecutionContext> TensorRtEngine::make_context() {
    std::unique_ptr<nvinfer1::IExecutionContext> context;
#ifdef TRT_MAJOR_RTX
    // Captures CUDA graphs by itself, and knows when its kernels are the final ones.
    const std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine_->createRuntimeConfig());
    if (!config ||
        !config->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE)) {
        throw refused("the CUDA graph strategy");
    }
    if (cache_ && !config->setRuntimeCache(*cache_)) throw refused("the runtime cache");
    context.reset(engine_->createExecutionContext(config.get()));
#else
    context.reset(
        engine_->createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kSTATIC));
#endif
    if (!context) {
        throw failed(ErrorCode::kRuntime, "no execution context was made", "an execution context",
                     static_cast<std::size_t>(engine_->getDeviceMemorySizeV2()));
    }
    return context;
}

int TensorRtEngine::choose_profile(int count) const {
    int best = -1, width = 0;
    std::string ranges;
    for (std::size_t index = 0; index < profiles_.size(); ++index) {
        const auto [smallest, largest] = profiles_[index];
        ranges += concat(index == 0 ? "" : ", ", smallest, " to ", largest);
        const bool holds = smallest <= count && count <= largest;
        if (!holds || (best >= 0 && largest - smallest >= width)) continue;
        best = static_cast<int>(index);
        width = largest - smallest;
    }
    if (best >= 0) return best;
    throw Error(ErrorCode::kInvalidArgument,
                concat("images: no optimisation profile takes ", count, " at once, only ", ranges));
}

Error TensorRtEngine::refused(const std::string& what) {
    return {ErrorCode::kRuntime, concat(what, " was refused: ", log_.take())};
}

void TensorRtEngine::check_tensors(const Manifest& manifest) const {
    const auto label =
        manifest.output.dtype == "int32" ? nvinfer1::DataType::kINT32 : nvinfer1::DataType::kUINT8;
    const std::array wanted{
        Tensor{manifest.input.name, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kUINT8,
               image_dims(manifest, -1)},
        Tensor{manifest.output.name, nvinfer1::TensorIOMode::kOUTPUT, label,
               label_dims(manifest, -1)},
    };
    std::vector<std::string> found, listed_by_manifest;
    std::size_t fitting = 0;
    for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
        const char* name = engine_->getIOTensorName(index);
        const Tensor tensor{name, engine_->getTensorIOMode(name), engine_->getTensorDataType(name),
                            engine_->getTensorShape(name)};
        found.push_back(describe_tensor(tensor));
        for (const auto& one : wanted) fitting += fits(tensor, one) ? 1 : 0;
    }
    if (fitting == wanted.size() && found.size() == wanted.size()) return;
    for (const auto& one : wanted) listed_by_manifest.push_back(describe_tensor(one));
    throw Error(ErrorCode::kDamaged, concat("has the tensors ", listed(found),
                                            ", the manifest lists ", listed(listed_by_manifest)));
}

void TensorRtEngine::read_profiles(const Manifest& manifest) {
    using nvinfer1::OptProfileSelector;
    const char* name = manifest.input.name.c_str();
    const auto batch = static_cast<int>(engine_->getTensorShape(name).d[0]);
    if (batch > 0) {
        profiles_.push_back({batch, batch});
        return;
    }
    for (int index = 0; index < engine_->getNbOptimizationProfiles(); ++index) {
        const auto smallest = engine_->getProfileShape(name, index, OptProfileSelector::kMIN);
        const auto largest = engine_->getProfileShape(name, index, OptProfileSelector::kMAX);
        profiles_.push_back({static_cast<int>(smallest.d[0]), static_cast<int>(largest.d[0])});
    }
}

/// Returns the error for something that TensorRT did not give; it needed `bytes` on the GPU.
Error TensorRtEngine::failed(ErrorCode code, const std::string& problem, const std::string& what,
                             std::size_t bytes) {
    const auto said = log_.take();
    if (says_out_of_memory(said) || cuda::free_memory() < bytes) {
        return cuda::out_of_memory(what, bytes);
    }
    return {code, concat(problem, ": ", said)};
}

#ifdef TRT_MAJOR_RTX
void TensorRtEngine::open_cache(const std::string& engine_sha256) {
    const std::unique_ptr<nvinfer1::IRuntimeConfig> config(engine_->createRuntimeConfig());
    if (config) cache_.reset(config->createRuntimeCache());
    if (!cache_) throw refused("a runtime cache");
    int device = 0;
    cuda::check(cudaGetDevice(&device), "asking for the GPU");
    cache_path_ = find_runtime_cache(engine_sha256, cuda::find_capability(device));
    cached_ = read_runtime_cache(cache_path_);
    if (cached_.empty() || cache_->deserialize(cached_.data(), cached_.size())) return;
    (void)log_.take();  // damaged, or of another driver: made anew, and no part of later messages
    cached_.clear();
}

void TensorRtEngine::save_cache() noexcept {
    try {
        if (!cache_) return;
        const std::unique_ptr<nvinfer1::IHostMemory> compiled(cache_->serialize());
        if (!compiled) return;
        const std::span data(static_cast<const std::byte*>(compiled->data()), compiled->size());
        if (!std::ranges::equal(data, cached_)) write_runtime_cache(cache_path_, data);
    } catch (const std::exception&) {
        return;  // the next load compiles again
    }
}
#endif

nvinfer1::Dims image_dims(const Manifest& manifest, int count) {
    nvinfer1::Dims dims{};
    dims.nbDims = 4;
    dims.d[0] = count;
    dims.d[1] = manifest.input.height;
    dims.d[2] = manifest.input.width;
    dims.d[3] = 3;
    return dims;
}

nvinfer1::Dims label_dims(const Manifest& manifest, int count) {
    auto dims = image_dims(manifest, count);
    dims.nbDims = 3;
    return dims;
}

bool equal(const nvinfer1::Dims& left, const nvinfer1::Dims& right) {
    return left.nbDims == right.nbDims &&
           std::equal(left.d, left.d + std::max(left.nbDims, 0), right.d);
}

std::string describe(const nvinfer1::Dims& dims) {
    std::string text;
    for (int axis = 0; axis < dims.nbDims; ++axis) {
        text += concat(axis == 0 ? "" : ", ", dims.d[axis]);
    }
    return "(" + text + ")";
}

}  // namespace segvit
