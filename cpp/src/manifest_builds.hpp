/// What a manifest and the list of added engines have in common: files, engines, batch.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "field.hpp"
#include "manifest.hpp"

namespace segvit {

/// The most that an image's side or a batch may be, so that no product overflows.
inline constexpr std::int64_t kMaxSize = 1 << 16;

[[nodiscard]] BatchRange decode_batch(const Field& batch);

/// Returns the sha256 of each file.
[[nodiscard]] std::map<std::string, std::string> decode_files(const Field& files);

[[nodiscard]] BuiltTarget decode_target(const Field& entry);

/// Returns the files that a target names, each a plain name.
[[nodiscard]] std::vector<std::string> names_in(const Field& entry);

/// Throws `FieldError` for a file that a target names and no list of files has.
[[noreturn]] void refuse_unlisted(const BuiltTarget& built, const std::string& name);

}  // namespace segvit
