/// Which of an artifact's engines a GPU and a library take; knows neither TensorRT nor CUDA.
#pragma once

#include <string>

#include "manifest.hpp"

namespace segvit {

/// Returns the newest engine of a target for a compute capability such as `SM89`.
///
/// Throws `Error` (kIncompatible) if there is none, or if another version than the installed one
/// built it: their formats differ. The message has the command that makes one.
[[nodiscard]] BuiltTarget find_engine(const Manifest& manifest, Target target,
                                      const std::string& capability, const std::string& version);

}  // namespace segvit
