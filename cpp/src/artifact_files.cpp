#include "artifact_files.hpp"

#include <algorithm>
#include <fstream>

#include "engine_list.hpp"
#include "field.hpp"
#include "manifest.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace segvit {
namespace {

namespace fs = std::filesystem;

/// Whether a name is a plain relative path below the folder, on any system.
bool is_plain_name(std::string_view name) {
    const auto is_alphanumeric = [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    const auto is_inside = [](char c) { return c == '.' || c == '_' || c == '+' || c == '-'; };
    char before = '/';  // each part starts with a letter or digit, so none is ".."
    for (const char c : name) {
        const bool may_go_on = before != '/' && (is_inside(c) || c == '/');
        if (!is_alphanumeric(c) && !may_go_on) return false;
        before = c;
    }
    return before != '/' && name.size() <= 255;
}

template <typename Bytes>
Bytes read_file(const fs::path& path) {
    std::error_code failure;
    Bytes bytes;
    const auto size = fs::file_size(path, failure);
    if (!failure) bytes.resize(size);
    std::ifstream file(path, std::ios::binary);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    if (failure || !file) throw Error(ErrorCode::kNotFound, quoted(path) + " cannot be read");
    return bytes;
}

void compare(const fs::path& path, const std::string& expected, const std::string& got) {
    if (got == expected) return;
    throw Error(ErrorCode::kDamaged,
                concat(quoted(path), " was changed after it was built: expected sha256 ", expected,
                       ", got ", got, "; do not use it, rebuild it: ", rebuild_command(path)));
}

/// Returns the text of a JSON file that is no larger than any that we write.
std::string read_bounded(const fs::path& path, std::string_view what, const std::string& mend) {
    std::error_code failure;
    if (fs::file_size(path, failure) > kMaxManifestBytes && !failure) {
        throw Error(ErrorCode::kDamaged,
                    concat(quoted(path), " is no ", what, ": expected at most ",
                           kMaxManifestBytes >> 20U, " MiB, got more; ", mend));
    }
    return read_file<std::string>(path);
}

void check_digest(const fs::path& folder, const std::string& expected, const std::string& got) {
    if (got == expected) return;
    throw Error(ErrorCode::kDamaged,
                concat(quoted(folder), " is not the artifact that was asked for: expected digest ",
                       expected, ", got ", got,
                       "; copy the right artifact there, or give the digest of this one if it is "
                       "the one you want"));
}

/// Returns where a listed file lies, a real one inside the folder.
fs::path locate(const Manifest& manifest, const std::string& name) {
    try {
        check_file_name(name);
    } catch (const FieldError& error) {
        throw Error(ErrorCode::kDamaged, concat(quoted(manifest.folder), ": ", error.what()));
    }
    auto path = manifest.folder / name;
    if (!manifest.files.contains(name)) {
        std::vector<std::string> names;
        for (const auto& [file, hash] : manifest.files) names.push_back(file);
        throw Error(ErrorCode::kDamaged,
                    concat(quoted(path), " is not in the manifest, which lists ",
                           listed(names, "no files")));
    }
    std::error_code failure;
    if (!fs::is_regular_file(path, failure)) {
        throw Error(ErrorCode::kNotFound,
                    concat(quoted(path),
                           " is missing though the manifest lists it; copy the whole "
                           "folder again, or rebuild it: ",
                           rebuild_command(path)));
    }
    const auto folder = fs::canonical(manifest.folder);
    const auto target = fs::canonical(path);
    if (std::ranges::mismatch(folder, target).in1 != folder.end()) {
        throw Error(ErrorCode::kDamaged, concat(quoted(path), " is a link to ", quoted(target),
                                                ", outside the artifact; copy the file in"));
    }
    return path;
}

}  // namespace

void check_file_name(std::string_view name) {
    if (is_plain_name(name)) return;
    throw FieldError(concat("file name '", shortened(name),
                            "' is refused: expected a plain name inside the artifact folder"));
}

std::string rebuild_command(const fs::path& file) {
    const auto folder = file.parent_path().string();
    if (file.extension() == ".engine") return "python -m engines.build --artifact " + folder;
    return "python -m export.build --out " + folder + " …";
}

Manifest Manifest::read(const fs::path& folder, const std::optional<std::string>& digest) {
    const auto path = folder / kManifestName;
    const auto wanted = digest ? parse_digest(*digest) : std::string();
    std::error_code failure;
    if (!fs::is_regular_file(path, failure)) {
        throw Error(ErrorCode::kNotFound,
                    concat(quoted(folder), " is no artifact folder: it has no ", kManifestName,
                           "; make one with ", rebuild_command(path)));
    }
    const auto text =
        read_bounded(path, "manifest", "build the artifact again: " + rebuild_command(path));
    if (digest) check_digest(folder, wanted, sha256_of(std::as_bytes(std::span(text))));
    auto manifest = parse(text, folder);
    const auto engines = folder / kEnginesName;
    if (fs::exists(engines, failure)) {
        add_engines(manifest, read_bounded(engines, "list of engines", mend_engines(folder)));
    }
    return manifest;
}

fs::path Manifest::verify_file(const std::string& name) const {
    auto path = locate(*this, name);
    compare(path, files.at(name), sha256_of_file(path));
    return path;
}

std::vector<std::byte> Manifest::read_verified(const std::string& name) const {
    const auto path = locate(*this, name);
    auto bytes = read_file<std::vector<std::byte>>(path);
    compare(path, files.at(name), sha256_of(bytes));
    return bytes;
}

}  // namespace segvit
