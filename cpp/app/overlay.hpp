/// Classes in colour, and how much of an image each takes.
#pragma once

#include <vector>

#include "app/image.hpp"

namespace segvit::app {

/// Returns the image (of the labels' size) with its classes in colour, at an opacity of 0 to 1; ids
/// without a class stay uncoloured.
[[nodiscard]] Image draw_overlay(const Image& image, const Labels& labels,
                                 const std::vector<ClassInfo>& classes, double opacity);

/// Returns the share of pixels of each class; ids from `num_classes` on count in none.
[[nodiscard]] std::vector<double> class_shares(const Labels& labels, std::size_t num_classes);

}  // namespace segvit::app
