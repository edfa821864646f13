/// How fast an engine is from the caller's side.
#pragma once

#include "app/image.hpp"

namespace segvit::app {

/// Milliseconds of a call, and what all instances together get through.
struct Timing {
    int runs = 0;
    int batch = 0;
    int instances = 0;
    double median_ms = 0.0;
    double p90_ms = 0.0;
    double p99_ms = 0.0;
    double images_per_second = 0.0;
};

/// Times `runs` calls of `batch` copies of an image of the engine's size, shared by `instances`
/// threads, after each of these ran once. Memory for labels is the caller's and is kept.
///
/// Throws `Error` as `segment_into` does.
[[nodiscard]] Timing time_calls(const Segmenter& segmenter, const Image& image, int batch,
                                int instances, int runs);

}  // namespace segvit::app
