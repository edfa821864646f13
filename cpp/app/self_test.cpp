#include "app/self_test.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "app/decimal.hpp"
#include "app/npz_file.hpp"

namespace segvit::app {
namespace {

constexpr const char* kGoldenName = "golden.npz";
// Those of GATES in export/verify.py, which has their reasons.
constexpr std::array<std::pair<std::string_view, double>, 5> kGates{
    {{"fp32", 0.9999}, {"fp16", 0.999}, {"bf16", 0.992}, {"int8", 0.985}, {"fp8", 0.985}}};

double gate_of(const std::string& precision) {
    const auto* gate = std::find_if(kGates.begin(), kGates.end(),
                                    [&](const auto& entry) { return entry.first == precision; });
    if (gate == kGates.end()) {
        throw Error(ErrorCode::kIncompatible,
                    "precision '" + precision +
                        "' of the manifest is unknown; expected one of: fp32, fp16, bf16, int8, "
                        "fp8");
    }
    return gate->second;
}

void check_array(const Array& array, const std::string& name, const std::string& type,
                 const std::vector<std::int64_t>& shape, const std::string& subject) {
    if (array.type != type || array.shape != shape || shape.front() == 0) {
        std::string got;
        for (const std::int64_t length : array.shape) {
            got += (got.empty() ? "" : ", ") + std::to_string(length);
        }
        throw Error(ErrorCode::kDamaged, subject + " does not fit its manifest: '" + name +
                                             "' is " + array.type + " (" + got +
                                             "), not of the engine's size and type; build the "
                                             "artifact again");
    }
}

/// Returns the share of equal labels of an image.
double compare(const LabelMap& got, std::span<const std::byte> wanted) {
    const std::span<const std::byte> bytes = got.bytes();
    const auto size = static_cast<std::size_t>(got.label_bytes());
    const std::size_t count = bytes.size() / size;
    std::size_t equal = 0;
    for (std::size_t pixel = 0; pixel < count; ++pixel) {
        std::int32_t expected = 0;
        std::memcpy(&expected, wanted.data() + pixel * sizeof expected, sizeof expected);
        auto label = std::to_integer<std::int32_t>(bytes[pixel]);
        if (size == sizeof label) {
            std::memcpy(&label, bytes.data() + pixel * sizeof label, sizeof label);
        }
        equal += label == expected ? 1U : 0U;
    }
    return static_cast<double>(equal) / static_cast<double>(count);
}

}  // namespace

Golden read_golden(const Manifest& manifest) {
    const std::vector<std::byte> file = manifest.read_verified(kGoldenName);
    const std::string subject = "'" + (manifest.folder / kGoldenName).string() + "'";
    Array images = read_npz(file, "images", subject);
    Array labels = read_npz(file, "labels", subject);
    const std::int64_t count = images.shape.empty() ? 0 : images.shape.front();
    const InputSpec& input = manifest.input;
    check_array(images, "images", "|u1", {count, input.height, input.width, 3}, subject);
    check_array(labels, "labels", "<i4", {count, input.height, input.width}, subject);
    return {static_cast<std::size_t>(count), input.height, input.width, std::move(images.data),
            std::move(labels.data)};
}

SelfTest run_self_test(const Segmenter& segmenter, const Golden& golden, const Manifest& manifest) {
    const double gate = gate_of(manifest.precision);
    const std::size_t image_bytes = golden.images.size() / golden.count;
    const std::size_t label_bytes = golden.labels.size() / golden.count;
    const auto step = static_cast<std::size_t>(segmenter.batch().typical);
    SelfTest result{std::string(name_of(segmenter.target())), manifest.precision, {}, 0.0, {}};
    for (std::size_t first = 0; first < golden.count; first += step) {
        std::vector<ImageView> views;
        for (std::size_t i = first; i < std::min(first + step, golden.count); ++i) {
            const std::byte* pixels = golden.images.data() + i * image_bytes;
            views.push_back(
                {reinterpret_cast<const std::uint8_t*>(pixels), golden.height, golden.width, 0});
        }
        for (const LabelMap& labels : segmenter.segment(views)) {
            const std::size_t start = result.images.size() * label_bytes;
            result.images.push_back(
                compare(labels, std::span(golden.labels).subspan(start, label_bytes)));
        }
    }
    result.agreement = std::accumulate(result.images.begin(), result.images.end(), 0.0) /
                       static_cast<double>(golden.count);
    if (!manifest.model.random_weights) {
        result.gate = gate;
    }
    return result;
}

void check_self_test(const SelfTest& result) {
    if (result.gate && !(result.agreement >= *result.gate)) {
        throw Error(ErrorCode::kRuntime,
                    "target '" + result.target + "' gives " + decimal(result.agreement, 5) +
                        " of the reference's labels in " + result.precision + ", the gate is " +
                        shortest(*result.gate) +
                        "; use another --target on this machine, and please report it");
    }
}

}  // namespace segvit::app
