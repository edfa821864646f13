#include <vector>

#include "segvit/segmenter.hpp"
#include "segvit/segvit.h"
#include "text.hpp"

struct segvit_segmenter {
    segvit::Segmenter value;
};

namespace segvit {
namespace {

// NOLINTNEXTLINE(cppcoreguidelines-avoid-non-const-global-variables): errno's way
thread_local std::string last_error;

segvit_status status_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::kInvalidArgument:
            return SEGVIT_INVALID_ARGUMENT;
        case ErrorCode::kNotFound:
            return SEGVIT_NOT_FOUND;
        case ErrorCode::kDamaged:
            return SEGVIT_DAMAGED;
        case ErrorCode::kIncompatible:
            return SEGVIT_INCOMPATIBLE;
        case ErrorCode::kRuntime:
            return SEGVIT_RUNTIME;
        case ErrorCode::kOutOfMemory:
            return SEGVIT_OUT_OF_MEMORY;
        case ErrorCode::kClosed:
            return SEGVIT_CLOSED;
    }
    return SEGVIT_RUNTIME;
}

/// Does `work`; what it throws becomes a status and this thread's last error.
template <typename Work>
segvit_status guarded(Work work) noexcept {
    try {
        try {
            work();
            return SEGVIT_OK;
        } catch (const Error& error) {
            last_error = error.what();
            return status_of(error.code());
        } catch (const std::bad_alloc&) {
            last_error = "memory does not suffice";
            return SEGVIT_OUT_OF_MEMORY;
        } catch (const std::exception& error) {
            last_error = error.what();
            return SEGVIT_RUNTIME;
        }
    } catch (...) {  // even the message found no memory
        last_error.clear();
        return SEGVIT_OUT_OF_MEMORY;
    }
}

void require(const void* pointer, std::string_view name) {
    if (pointer != nullptr) return;
    throw Error(ErrorCode::kInvalidArgument, concat(name, ": expected a pointer, got NULL"));
}

Options to_options(const segvit_options* options) {
    if (options == nullptr) return {};
    return {.target = options->target == nullptr ? Target::kAuto : parse_target(options->target),
            .device = options->device,
            .threads = options->threads,
            .instances = options->instances,
            .digest = options->digest == nullptr ? std::nullopt
                                                 : std::optional<std::string>(options->digest)};
}

void segment_batch(const Segmenter& segmenter, const segvit_image* images,
                   const segvit_labels* labels, std::size_t count) {
    std::vector<ImageView> image_views;
    std::vector<LabelView> label_views;
    for (std::size_t i = 0; i < count; ++i) {
        const auto& [data, height, width, stride] = images[i];
        image_views.push_back({data, height, width, stride});
        const auto& to = labels[i];
        label_views.push_back({to.data, to.height, to.width, to.label_bytes, to.stride});
    }
    segmenter.segment_into(image_views, label_views);
}

}  // namespace
}  // namespace segvit

using segvit::guarded;
using segvit::require;

const char* segvit_last_error(void) {
    return segvit::last_error.c_str();
}

segvit_status segvit_load(const char* artifact, const segvit_options* options,
                          segvit_segmenter** segmenter) {
    return guarded([&] {
        require(segmenter, "segmenter");
        *segmenter = nullptr;
        require(artifact, "artifact");
        auto loaded = segvit::Segmenter::load(artifact, segvit::to_options(options));
        *segmenter = new segvit_segmenter{std::move(loaded)};
    });
}

segvit_status segvit_segment(const segvit_segmenter* segmenter, const segvit_image* image,
                             const segvit_labels* labels) {
    return segvit_segment_batch(segmenter, image, labels, 1);
}

segvit_status segvit_segment_batch(const segvit_segmenter* segmenter, const segvit_image* images,
                                   const segvit_labels* labels, size_t count) {
    return guarded([&] {
        require(segmenter, "segmenter");
        require(images, "images");
        require(labels, "labels");
        segvit::segment_batch(segmenter->value, images, labels, count);
    });
}

segvit_status segvit_warm_up(const segvit_segmenter* segmenter) {
    return guarded([&] {
        require(segmenter, "segmenter");
        segmenter->value.warm_up();
    });
}

segvit_status segvit_get_info(const segvit_segmenter* segmenter, segvit_info* info) {
    return guarded([&] {
        require(segmenter, "segmenter");
        require(info, "info");
        const auto& engine = segmenter->value;
        const auto batch = engine.batch();
        *info = {.target = segvit::name_of(engine.target()).data(),
                 .height = engine.height(),
                 .width = engine.width(),
                 .label_bytes = engine.label_bytes(),
                 .smallest_batch = batch.smallest,
                 .typical_batch = batch.typical,
                 .largest_batch = batch.largest,
                 .num_classes = static_cast<int>(engine.classes().size())};
    });
}

segvit_status segvit_get_class(const segvit_segmenter* segmenter, int index, const char** name,
                               uint8_t colour[3]) {
    return guarded([&] {
        require(segmenter, "segmenter");
        const auto& classes = segmenter->value.classes();
        if (index < 0 || static_cast<std::size_t>(index) >= classes.size()) {
            throw segvit::Error(segvit::ErrorCode::kInvalidArgument,
                                segvit::concat("index: expected a class of 0 to ",
                                               classes.size() - 1, ", got ", index));
        }
        const auto& found = classes[static_cast<std::size_t>(index)];
        if (name != nullptr) *name = found.name.c_str();
        if (colour != nullptr) {
            colour[0] = found.colour.red;
            colour[1] = found.colour.green;
            colour[2] = found.colour.blue;
        }
    });
}

segvit_status segvit_close(segvit_segmenter* segmenter) {
    return guarded([&] {
        require(segmenter, "segmenter");
        segmenter->value.close();
    });
}

void segvit_free(segvit_segmenter* segmenter) {
    delete segmenter;
}
