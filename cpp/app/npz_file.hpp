/// Arrays out of NumPy's .npz files, by libzip.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "segvit/segmenter.hpp"

namespace segvit::app {

/// An array in C order.
struct Array {
    std::string type;  ///< as NumPy writes it: "|u1" is uint8, "<i4" int32
    std::vector<std::int64_t> shape;
    std::vector<std::byte> data;
};

inline constexpr std::uint64_t kMaxArrayBytes = std::uint64_t{1} << 30;

/// Returns an array of uint8 or int32 from the bytes of an .npz file.
///
/// `subject` is what errors call the file. Throws `Error` (kDamaged) if it is no zip file, lacks
/// the array, or this is of another type, order or length than its header says, or over
/// `max_bytes`.
[[nodiscard]] Array read_npz(std::span<const std::byte> npz, const std::string& name,
                             const std::string& subject, std::uint64_t max_bytes = kMaxArrayBytes);

/// Returns the array of an .npy file, the form in which .npz files hold them. Throws as `read_npz`.
[[nodiscard]] Array parse_npy(std::vector<std::byte> npy, const std::string& name,
                              const std::string& subject);

}  // namespace segvit::app
