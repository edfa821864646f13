/// SHA-256, in hexadecimal, by OpenSSL.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

namespace segvit {

/// Whether a text is a sha256 as it is written here: 64 digits, small letters.
[[nodiscard]] bool is_sha256(std::string_view text);

/// Returns the digest of an artifact in small letters. Throws `Error` (kInvalidArgument) if it is
/// not the whole of one.
[[nodiscard]] std::string parse_digest(std::string_view text);

[[nodiscard]] std::string sha256_of(std::span<const std::byte> bytes);

/// Returns the hash of a file, read a piece at a time. Throws `Error` (kNotFound) if it cannot be.
[[nodiscard]] std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace segvit
