/// The manifest of an artifact folder: what was built, for what, and the hash of every file.
///
/// Reading trusts nothing: the file may come from another machine, and an engine it names is
/// executable code. The rules are those of export/manifest.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "segvit/segmenter.hpp"

namespace segvit {

inline constexpr int kManifestSchema = 1;
inline constexpr std::size_t kMaxManifestBytes = std::size_t{64} << 20;

/// Which model was exported, and under which licence its weights stand.
struct ModelInfo {
    std::string name;
    std::int64_t parameters = 0;
    std::string licence;
    bool random_weights = false;
};

/// The images: uint8 (batch, height, width, 3).
struct InputSpec {
    std::string name;
    int height = 0;
    int width = 0;
};

/// `labels`, uint8 or int32 (batch, height, width), or `scores`, float32 (batch, classes, …).
struct OutputSpec {
    std::string name;
    std::string dtype;
};

/// One engine (or the ONNX file itself) and where it may run.
struct BuiltTarget {
    std::string target;                             ///< "trt", "trt-rtx", "ort", "openvino"
    std::string version;                            ///< of the library that built it
    std::vector<std::string> compute_capabilities;  ///< such as "SM89"; none for a CPU
    std::string file;
};

struct Manifest {
    std::filesystem::path folder;
    std::string version;
    ModelInfo model;
    std::string precision;
    InputSpec input;
    OutputSpec output;  ///< the first, if there are several
    std::vector<ClassInfo> classes;
    BatchRange batch{1, 1, 1};
    std::string mode = "whole";                ///< or "slide": windows are cut in the graph
    std::map<std::string, std::string> files;  ///< name in the folder to sha256
    std::vector<BuiltTarget> targets;
    std::string digest;  ///< the sha256 of the text that it was read from

    /// Returns the manifest of an artifact folder, every field checked, with the engines that were
    /// added to the artifact since.
    ///
    /// `digest` is the sha256 that manifest.json must have; without one, any is taken. Throws
    /// `Error`: kNotFound without a manifest, kInvalidArgument if `digest` is no sha256,
    /// kIncompatible if it is of another schema, kDamaged if it has another digest, is too large,
    /// no JSON, contradicts itself or names a file outside the folder.
    static Manifest read(const std::filesystem::path& folder,
                         const std::optional<std::string>& digest = std::nullopt);

    /// Returns the manifest that `text` holds, as `read` does; `folder` is only named in messages
    /// and kept, and no file is touched.
    static Manifest parse(std::string_view text, const std::filesystem::path& folder);

    /// Returns the entries of a target, in the manifest's order.
    [[nodiscard]] std::vector<BuiltTarget> entries_of(Target target) const;

    /// Returns the path of a listed file after comparing its sha256.
    ///
    /// Throws `Error`: kNotFound if it is missing, kDamaged if it is not listed, changed, or lies
    /// outside the folder.
    [[nodiscard]] std::filesystem::path verify_file(const std::string& name) const;

    /// Returns the bytes of a listed file, the very ones that were hashed. Throws as `verify_file`.
    [[nodiscard]] std::vector<std::byte> read_verified(const std::string& name) const;
};

}  // namespace segvit
