#include "manifest_builds.hpp"

#include <algorithm>

#include "artifact_files.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace segvit {

BatchRange decode_batch(const Field& batch) {
    const auto sizes = batch.wholes(3);
    if (sizes[0] < 1 || !std::ranges::is_sorted(sizes) || sizes[2] > kMaxSize) {
        throw FieldError(concat("batch: expected 1 <= min <= opt <= max <= ", kMaxSize, ", got ",
                                sizes[0], ", ", sizes[1], ", ", sizes[2]));
    }
    const auto size = [&](std::size_t i) { return static_cast<int>(sizes[i]); };
    return {.smallest = size(0), .typical = size(1), .largest = size(2)};
}

std::map<std::string, std::string> decode_files(const Field& files) {
    std::map<std::string, std::string> hashes;
    files.each_member([&](const std::string& name, const Field& value) {
        check_file_name(name);
        const auto hash = value.text();
        if (!is_sha256(hash)) value.refuse("a sha256");
        hashes.emplace(name, hash);
    });
    return hashes;
}

BuiltTarget decode_target(const Field& entry) {
    return {.target = entry["target"].text(),
            .version = entry["version"].text(),
            .compute_capabilities = entry["compute_capabilities"].texts(),
            .file = entry["file"].text()};
}

std::vector<std::string> names_in(const Field& entry) {
    std::vector<std::string> names{entry["file"].text()};
    if (const auto layers = entry.find("layers", /*or_null=*/true)) names.push_back(layers->text());
    for (const auto& name : names) check_file_name(name);
    return names;
}

void refuse_unlisted(const BuiltTarget& built, const std::string& name) {
    throw FieldError(
        concat("target '", shortened(built.target), "' names '", name, "', which files lacks"));
}

}  // namespace segvit
