#include "tensorrt_entry.hpp"

#include <algorithm>
#include <set>

#include "text.hpp"

namespace segvit {
namespace {

std::string build_command(const Manifest& manifest, Target target) {
    return concat("python -m engines.build --artifact ", manifest.folder.string(), " --target ",
                  name_of(target));
}

}  // namespace

BuiltTarget find_engine(const Manifest& manifest, Target target, const std::string& capability,
                        const std::string& version) {
    const auto entries = manifest.entries_of(target);
    // A rebuilt engine stands behind the one that it replaces.
    const auto found = std::find_if(entries.rbegin(), entries.rend(), [&](const auto& entry) {
        return std::ranges::count(entry.compute_capabilities, capability) > 0;
    });
    const auto rebuild = build_command(manifest, target);
    if (found == entries.rend()) {
        std::set<std::string> built;
        for (const auto& entry : entries) {
            for (const auto& one : entry.compute_capabilities) built.insert(shortened(one));
        }
        const auto extra =
            target == Target::kTensorRtRtx ? " --compute-capability " + capability : "";
        throw Error(ErrorCode::kIncompatible,
                    concat(quoted(manifest.folder), " holds ", name_of(target), " engines for ",
                           listed(built), ", and this GPU is ", capability, "; build it: ", rebuild,
                           extra));
    }
    if (found->version != version) {
        throw Error(ErrorCode::kIncompatible,
                    concat(quoted(manifest.folder / found->file), " was built by ", name_of(target),
                           " ", shortened(found->version), ", installed is ", version,
                           "; install that version, or rebuild it: ", rebuild));
    }
    return *found;
}

}  // namespace segvit
