#include "load.hpp"

#include <algorithm>
#include <array>

#include "backend.hpp"
#include "text.hpp"

namespace segvit {
namespace {

// The preferred first: fastest where it runs.
constexpr std::array kPreference{Target::kTensorRt, Target::kTensorRtRtx, Target::kOpenVino};
constexpr int kMostInstances = 256;

void check_options(const Options& options) {
    const auto check = [](std::string_view name, int value, int least, int most) {
        if (least <= value && value <= most) return;
        throw Error(ErrorCode::kInvalidArgument,
                    concat("options.", name, ": expected ", least, " to ", most, ", got ", value));
    };
    check("device", options.device, 0, 1023);
    check("threads", options.threads, 0, 4096);
    check("instances", options.instances, 1, kMostInstances);
}

/// Returns the bytes of a label, 1 or 4.
int find_label_bytes(const Manifest& manifest) {
    const auto& [name, dtype] = manifest.output;
    if (dtype == "uint8") return 1;
    if (dtype == "int32") return 4;
    throw Error(
        ErrorCode::kIncompatible,
        concat(quoted(manifest.folder), " gives '", shortened(name), "' of ", shortened(dtype),
               ", and labels (uint8 or int32) are expected; build it with "
               "--output labels: python -m export.build --out ",
               manifest.folder.string(), " …"));
}

bool is_available(Target target) {
    return std::ranges::count(available_targets(), target) > 0;
}

/// Returns why a target cannot run here what the artifact holds for it; empty if it can.
std::string find_refusal([[maybe_unused]] const Manifest& manifest,
                         [[maybe_unused]] const Options& options, Target target) {
#if SEGVIT_OPENVINO
    if (target == Target::kOpenVino) return openvino_refusal(manifest, options);
#endif
#if SEGVIT_TENSORRT || SEGVIT_TENSORRT_RTX
    if (target != Target::kOpenVino) return tensorrt_refusal(manifest, options, target);
#endif
    return concat("this library was built without ", name_of(target));
}

std::unique_ptr<Backend> load_backend(const Manifest& manifest, const Options& options,
                                      Target target) {
#if SEGVIT_OPENVINO
    if (target == Target::kOpenVino) return load_openvino(manifest, options);
#endif
#if SEGVIT_TENSORRT || SEGVIT_TENSORRT_RTX
    if (target != Target::kOpenVino) return load_tensorrt(manifest, options, target);
#endif
    throw Error(ErrorCode::kIncompatible, find_refusal(manifest, options, target));
}

std::string find_reason_against(const Manifest& manifest, const Options& options, Target target) {
    if (!is_available(target)) return "this library was built without it";
    if (manifest.entries_of(target).empty()) return "not built";
    return find_refusal(manifest, options, target);
}

/// Returns the first target that runs here, and adds to `notes` why those before it do not.
Target choose_target(const Manifest& manifest, const Options& options,
                     std::vector<std::string>& notes) {
    for (const auto target : kPreference) {
        const auto reason = find_reason_against(manifest, options, target);
        if (reason.empty()) return target;
        notes.push_back(concat(name_of(target), ": ", reason));
    }
    std::string reasons;
    for (const auto& note : notes) reasons += (reasons.empty() ? "" : "; ") + note;
    throw Error(ErrorCode::kIncompatible,
                concat(quoted(manifest.folder), " holds nothing that runs here: ", reasons));
}

/// Throws unless the target that was asked for can run here.
void check_target(const Manifest& manifest, const Options& options) {
    const auto name = name_of(options.target);
    const auto entries = manifest.entries_of(options.target);
    if (entries.empty()) {
        std::vector<std::string> have;
        for (const auto& built : manifest.targets) have.push_back(shortened(built.target));
        throw Error(ErrorCode::kIncompatible,
                    concat(quoted(manifest.folder), " holds no ", name, " engine, only ",
                           listed(have), "; build it: python -m engines.build --artifact ",
                           manifest.folder.string(), " --target ", name));
    }
    const auto reason = find_reason_against(manifest, options, options.target);
    if (reason.empty()) return;
    // That an engine was changed matters on every machine, so it is said first.
    (void)manifest.verify_file(entries.front().file);
    throw Error(ErrorCode::kIncompatible, concat("target '", name, "' cannot run here: ", reason));
}

}  // namespace

std::unique_ptr<Session> load_session(const std::filesystem::path& artifact,
                                      const Options& options) {
    check_options(options);
    const auto manifest = Manifest::read(artifact, options.digest);
    EngineInfo info{.target = options.target,
                    .height = manifest.input.height,
                    .width = manifest.input.width,
                    .label_bytes = find_label_bytes(manifest),
                    .batch = manifest.batch,
                    .classes = manifest.classes,
                    .notes = {}};
    if (options.target == Target::kAuto) {
        info.target = choose_target(manifest, options, info.notes);
    } else {
        check_target(manifest, options);
    }
    auto backend = load_backend(manifest, options, info.target);
    return std::make_unique<Session>(std::move(info), std::move(backend), options.instances);
}

}  // namespace segvit
