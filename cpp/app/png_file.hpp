/// PNG in and out, by libpng.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "app/image.hpp"

namespace segvit::app {

/// Whether the bytes begin as a PNG does.
[[nodiscard]] bool is_png(std::span<const std::byte> data);

/// Returns the pixels of a PNG as OpenCV reads them: palettes and grey as RGB, alpha dropped (not
/// blended), 16 bits divided by 257 and rounded, no gamma applied, turned upright by its EXIF.
///
/// `subject` is what errors call it, such as `image 'a.png'`. Throws `Error`: kDamaged if it is cut
/// off or damaged, kInvalidArgument if it has more than `max_pixels`.
[[nodiscard]] Image decode_png(std::span<const std::byte> data, const std::string& subject,
                               std::int64_t max_pixels = kMaxPixels);

/// Returns an RGB image as PNG.
[[nodiscard]] std::vector<std::byte> encode_png(const Image& image);

/// Returns class ids as a grey PNG: 8 bits a pixel, or 16 above 256 classes.
[[nodiscard]] std::vector<std::byte> encode_png(const Labels& labels, std::size_t num_classes);

}  // namespace segvit::app
