/// Any bytes as a JPEG, and as EXIF data: read, or refused with an `Error`.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "app/exif.hpp"
#include "app/jpeg_file.hpp"

namespace {

constexpr std::int64_t kMaxPixels = 1 << 16;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    const int orientation = segvit::app::read_orientation(bytes);
    if (orientation < 1 || orientation > 8) {
        std::abort();
    }
    try {
        (void)segvit::app::decode_jpeg(bytes, "image 'a'", kMaxPixels);
    } catch (const segvit::Error&) {
        return 0;
    }
    return 0;
}
