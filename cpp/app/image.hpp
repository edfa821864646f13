/// Pixels that the tool owns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "segvit/segmenter.hpp"

namespace segvit::app {

/// What OpenCV takes, so that a picture is refused in both languages or in neither.
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 28;
inline constexpr int kMaxSide = 1 << 20;

/// RGB, 8 bits a channel, rows without a gap.
struct Image {
    int height = 0;
    int width = 0;
    std::vector<std::uint8_t> pixels;

    [[nodiscard]] ImageView view() const { return {pixels.data(), height, width, 0}; }
    [[nodiscard]] std::size_t count() const {
        return static_cast<std::size_t>(height) * static_cast<std::size_t>(width);
    }
};

/// Class ids, rows without a gap.
struct Labels {
    int height = 0;
    int width = 0;
    std::vector<std::uint16_t> ids;
};

}  // namespace segvit::app
