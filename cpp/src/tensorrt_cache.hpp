/// TensorRT-RTX's runtime cache: kernels compiled for this GPU at the first load, kept for the
/// next.
///
/// Such a cache is executable code that no build vouches for, so it is no part of an artifact. It
/// lies in the user's own cache folder, which nobody else may write to, under the engine's sha256,
/// where the Python runtime keeps it too. The library by itself refuses one of another version, GPU
/// or driver. On Windows none is kept.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace segvit {

/// Returns where the cache of an engine on a GPU such as `SM89` is, or would be; empty without a
/// home.
[[nodiscard]] std::filesystem::path find_runtime_cache(const std::string& engine_sha256,
                                                       std::string compute_capability);

/// Returns a cache's bytes; none if it is not there, too large, or others could have written it.
[[nodiscard]] std::vector<std::byte> read_runtime_cache(const std::filesystem::path& path);

/// Puts a cache where this user alone can write, whole or not at all. Throws `std::system_error`.
void write_runtime_cache(const std::filesystem::path& path, std::span<const std::byte> data);

}  // namespace segvit
