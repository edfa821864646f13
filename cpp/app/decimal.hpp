/// Numbers as text.
#pragma once

#include <array>
#include <charconv>
#include <string>

namespace segvit::app {

/// Returns a number with so many decimals.
inline std::string decimal(double value, int decimals) {
    std::array<char, 64> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value,
                                   std::chars_format::fixed, decimals);
    return {text.data(), end.ptr};
}

/// Returns a number in as few digits as tell it from any other.
inline std::string shortest(double value) {
    std::array<char, 64> text{};
    const auto end = std::to_chars(text.data(), text.data() + text.size(), value);
    return {text.data(), end.ptr};
}

}  // namespace segvit::app
