/// Files read whole, and written so that they appear whole or not at all.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "app/image.hpp"

namespace segvit::app {

/// Returns the bytes of a file. Throws `Error`: kNotFound without one, kRuntime if reading fails.
[[nodiscard]] std::vector<std::byte> read_file(const std::filesystem::path& path);

/// Writes a file under a temporary name beside it, then renames it. Throws `Error` (kRuntime).
void write_file(const std::filesystem::path& path, std::span<const std::byte> data);

/// Makes a folder and those above it. Throws `Error` (kRuntime) if a file stands in its place.
void make_folder(const std::filesystem::path& path);

/// Returns an image file's pixels, upright; see `decode_png` and `decode_jpeg`.
///
/// Throws `Error`: kNotFound without it, kDamaged if it is empty, cut off or damaged,
/// kInvalidArgument if it is neither PNG nor JPEG or too large.
[[nodiscard]] Image read_image(const std::filesystem::path& path);

/// Returns the images that files and folders (not those inside them) name, in order, each once.
///
/// Throws `Error`: kNotFound if an input names nothing, kInvalidArgument if a folder has no image.
[[nodiscard]] std::vector<std::filesystem::path> find_images(
    const std::vector<std::string>& inputs);

}  // namespace segvit::app
