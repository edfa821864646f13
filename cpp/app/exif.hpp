/// Which way up a picture is.
#pragma once

#include <cstddef>
#include <span>

#include "app/image.hpp"

namespace segvit::app {

/// Returns the orientation, 1 to 8, that EXIF data (from its TIFF header on) states; 1, upright, if
/// it states none or is damaged.
[[nodiscard]] int read_orientation(std::span<const std::byte> tiff);

/// Returns the image turned and mirrored as an orientation of 1 to 8 says.
[[nodiscard]] Image turn_upright(Image image, int orientation);

}  // namespace segvit::app
