#include <algorithm>
#include <array>

#include "segvit/segmenter.hpp"
#include "text.hpp"

namespace segvit {
namespace {

struct NamedTarget {
    Target target;
    std::string_view name;
};

constexpr std::array kTargets{
    NamedTarget{Target::kAuto, "auto"},
    NamedTarget{Target::kTensorRt, "trt"},
    NamedTarget{Target::kTensorRtRtx, "trt-rtx"},
    NamedTarget{Target::kOpenVino, "openvino"},
};

}  // namespace

std::string_view name_of(Target target) {
    const auto* const found = std::ranges::find(kTargets, target, &NamedTarget::target);
    return found != kTargets.end() ? found->name : "unknown";
}

Target parse_target(std::string_view name) {
    const auto* const found = std::ranges::find(kTargets, name, &NamedTarget::name);
    if (found != kTargets.end()) return found->target;
    std::vector<std::string_view> names;
    for (const auto& known : kTargets) names.push_back(known.name);
    throw Error(
        ErrorCode::kInvalidArgument,
        concat("target '", shortened(name), "' is unknown: expected one of ", listed(names)));
}

std::vector<Target> available_targets() {
    std::vector<Target> targets;
    if (SEGVIT_TENSORRT) targets.push_back(Target::kTensorRt);
    if (SEGVIT_TENSORRT_RTX) targets.push_back(Target::kTensorRtRtx);
    if (SEGVIT_OPENVINO) targets.push_back(Target::kOpenVino);
    return targets;
}

}  // namespace segvit
