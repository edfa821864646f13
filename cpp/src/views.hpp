/// The caller's pixels and labels, checked before they are touched, and copied row by row.
#pragma once

#include <cstddef>
#include <span>

#include "segvit/segmenter.hpp"

namespace segvit {

/// Throws `Error` (kInvalidArgument), naming the first that does not fit, unless there are images
/// and all are of this size.
void check_images(std::span<const ImageView> images, int height, int width);

/// Throws `Error` (kInvalidArgument) unless there is a fitting one for each of `count` images.
void check_labels(std::span<const LabelView> labels, std::size_t count, int height, int width,
                  int label_bytes);

/// Copies an image to `to`, contiguous (H, W, 3).
void copy_image(const ImageView& image, std::uint8_t* to);

/// Copies labels from `from`, contiguous (H, W), to the caller's memory.
void copy_labels(const std::byte* from, const LabelView& labels);

}  // namespace segvit
