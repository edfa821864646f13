/// A loaded engine with its instances: what a `Segmenter` is made of.
#pragma once

#include <future>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backend.hpp"
#include "call_gate.hpp"
#include "instance_pool.hpp"
#include "segvit/segmenter.hpp"
#include "workers.hpp"

namespace segvit {

/// What is known of an engine, whether open or closed.
struct EngineInfo {
    Target target;
    int height, width, label_bytes;
    BatchRange batch;
    std::vector<ClassInfo> classes;
    std::vector<std::string> notes;
};

/// Its methods are those of `Segmenter`, which forwards to them.
class Session {
public:
    Session(EngineInfo info, std::unique_ptr<Backend> backend, int instances);
    ~Session() { close(); }
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;

    [[nodiscard]] LabelMap segment(const ImageView& image);
    [[nodiscard]] std::vector<LabelMap> segment(std::span<const ImageView> images);
    void segment_into(std::span<const ImageView> images, std::span<const LabelView> labels);
    [[nodiscard]] std::future<LabelMap> segment_async(const ImageView& image);
    [[nodiscard]] std::future<std::vector<LabelMap>> segment_async(std::vector<ImageView> images);
    void warm_up();
    void close() noexcept;
    [[nodiscard]] const EngineInfo& info() const noexcept { return info_; }

private:
    template <typename Result, typename Work>
    std::future<Result> submit(Work work);
    /// The forms that return labels, in a call that was let in.
    [[nodiscard]] std::vector<LabelMap> make_labels(std::span<const ImageView> images);
    void run(std::span<const ImageView> images, std::span<const LabelView> labels);

    EngineInfo info_;
    CallGate gate_;
    std::mutex closing_;
    // The instances end before the engine that they run.
    std::unique_ptr<Backend> backend_;
    std::optional<InstancePool> pool_;
    std::optional<Workers> workers_;
};

}  // namespace segvit
