/// Does an engine give the reference's labels on this machine? `golden.npz` has the answers.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "manifest.hpp"
#include "segvit/segmenter.hpp"

namespace segvit::app {

/// uint8 images `(n, H, W, 3)` and the reference's int32 labels `(n, H, W)` of them.
struct Golden {
    std::size_t count = 0;
    int height = 0;
    int width = 0;
    std::vector<std::byte> images;
    std::vector<std::byte> labels;
};

/// Shares of pixels labelled as the reference labels them, an image and in all.
struct SelfTest {
    std::string target;
    std::string precision;
    std::vector<double> images;
    double agreement = 0.0;
    /// The least that the precision has to reach; none of random weights, whose labels are
    /// near-ties that any rounding turns.
    std::optional<double> gate;
};

/// Returns an artifact's images and labels, every shape compared with the manifest.
///
/// Throws `Error` (kNotFound, kDamaged) if the file is missing, changed or of another size.
[[nodiscard]] Golden read_golden(const Manifest& manifest);

/// Returns how many labels of an engine are the reference's.
///
/// Throws `Error`: kIncompatible if the manifest's precision has no gate, or as `segment` does.
[[nodiscard]] SelfTest run_self_test(const Segmenter& segmenter, const Golden& golden,
                                     const Manifest& manifest);

/// Throws `Error` (kRuntime) if the result does not reach its gate.
void check_self_test(const SelfTest& result);

}  // namespace segvit::app
