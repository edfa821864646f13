/// Any bytes as an .npz file, and as an .npy file, which checksums would keep out of it: read, or
/// refused with an `Error`.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "app/npz_file.hpp"

namespace {

constexpr std::uint64_t kMaxBytes = 1 << 20;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto bytes = std::as_bytes(std::span(data, size));
    try {
        (void)segvit::app::parse_npy({bytes.begin(), bytes.end()}, "images", "'golden.npz'");
    } catch (const segvit::Error&) {
        // As an archive, then.
    }
    try {
        (void)segvit::app::read_npz(bytes, "images", "'golden.npz'", kMaxBytes);
    } catch (const segvit::Error&) {
        return 0;
    }
    return 0;
}
