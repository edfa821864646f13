/// Any bytes as a PNG: read, or refused with an `Error`.
#include <zlib.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "app/png_file.hpp"

namespace {

constexpr std::int64_t kMaxPixels = 1 << 16;
constexpr std::size_t kSignature = 8;
constexpr std::size_t kAroundData = 12;  // length, kind and checksum of a chunk

/// Makes the checksums right, without which libpng would look at nothing that was changed.
void mend_checksums(std::span<std::uint8_t> png) {
    std::size_t position = kSignature;
    while (position + kAroundData <= png.size()) {
        std::size_t length = 0;
        for (std::size_t i = 0; i < 4; ++i) {
            length = length << 8U | png[position + i];
        }
        length = std::min(length, png.size() - position - kAroundData);
        const auto checksum =
            crc32(0, png.data() + position + 4, static_cast<unsigned>(length + 4));
        for (std::size_t i = 0; i < 4; ++i) {
            png[position + 8 + length + i] =
                static_cast<std::uint8_t>(checksum >> (24U - 8U * static_cast<unsigned>(i)));
        }
        position += kAroundData + length;
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size,
                                               std::size_t max_size, unsigned seed) {
    const std::size_t mutated = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 8 != 0) {
        mend_checksums({data, mutated});
    }
    return mutated;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        (void)segvit::app::decode_png(std::as_bytes(std::span(data, size)), "image 'a'",
                                      kMaxPixels);
    } catch (const segvit::Error&) {
        return 0;
    }
    return 0;
}
