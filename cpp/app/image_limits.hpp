/// What every decoder asks before it allocates.
#pragma once

#include <cstdint>
#include <string>

#include "app/image.hpp"

namespace segvit::app {

/// Throws `Error` (kInvalidArgument) if a side is over `kMaxSide` or the area over `max_pixels`.
inline void check_size(std::uint32_t height, std::uint32_t width, const std::string& subject,
                       std::int64_t max_pixels) {
    if (height > kMaxSide || width > kMaxSide) {
        throw Error(ErrorCode::kInvalidArgument,
                    subject + " has " + std::to_string(height) + "x" + std::to_string(width) +
                        " pixels, expected at most " + std::to_string(kMaxSide) +
                        " a side; cut it into tiles");
    }
    if (std::int64_t{height} * std::int64_t{width} > max_pixels) {
        throw Error(ErrorCode::kInvalidArgument, subject + " is larger than " +
                                                     std::to_string(max_pixels / 1'000'000) +
                                                     " megapixels; cut it into tiles");
    }
}

}  // namespace segvit::app
