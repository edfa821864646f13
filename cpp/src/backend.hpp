/// What each engine library is wrapped in.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "segvit/segmenter.hpp"

namespace segvit {

/// One execution context with its memory; used by one thread at a time.
class Instance {
public:
    virtual ~Instance() = default;
    /// Host memory (pinned on a GPU) for a batch of images, contiguous (B, H, W, 3).
    virtual std::span<std::uint8_t> input() = 0;
    /// Runs the first `count` images of `input()` and returns their labels, contiguous (B, H, W),
    /// valid until the next run. Throws `Error` (kRuntime, kOutOfMemory).
    virtual std::span<const std::byte> run(int count) = 0;
};

/// A loaded engine that instances are made of; it outlives them.
class Backend {
public:
    virtual ~Backend() = default;
    virtual std::unique_ptr<Instance> make_instance() = 0;
};

/// Each returns its engine, or throws `Error`; files are verified inside, before they are loaded.
std::unique_ptr<Backend> load_openvino(const Manifest& manifest, const Options& options);
std::unique_ptr<Backend> load_tensorrt(const Manifest& manifest, const Options& options,
                                       Target target);

/// Why a target cannot run what the artifact holds here; empty if it can.
std::string openvino_refusal(const Manifest& manifest, const Options& options);
std::string tensorrt_refusal(const Manifest& manifest, const Options& options, Target target);

}  // namespace segvit
