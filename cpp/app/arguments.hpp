/// What segvit-segment was asked for.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "segvit/segmenter.hpp"

namespace segvit::app {

struct Arguments {
    std::vector<std::string> images;
    std::filesystem::path artifact;
    std::filesystem::path out;
    Options options;
    std::optional<int> batch;  ///< images a call; none: the engine's typical number
    double opacity = 0.5;
    int benchmark = 0;  ///< timed runs; 0: none
    bool self_test = false;
    bool json = false;
    bool verbose = false;
};

/// Returns the arguments, or the exit code after help or an error was printed.
[[nodiscard]] std::variant<Arguments, int> parse_arguments(int argc, const char* const* argv);

/// Returns `--batch`, or the engine's typical batch. Throws `Error` (kInvalidArgument) if the
/// engine does not take it.
[[nodiscard]] int choose_batch(const Arguments& arguments, const BatchRange& range);

}  // namespace segvit::app
