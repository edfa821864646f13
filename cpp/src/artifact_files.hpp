/// The names of an artifact's files, and the commands that make them anew.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace segvit {

inline constexpr std::string_view kManifestName = "manifest.json";

/// Throws `FieldError` for whatever is no plain relative path below the folder, on any system.
void check_file_name(std::string_view name);

/// Returns the command that makes a file of an artifact anew.
[[nodiscard]] std::string rebuild_command(const std::filesystem::path& file);

}  // namespace segvit
