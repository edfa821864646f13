/// Engines that an artifact gained after it was built, on a machine that runs it.
///
/// They stand in `engines.json`, outside the artifact's digest, which the list names. It can add
/// engines alone: what the manifest lists stays as the manifest says. The rules are those of
/// export/engine_list.py.
#pragma once

#include <string_view>

#include "manifest.hpp"

namespace segvit {

inline constexpr std::string_view kEnginesName = "engines.json";
inline constexpr int kEnginesSchema = 1;

/// Returns what mends a list that cannot be used.
[[nodiscard]] std::string mend_engines(const std::filesystem::path& folder);

/// Adds the engines of a list, the text of `engines.json`, to the manifest that it belongs to.
///
/// Throws `Error`: kIncompatible if the list is of another schema, kDamaged if it is no JSON,
/// belongs to another artifact, or contradicts itself or the manifest.
void add_engines(Manifest& manifest, std::string_view text);

}  // namespace segvit
