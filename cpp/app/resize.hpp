/// Other sizes, as OpenCV and segvit/images.py make them.
#pragma once

#include "app/image.hpp"

namespace segvit::app {

/// Returns the image at another size, interpolated linearly in the fixed-point arithmetic of
/// `cv2.resize` (11 bits), whose pixels it equals.
[[nodiscard]] Image resize_image(const Image& image, int height, int width);

/// Returns class ids at another size, each that of the nearest pixel.
[[nodiscard]] Labels resize_labels(const Labels& labels, int height, int width);

}  // namespace segvit::app
