/// JPEG in, by libjpeg-turbo.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "app/image.hpp"

namespace segvit::app {

/// Whether the bytes begin as a JPEG does.
[[nodiscard]] bool is_jpeg(std::span<const std::byte> data);

/// Returns the pixels of a grey or colour JPEG as OpenCV reads them: exact integer transform,
/// smooth chroma, turned upright by its EXIF.
///
/// `subject` is what errors call it. Throws `Error`: kDamaged if it is cut off or damaged,
/// kInvalidArgument if it has more than `max_pixels` or is in CMYK.
[[nodiscard]] Image decode_jpeg(std::span<const std::byte> data, const std::string& subject,
                                std::int64_t max_pixels = kMaxPixels);

}  // namespace segvit::app
