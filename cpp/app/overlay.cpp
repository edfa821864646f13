#include "app/overlay.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>

namespace segvit::app {

Image draw_overlay(const Image& image, const Labels& labels, const std::vector<ClassInfo>& classes,
                   double opacity) {
    Image overlay = image;
    const auto image_weight = static_cast<float>(1.0 - opacity);
    const auto colour_weight = static_cast<float>(opacity);
    for (std::size_t pixel = 0; pixel < labels.ids.size(); ++pixel) {
        if (labels.ids[pixel] >= classes.size()) {
            continue;
        }
        const Colour& colour = classes[labels.ids[pixel]].colour;
        const std::array<std::uint8_t, 3> channels{colour.red, colour.green, colour.blue};
        for (std::size_t channel = 0; channel < 3; ++channel) {
            std::uint8_t& value = overlay.pixels[3 * pixel + channel];
            const float blended = static_cast<float>(value) * image_weight +
                                  static_cast<float>(channels[channel]) * colour_weight;
            value = static_cast<std::uint8_t>(std::clamp(std::lrint(blended), 0L, 255L));
        }
    }
    return overlay;
}

std::vector<double> class_shares(const Labels& labels, std::size_t num_classes) {
    std::vector<std::size_t> counts(num_classes, 0);
    for (const std::uint16_t id : labels.ids) {
        if (id < num_classes) {
            ++counts[id];
        }
    }
    std::vector<double> shares(num_classes);
    std::transform(counts.begin(), counts.end(), shares.begin(), [&](std::size_t count) {
        return static_cast<double>(count) / static_cast<double>(labels.ids.size());
    });
    return shares;
}

}  // namespace segvit::app
