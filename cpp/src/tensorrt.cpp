#include "backend.hpp"
#include "tensorrt_cuda.hpp"
#include "tensorrt_engine.hpp"
#include "tensorrt_entry.hpp"
#include "tensorrt_graph.hpp"
#include "text.hpp"

namespace segvit {
namespace {

/// One execution context with its stream, and memory for the largest batch on both sides.
class TensorRtInstance : public Instance {
public:
    TensorRtInstance(std::shared_ptr<TensorRtEngine> engine, Manifest manifest, int device)
        : engine_(std::move(engine)), manifest_(std::move(manifest)), device_(device) {
        const auto largest = manifest_.batch.largest;
        const auto what = concat("of ", largest, " images");
        stream_ = cuda::make_stream();
        host_input_ = cuda::allocate_pinned(image_bytes(largest), "images " + what);
        host_output_ = cuda::allocate_pinned(label_bytes(largest), "labels " + what);
        input_ = cuda::allocate(image_bytes(largest), "images " + what);
        output_ = cuda::allocate(label_bytes(largest), "labels " + what);
        context_ = engine_->make_context();
        const GraphLauncher::Calls calls{[this](int count) { bind(count); }, [this] { enqueue(); }};
        launcher_ =
            std::make_unique<GraphLauncher>(stream_.get(), calls, kOwnTarget == Target::kTensorRt);
    }

    ~TensorRtInstance() override {
        (void)cudaSetDevice(device_);
        (void)cudaStreamSynchronize(stream_.get());
    }

    TensorRtInstance(const TensorRtInstance&) = delete;
    TensorRtInstance(TensorRtInstance&&) = delete;
    TensorRtInstance& operator=(const TensorRtInstance&) = delete;
    TensorRtInstance& operator=(TensorRtInstance&&) = delete;

    std::span<std::uint8_t> input() override {
        return {reinterpret_cast<std::uint8_t*>(host_input_.get()),
                image_bytes(manifest_.batch.largest)};
    }

    std::span<const std::byte> run(int count) override {
        auto* const stream = stream_.get();
        const auto labels = label_bytes(count);
        cuda::choose_device(device_);
        cuda::check(cudaMemcpyAsync(input_.get(), host_input_.get(), image_bytes(count),
                                    cudaMemcpyHostToDevice, stream),
                    "copying images to the GPU");
        launcher_->launch(count);
        cuda::check(cudaMemcpyAsync(host_output_.get(), output_.get(), labels,
                                    cudaMemcpyDeviceToHost, stream),
                    "copying labels from the GPU");
        cuda::check(cudaStreamSynchronize(stream), "running the engine");
        return {host_output_.get(), labels};
    }

private:
    [[nodiscard]] std::size_t pixels(int count) const {
        return static_cast<std::size_t>(count) * static_cast<std::size_t>(manifest_.input.height) *
               static_cast<std::size_t>(manifest_.input.width);
    }
    [[nodiscard]] std::size_t image_bytes(int count) const { return 3 * pixels(count); }
    [[nodiscard]] std::size_t label_bytes(int count) const {
        return (manifest_.output.dtype == "int32" ? 4 : 1) * pixels(count);
    }

    /// Sets the context to a batch size: its profile, shape and addresses.
    void bind(int count) {
        const char* input = manifest_.input.name.c_str();
        const char* output = manifest_.output.name.c_str();
        cuda::check(cudaStreamSynchronize(stream_.get()), "running the engine");
        const int profile = engine_->choose_profile(count);
        if (profile != profile_) {
            if (!context_->setOptimizationProfileAsync(profile, stream_.get())) {
                throw engine_->refused(concat("optimisation profile ", profile));
            }
            profile_ = profile;
        }
        if (!context_->setInputShape(input, image_dims(manifest_, count))) {
            throw engine_->refused(concat("a batch of ", count));
        }
        const auto wanted = label_dims(manifest_, count), got = context_->getTensorShape(output);
        if (!equal(wanted, got)) {
            throw Error(ErrorCode::kRuntime, concat("labels: expected ", describe(wanted),
                                                    ", the engine has ", describe(got)));
        }
        if (!context_->setTensorAddress(input, input_.get()) ||
            !context_->setTensorAddress(output, output_.get())) {
            throw engine_->refused("an address");
        }
    }

    void enqueue() {
        if (!context_->enqueueV3(stream_.get())) throw engine_->refused("running the engine");
    }

    // Each must outlive those below it.
    std::shared_ptr<TensorRtEngine> engine_;
    Manifest manifest_;
    int device_;
    int profile_ = 0;
    cuda::Stream stream_;
    cuda::PinnedMemory host_input_, host_output_;
    cuda::DeviceMemory input_, output_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::unique_ptr<GraphLauncher> launcher_;
};

class TensorRtBackend : public Backend {
public:
    TensorRtBackend(const Manifest& manifest, const std::string& file, int device)
        : manifest_(manifest), device_(device) {
        cuda::choose_device(device);
        engine_ = std::make_shared<TensorRtEngine>(manifest, file);
    }

    std::unique_ptr<Instance> make_instance() override {
        cuda::choose_device(device_);
        return std::make_unique<TensorRtInstance>(engine_, manifest_, device_);
    }

private:
    Manifest manifest_;
    int device_;
    std::shared_ptr<TensorRtEngine> engine_;
};

BuiltTarget find_own_engine(const Manifest& manifest, const Options& options) {
    return find_engine(manifest, kOwnTarget, cuda::find_capability(options.device),
                       tensorrt_version());
}

}  // namespace

std::unique_ptr<Backend> load_tensorrt(const Manifest& manifest, const Options& options,
                                       Target target) {
    const auto refusal = tensorrt_refusal(manifest, options, target);
    if (!refusal.empty()) throw Error(ErrorCode::kIncompatible, refusal);
    const auto entry = find_own_engine(manifest, options);
    return std::make_unique<TensorRtBackend>(manifest, entry.file, options.device);
}

std::string tensorrt_refusal(const Manifest& manifest, const Options& options, Target target) {
    if (target != kOwnTarget) {
        return concat("this library was built with ", name_of(kOwnTarget), ", not with ",
                      name_of(target));
    }
    try {
        (void)find_own_engine(manifest, options);
    } catch (const Error& error) {
        return error.what();
    }
    return {};
}

}  // namespace segvit
