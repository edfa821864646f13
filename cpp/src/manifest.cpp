#include "manifest.hpp"

#include <algorithm>
#include <span>

#include "artifact_files.hpp"
#include "field.hpp"
#include "manifest_builds.hpp"
#include "manifest_records.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace segvit {
namespace {

/// Returns a tensor's dimensions, 0 for a dynamic one.
std::vector<std::int64_t> decode_shape(const Field& tensor) {
    std::vector<std::int64_t> shape;
    tensor["shape"].each([&](const Field& dimension) {
        shape.push_back(dimension.is_text() ? 0 : dimension.whole());
    });
    return shape;
}

InputSpec decode_input(const Field& input) {
    const auto dtype = input["dtype"].text();
    const auto shape = decode_shape(input);
    const auto is_size = [](std::int64_t size) { return 1 <= size && size <= kMaxSize; };
    const bool is_image = shape.size() == 4 && is_size(shape[1]) && is_size(shape[2]) &&
                          shape[3] == 3 && dtype == "uint8";
    if (!is_image) {
        std::string got;
        for (const auto size : shape) got += (got.empty() ? "" : ", ") + std::to_string(size);
        throw FieldError(
            concat("input: expected a shape (batch, height, width, 3) of uint8, with "
                   "sides of 1 to ",
                   kMaxSize, ", got (", shortened(got), ") of ", shortened(dtype)));
    }
    return {.name = input["name"].text(),
            .height = static_cast<int>(shape[1]),
            .width = static_cast<int>(shape[2])};
}

OutputSpec decode_output(const Field& outputs) {
    std::vector<OutputSpec> found;
    outputs.each([&](const Field& output) {
        (void)decode_shape(output);
        found.push_back({.name = output["name"].text(), .dtype = output["dtype"].text()});
    });
    if (found.empty()) throw FieldError("outputs: expected at least one, got none");
    return found.front();
}

std::vector<ClassInfo> decode_classes(const Field& names, const Field& palette) {
    std::vector<ClassInfo> classes;
    for (auto& name : names.texts()) classes.push_back({.name = std::move(name), .colour = {}});
    std::size_t colours = 0;
    palette.each([&](const Field& colour) {
        const auto channels = colour.wholes(3);
        const auto is_channel = [](std::int64_t value) { return 0 <= value && value <= 255; };
        if (!std::ranges::all_of(channels, is_channel)) {
            throw FieldError("palette: expected channels of 0 to 255");
        }
        const auto channel = [&](std::size_t i) { return static_cast<std::uint8_t>(channels[i]); };
        if (colours < classes.size()) {
            classes[colours].colour = {channel(0), channel(1), channel(2)};
        }
        ++colours;
    });
    if (colours != classes.size()) {
        throw FieldError(concat("palette: expected a colour for each of the ", classes.size(),
                                " classes, got ", colours));
    }
    return classes;
}

ModelInfo decode_model(const Field& model) {
    const auto random = model.find("random_weights");
    return {.name = model["name"].text(),
            .parameters = model["parameters"].whole(),
            .licence = model["licence"].text(),
            .random_weights = random && random->flag()};
}

void decode(const Field& values, Manifest& manifest) {
    manifest.version = values["version"].text();
    manifest.model = decode_model(values["model"]);
    manifest.precision = values["precision"].text();
    manifest.input = decode_input(values["input"]);
    manifest.output = decode_output(values["outputs"]);
    manifest.classes = decode_classes(values["classes"], values["palette"]);
    if (const auto batch = values.find("batch")) manifest.batch = decode_batch(*batch);
    if (const auto mode = values.find("mode")) manifest.mode = mode->text();
    if (const auto files = values.find("files")) manifest.files = decode_files(*files);
    if (const auto targets = values.find("targets")) {
        targets->each([&](const Field& entry) {
            manifest.targets.push_back(decode_target(entry));
            for (const auto& name : names_in(entry)) {
                if (!manifest.files.contains(name)) refuse_unlisted(manifest.targets.back(), name);
            }
        });
    }
    check_records(values);
}

/// Refuses another schema, whose fields mean other things, before any of them is looked at.
void check_schema(const Field& values, const std::filesystem::path& path) {
    const auto schema = values.find("schema");
    if (schema && schema->is_whole(kManifestSchema)) return;
    throw Error(ErrorCode::kIncompatible,
                concat(quoted(path), " is of another version: expected schema ", kManifestSchema,
                       ", got ", schema ? schema->shown() : "none",
                       "; build the artifact again with this version: ", rebuild_command(path)));
}

}  // namespace

Manifest Manifest::parse(std::string_view text, const std::filesystem::path& folder) {
    const auto path = folder / kManifestName;
    try {
        const Document document(text);
        const auto values = document.root();
        check_schema(values, path);
        Manifest manifest;
        manifest.folder = folder;
        manifest.digest = sha256_of(std::as_bytes(std::span(text)));
        decode(values, manifest);
        return manifest;
    } catch (const FieldError& error) {
        throw Error(ErrorCode::kDamaged,
                    concat(quoted(path), " is damaged: ", error.what(),
                           "; build the artifact again: ", rebuild_command(path)));
    }
}

std::vector<BuiltTarget> Manifest::entries_of(Target target) const {
    std::vector<BuiltTarget> entries;
    const auto is_wanted = [&](const BuiltTarget& built) {
        return built.target == name_of(target);
    };
    std::ranges::copy_if(targets, std::back_inserter(entries), is_wanted);
    return entries;
}

}  // namespace segvit
