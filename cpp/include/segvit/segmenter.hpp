/// SegViT artifacts in C++: RGB images in, class labels out.
///
/// An artifact is the folder that `python -m export.build` writes. Normalisation, upsampling and
/// argmax are inside its graph, so what comes out here is what comes out in Python, pixel for
/// pixel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#ifndef SEGVIT_API
#ifdef _WIN32
#define SEGVIT_API
#else
#define SEGVIT_API __attribute__((visibility("default")))
#endif
#endif

namespace segvit {

/// What kind of mistake an `Error` is; the message says what mends it.
enum class ErrorCode {
    kInvalidArgument,  ///< an image, batch or option that the engine does not take
    kNotFound,         ///< no artifact, or a file of it is missing
    kDamaged,          ///< the manifest or a file is not as it was built
    kIncompatible,     ///< built for another GPU, version or target than is here
    kRuntime,          ///< the engine failed while running
    kOutOfMemory,      ///< host or device memory did not suffice
    kClosed,           ///< the segmenter was closed
};

class SEGVIT_API Error : public std::runtime_error {
public:
    Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    [[nodiscard]] ErrorCode code() const noexcept { return code_; }

private:
    ErrorCode code_;
};

enum class Target { kAuto, kTensorRt, kTensorRtRtx, kOpenVino };

/// The name that `--target` takes: "auto", "trt", "trt-rtx" or "openvino".
[[nodiscard]] SEGVIT_API std::string_view name_of(Target target);

/// Returns the target of a name. Throws `Error` (kInvalidArgument) if there is none.
[[nodiscard]] SEGVIT_API Target parse_target(std::string_view name);

/// The targets that this library was built with.
[[nodiscard]] SEGVIT_API std::vector<Target> available_targets();

/// The caller's pixels: RGB, 8 bits a channel, as decoded. Not owned.
struct ImageView {
    const std::uint8_t* data = nullptr;
    int height = 0;
    int width = 0;
    /// Bytes from one row to the next: 0 for rows without a gap, negative for rows from below.
    std::ptrdiff_t stride = 0;
};

/// The caller's memory for labels. Not owned.
struct LabelView {
    void* data = nullptr;
    int height = 0;
    int width = 0;
    int label_bytes = 1;        ///< 1 (uint8) or 4 (int32), as `Segmenter::label_bytes` says
    std::ptrdiff_t stride = 0;  ///< as an image's, any number of bytes: rows need no alignment
};

/// The class of each pixel, rows without a gap.
class SEGVIT_API LabelMap {
public:
    LabelMap() = default;
    LabelMap(int height, int width, int label_bytes);

    [[nodiscard]] int height() const noexcept { return height_; }
    [[nodiscard]] int width() const noexcept { return width_; }
    [[nodiscard]] int label_bytes() const noexcept { return label_bytes_; }
    /// The class at a pixel. Throws `Error` (kInvalidArgument) outside the map.
    [[nodiscard]] int at(int row, int column) const;
    [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return data_; }
    [[nodiscard]] LabelView view() noexcept;

private:
    int height_ = 0, width_ = 0, label_bytes_ = 1;
    std::vector<std::byte> data_;
};

struct Colour {
    std::uint8_t red, green, blue;
};

struct ClassInfo {
    std::string name;
    Colour colour;
};

/// How many images one call may hold; `typical` is what the engine was tuned for.
struct BatchRange {
    int smallest, typical, largest;
};

struct Options {
    Target target = Target::kAuto;  ///< kAuto: the fastest that this library and machine can run
    int device = 0;                 ///< the GPU's number
    int threads = 0;    ///< CPU threads of OpenVINO, of all instances together; 0 leaves
                        ///< them to it
    int instances = 1;  ///< calls that may run at the same time, each with its memory
    /// The sha256 of the artifact's manifest.json, as builds print it: another artifact is refused.
    std::optional<std::string> digest = std::nullopt;
};

class Session;

/// A loaded engine. All members but moves may be called from any thread; as many calls run at once
/// as there are instances, others wait for one, in the order they came. Movable, not copyable; a
/// moved-from one destructs, and throws kClosed for anything else.
class SEGVIT_API Segmenter {
public:
    /// Returns an engine whose files were checked before anything was loaded.
    ///
    /// Throws `Error`: kNotFound without an artifact, kDamaged if it has another digest than
    /// `options` say or a file is not as built, kIncompatible if nothing in it runs here,
    /// kInvalidArgument for options out of range.
    [[nodiscard]] static Segmenter load(const std::filesystem::path& artifact,
                                        const Options& options = {});

    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;
    Segmenter(const Segmenter&) = delete;
    Segmenter& operator=(const Segmenter&) = delete;
    /// Waits for calls in flight.
    ~Segmenter();

    /// Returns the labels of one image of the engine's size.
    ///
    /// It and the forms below throw `Error`: kInvalidArgument for images or labels of another size,
    /// without pixels or with a stride below a row, kClosed, kRuntime and kOutOfMemory. The
    /// segmenter is as usable after an error as before.
    [[nodiscard]] LabelMap segment(const ImageView& image) const;
    /// Returns the labels of one or more images, in as many runs as the engine's batch takes; a
    /// run below its smallest batch is filled up with copies.
    [[nodiscard]] std::vector<LabelMap> segment(std::span<const ImageView> images) const;
    /// Writes labels into the caller's memory; nothing of an image's size is allocated.
    void segment_into(std::span<const ImageView> images, std::span<const LabelView> labels) const;
    /// As `segment`, on a thread of the segmenter's; what it throws comes with the future, kClosed
    /// at once. The pixels must stay until the future is ready.
    [[nodiscard]] std::future<LabelMap> segment_async(const ImageView& image) const;
    [[nodiscard]] std::future<std::vector<LabelMap>> segment_async(
        std::vector<ImageView> images) const;

    /// Runs every instance once, so that the first real call is as fast as the others.
    void warm_up() const;
    /// Frees the engine once calls in flight have ended; later calls throw kClosed. Repeatable.
    void close() noexcept;

    // What follows is known after `close`, too.
    [[nodiscard]] Target target() const;
    [[nodiscard]] int height() const;
    [[nodiscard]] int width() const;
    [[nodiscard]] int label_bytes() const;  ///< 1, or 4 above 256 classes
    [[nodiscard]] BatchRange batch() const;
    [[nodiscard]] const std::vector<ClassInfo>& classes() const;
    /// Why a preferred target was passed over, one line each.
    [[nodiscard]] const std::vector<std::string>& notes() const;

private:
    explicit Segmenter(std::unique_ptr<Session> session);
    [[nodiscard]] Session& session() const;
    std::unique_ptr<Session> session_;
};

}  // namespace segvit
