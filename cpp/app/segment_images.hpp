/// Image files in, label and overlay files out.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "app/arguments.hpp"

namespace segvit::app {

/// What was written of one image.
struct Segmented {
    std::filesystem::path image, labels, overlay;
    std::vector<std::pair<std::string, double>> shares;  ///< of the classes present
};

/// Throws `Error` (kInvalidArgument) if two images' results would have the same name.
void check_stems(const std::vector<std::filesystem::path>& paths);

/// Segments images, reading some while others are computed, and reports each when it is written.
///
/// Throws `Error`, naming an image that cannot be read, once those before it are written.
void segment_images(const Segmenter& segmenter, const std::vector<std::filesystem::path>& paths,
                    const Arguments& arguments,
                    const std::function<void(const Segmented&)>& report);

}  // namespace segvit::app
