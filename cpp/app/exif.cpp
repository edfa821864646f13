#include "app/exif.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace segvit::app {
namespace {

constexpr std::size_t kEntryBytes = 12;
constexpr unsigned kOrientationTag = 0x0112;

/// Numbers of a TIFF block; nothing is read outside it.
class TiffReader {
public:
    TiffReader(std::span<const std::byte> data, bool little_endian)
        : data_(data), little_endian_(little_endian) {}

    [[nodiscard]] std::optional<std::uint32_t> read(std::size_t offset, std::size_t bytes) const {
        if (offset > data_.size() || bytes > data_.size() - offset) {
            return std::nullopt;
        }
        std::uint32_t value = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            const std::size_t place = little_endian_ ? bytes - 1 - i : i;
            value = value << 8U | std::to_integer<std::uint32_t>(data_[offset + place]);
        }
        return value;
    }

private:
    std::span<const std::byte> data_;
    bool little_endian_;
};

}  // namespace

int read_orientation(std::span<const std::byte> tiff) {
    if (tiff.size() < 8 || tiff[0] != tiff[1] ||
        (tiff[0] != std::byte{'I'} && tiff[0] != std::byte{'M'})) {
        return 1;
    }
    const TiffReader reader(tiff, tiff[0] == std::byte{'I'});
    const std::size_t directory = *reader.read(4, 4);
    const std::uint32_t count = reader.read(directory, 2).value_or(0);
    for (std::size_t index = 0; index < count; ++index) {
        const std::size_t entry = directory + 2 + index * kEntryBytes;
        if (reader.read(entry, 2) == kOrientationTag) {
            // A 16-bit number by the standard; OpenCV takes it for one whatever its type says.
            const std::uint32_t value = reader.read(entry + 8, 2).value_or(1);
            return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
        }
    }
    return 1;
}

Image turn_upright(Image image, int orientation) {
    if (orientation == 1) {
        return image;
    }
    const bool transposed = orientation >= 5;
    const bool from_bottom =
        orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const bool from_right =
        orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    Image turned{transposed ? image.width : image.height, transposed ? image.height : image.width,
                 std::vector<std::uint8_t>(image.pixels.size())};
    const std::uint8_t* source = image.pixels.data();
    std::uint8_t* target = turned.pixels.data();
    for (std::int64_t row = 0; row < turned.height; ++row) {
        for (std::int64_t column = 0; column < turned.width; ++column, target += 3) {
            const auto [down, across] =
                transposed ? std::pair(column, row) : std::pair(row, column);
            const std::int64_t y = from_bottom ? image.height - 1 - down : down;
            const std::int64_t x = from_right ? image.width - 1 - across : across;
            std::copy_n(source + (y * image.width + x) * 3, 3, target);
        }
    }
    return turned;
}

}  // namespace segvit::app
