#include "engine_list.hpp"

#include <algorithm>
#include <set>

#include "field.hpp"
#include "manifest_builds.hpp"
#include "manifest_records.hpp"
#include "text.hpp"

namespace segvit {
namespace {

struct EngineList {
    BatchRange batch{1, 1, 1};
    std::map<std::string, std::string> files;
    std::vector<BuiltTarget> targets;
};

/// Whether a target's files are built on a machine; the others run the graph, which the manifest
/// lists.
bool is_compiled(const BuiltTarget& built) {
    return built.target == name_of(Target::kTensorRt) ||
           built.target == name_of(Target::kTensorRtRtx);
}

void check_target(const BuiltTarget& built, const std::string& name, const EngineList& engines,
                  const Manifest& manifest) {
    if (engines.files.contains(name)) {
        if (is_compiled(built)) return;
        throw FieldError(concat("target '", shortened(built.target), "' names '", name,
                                "', which manifest.json lacks: only engines of trt and trt-rtx "
                                "can be added"));
    }
    if (!manifest.files.contains(name)) refuse_unlisted(built, name);
    if (is_compiled(built)) {
        throw FieldError(concat("target '", built.target, "' names '", name,
                                "', which manifest.json lists: what that says of its own engines "
                                "stays"));
    }
}

EngineList decode(const Field& values, const Manifest& manifest) {
    EngineList engines;
    engines.batch = decode_batch(values["batch"]);
    if (const auto files = values.find("files")) engines.files = decode_files(*files);
    for (const auto& [name, hash] : engines.files) {
        if (manifest.files.contains(name)) {
            throw FieldError(concat("files has '", name, "', which manifest.json lists already"));
        }
    }
    std::set<std::string> used;
    if (const auto targets = values.find("targets")) {
        targets->each([&](const Field& entry) {
            engines.targets.push_back(decode_target(entry));
            for (const auto& name : names_in(entry)) {
                check_target(engines.targets.back(), name, engines, manifest);
                used.insert(name);
            }
        });
    }
    for (const auto& [name, hash] : engines.files) {
        if (!used.contains(name)) {
            throw FieldError(concat("files has '", name, "', which no target names"));
        }
    }
    check_build_records(values);
    return engines;
}

/// Refuses another schema, and the list of another artifact.
void check_owner(const Field& values, const Manifest& manifest) {
    const auto path = quoted(manifest.folder / kEnginesName);
    const auto schema = values.find("schema");
    if (!schema || !schema->is_whole(kEnginesSchema)) {
        throw Error(
            ErrorCode::kIncompatible,
            concat(path, " is of another version: expected schema ", kEnginesSchema, ", got ",
                   schema ? schema->shown() : "none", "; ", mend_engines(manifest.folder)));
    }
    const auto owner = values.find("manifest");
    if (owner && owner->is_text() && owner->text() == manifest.digest) return;
    throw Error(ErrorCode::kDamaged,
                concat(path, " belongs to another artifact: expected the digest ", manifest.digest,
                       " of the manifest beside it, got ", owner ? owner->shown() : "none", "; ",
                       mend_engines(manifest.folder)));
}

}  // namespace

std::string mend_engines(const std::filesystem::path& folder) {
    return "delete it and build again: python -m engines.build --artifact " + folder.string();
}

void add_engines(Manifest& manifest, std::string_view text) {
    EngineList engines;
    try {
        const Document document(text);
        const auto values = document.root();
        check_owner(values, manifest);
        engines = decode(values, manifest);
    } catch (const FieldError& error) {
        throw Error(ErrorCode::kDamaged,
                    concat(quoted(manifest.folder / kEnginesName), " is damaged: ", error.what(),
                           "; ", mend_engines(manifest.folder)));
    }
    for (auto& built : engines.targets) {
        std::erase_if(manifest.targets, [&](const auto& before) {
            return before.target == built.target && before.file == built.file;
        });
        manifest.targets.push_back(std::move(built));
    }
    manifest.files.merge(engines.files);
    manifest.batch = engines.batch;
}

}  // namespace segvit
