/// SHA-256, in hexadecimal, by OpenSSL.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace segvit {

[[nodiscard]] std::string sha256_of(std::span<const std::byte> bytes);

/// Returns the hash of a file, read a piece at a time. Throws `Error` (kNotFound) if it cannot be.
[[nodiscard]] std::string sha256_of_file(const std::filesystem::path& path);

}  // namespace segvit
