/// From an artifact folder to a loaded engine.
#pragma once

#include <filesystem>
#include <memory>

#include "session.hpp"

namespace segvit {

/// Returns what `Segmenter::load` wraps; throws as that does.
[[nodiscard]] std::unique_ptr<Session> load_session(const std::filesystem::path& artifact,
                                                    const Options& options);

}  // namespace segvit
