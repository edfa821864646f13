/// Changes to manifests, by hand.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

namespace segvit::test {

inline nlohmann::json read_json(const std::filesystem::path& path) {
    std::ifstream file(path);
    return nlohmann::json::parse(file);
}

inline void write_text(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

/// Changes a folder's manifest.json by `how`, which takes the JSON.
template <typename How>
void edit_manifest(const std::filesystem::path& folder, How how) {
    auto values = read_json(folder / "manifest.json");
    how(values);
    write_text(folder / "manifest.json", values.dump());
}

}  // namespace segvit::test
