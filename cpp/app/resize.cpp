#include "app/resize.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <vector>

namespace segvit::app {
namespace {

constexpr float kOne = 2048.0F;  // a weight of one, in 11 bits
constexpr std::ptrdiff_t kChannels = 3;

/// What one row or column of the result is mixed from.
struct Tap {
    int first, second;
    int first_weight, second_weight;
};

enum class Edge {
    kWeights,    ///< outside, the edge's pixel has all the weight
    kPositions,  ///< outside, both weights fall on the edge's pixel, each rounded by itself
};

std::vector<Tap> make_taps(int from, int to, Edge edge) {
    // In this order, so that it rounds as there.
    const double scale = 1.0 / (static_cast<double>(to) / from);
    std::vector<Tap> taps(static_cast<std::size_t>(to));
    for (int index = 0; index < to; ++index) {
        const auto position = static_cast<float>((index + 0.5) * scale - 0.5);
        int first = static_cast<int>(std::floor(position));
        float fraction = position - static_cast<float>(first);
        if (edge == Edge::kWeights && (first < 0 || first >= from - 1)) {
            fraction = 0.0F;
        }
        const int second = std::clamp(first + 1, 0, from - 1);
        first = std::clamp(first, 0, from - 1);
        taps[static_cast<std::size_t>(index)] = {
            first, second, static_cast<int>(std::lrint((1.0F - fraction) * kOne)),
            static_cast<int>(std::lrint(fraction * kOne))};
    }
    return taps;
}

void resize_row(const std::uint8_t* source, const std::vector<Tap>& taps, std::int32_t* target) {
    for (const Tap& tap : taps) {
        const std::uint8_t* first = source + tap.first * kChannels;
        const std::uint8_t* second = source + tap.second * kChannels;
        for (std::ptrdiff_t channel = 0; channel < kChannels; ++channel) {
            *target++ = first[channel] * tap.first_weight + second[channel] * tap.second_weight;
        }
    }
}

/// The last two rows that were resized, since neighbours need the same ones.
class RowCache {
public:
    RowCache(const Image& image, const std::vector<Tap>& columns)
        : image_(image), columns_(columns) {
        for (auto& row : rows_) {
            row.resize(columns.size() * static_cast<std::size_t>(kChannels));
        }
    }

    const std::int32_t* fetch(int index) {
        // Two neighbours never share a place.
        const auto place = static_cast<std::size_t>(index % 2);
        if (held_[place] != index) {
            const auto offset = static_cast<std::ptrdiff_t>(index) * image_.width * kChannels;
            resize_row(image_.pixels.data() + offset, columns_, rows_[place].data());
            held_[place] = index;
        }
        return rows_[place].data();
    }

private:
    const Image& image_;
    const std::vector<Tap>& columns_;
    std::array<std::vector<std::int32_t>, 2> rows_;
    std::array<int, 2> held_{-1, -1};
};

}  // namespace

Image resize_image(const Image& image, int height, int width) {
    const std::vector<Tap> rows = make_taps(image.height, height, Edge::kPositions);
    const std::vector<Tap> columns = make_taps(image.width, width, Edge::kWeights);
    Image resized{height, width, {}};
    const std::size_t row_values = columns.size() * static_cast<std::size_t>(kChannels);
    resized.pixels.resize(rows.size() * row_values);
    RowCache cache(image, columns);
    std::uint8_t* target = resized.pixels.data();
    for (const Tap& tap : rows) {
        const std::int32_t* first = cache.fetch(tap.first);
        const std::int32_t* second = cache.fetch(tap.second);
        for (std::size_t i = 0; i < row_values; ++i) {
            // 22 bits of fraction; 4 go before and 16 after the product, the last 2 by rounding.
            const int sum = (tap.first_weight * (first[i] >> 4) >> 16) +
                            (tap.second_weight * (second[i] >> 4) >> 16);
            *target++ = static_cast<std::uint8_t>(std::min((sum + 2) >> 2, 255));
        }
    }
    return resized;
}

Labels resize_labels(const Labels& labels, int height, int width) {
    Labels resized{height, width, {}};
    resized.ids.reserve(static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
    for (std::int64_t row = 0; row < height; ++row) {
        const std::int64_t y = (2 * row + 1) * labels.height / (2 * std::int64_t{height});
        const std::uint16_t* source = labels.ids.data() + y * labels.width;
        for (std::int64_t column = 0; column < width; ++column) {
            resized.ids.push_back(
                source[(2 * column + 1) * labels.width / (2 * std::int64_t{width})]);
        }
    }
    return resized;
}

}  // namespace segvit::app
