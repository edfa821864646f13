/// Engines beside those that an artifact was built with: one view, and nothing else is changed.
#include "engine_list.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "artifacts.hpp"
#include "manifest_edit.hpp"
#include "sha256.hpp"

namespace segvit::test {
namespace {

using nlohmann::json;
using Change = std::function<void(json&)>;

const std::string kSomeHash(64, 'a');

Manifest make_manifest() {
    return Manifest::parse(
        json{{"version", "0.1.0"},
             {"schema", 1},
             {"precision", "fp16"},
             {"model", {{"name", "tiny"}, {"parameters", 1}, {"licence", "Apache-2.0"}}},
             {"input", {{"name", "image"}, {"dtype", "uint8"}, {"shape", {"batch", 16, 16, 3}}}},
             {"outputs", {{{"name", "labels"}, {"dtype", "uint8"}, {"shape", {"batch", 16, 16}}}}},
             {"classes", {"a"}},
             {"palette", {{0, 0, 0}}},
             {"files", {{"model.onnx", kSomeHash}}},
             {"targets",
              {{{"target", "openvino"},
                {"version", "1"},
                {"compute_capabilities", json::array()},
                {"file", "model.onnx"}}}}}
            .dump(),
        "artifact");
}

json make_engines() {
    return {{"manifest", make_manifest().digest},
            {"schema", 1},
            {"batch", {1, 2, 4}},
            {"files", {{"trt-sm90.engine", kSomeHash}, {"layers_trt.json", kSomeHash}}},
            {"targets",
             {{{"target", "trt"},
               {"version", "11"},
               {"compute_capabilities", {"SM90"}},
               {"file", "trt-sm90.engine"},
               {"layers", "layers_trt.json"}},
              {{"target", "openvino"},
               {"version", "2"},
               {"compute_capabilities", json::array()},
               {"file", "model.onnx"}}}},
            {"warnings", {"added"}}};
}

TEST(EngineList, IsReadAsOneWithTheManifest) {
    auto manifest = make_manifest();
    const auto digest = manifest.digest;
    add_engines(manifest, make_engines().dump());
    ASSERT_EQ(manifest.targets.size(), 2U);
    EXPECT_EQ(manifest.targets[0].target, "trt");
    EXPECT_EQ(manifest.targets[1].version, "2");  // in the place of the one of its file
    EXPECT_EQ(manifest.files.size(), 3U);
    EXPECT_EQ(manifest.batch.largest, 4);
    EXPECT_EQ(manifest.digest, digest);
}

struct Damage {
    const char* message;
    Change change;
};

class DamagedEngineList : public testing::TestWithParam<Damage> {};

TEST_P(DamagedEngineList, IsRefusedWithTheFix) {
    auto values = make_engines();
    GetParam().change(values);
    auto manifest = make_manifest();
    expect_error(ErrorCode::kDamaged, GetParam().message,
                 [&] { add_engines(manifest, values.dump()); });
    expect_error(ErrorCode::kDamaged,
                 "delete it and build again: python -m engines.build --artifact artifact",
                 [&] { add_engines(manifest, values.dump()); });
    EXPECT_EQ(manifest.targets.size(), 1U);
    EXPECT_EQ(manifest.files.size(), 1U);
}

INSTANTIATE_TEST_SUITE_P(
    Everywhere, DamagedEngineList,
    testing::Values(
        Damage{"belongs to another artifact: expected the digest ",
               [](json& v) { v["manifest"] = kSomeHash; }},
        Damage{"belongs to another artifact", [](json& v) { v.erase("manifest"); }},
        Damage{"batch is missing", [](json& v) { v.erase("batch"); }},
        Damage{"batch: expected 1 <= min <= opt <= max",
               [](json& v) {
                   v["batch"] = {4, 2, 1};
               }},
        Damage{"file name '../x' is refused", [](json& v) { v["files"]["../x"] = kSomeHash; }},
        Damage{"files['trt-sm90.engine']: expected a sha256",
               [](json& v) { v["files"]["trt-sm90.engine"] = "00"; }},
        Damage{"target 'trt' names 'b.engine', which files lacks",
               [](json& v) { v["targets"][0]["file"] = "b.engine"; }},
        Damage{"warnings[0]: expected a text", [](json& v) { v["warnings"][0] = 1; }},
        // What the digest binds cannot be replaced, nor may another graph or image slip in.
        Damage{"files has 'model.onnx', which manifest.json lists already",
               [](json& v) { v["files"]["model.onnx"] = kSomeHash; }},
        Damage{"files has 'golden.npz', which no target names",
               [](json& v) { v["files"]["golden.npz"] = kSomeHash; }},
        Damage{"target 'openvino' names 'trt-sm90.engine', which manifest.json lacks",
               [](json& v) { v["targets"][1]["file"] = "trt-sm90.engine"; }},
        Damage{"target 'trt' names 'model.onnx', which manifest.json lists: what that says",
               [](json& v) { v["targets"][0]["file"] = "model.onnx"; }}));

TEST(EngineList, OfAnotherSchemaIsRefused) {
    auto values = make_engines();
    values["schema"] = 2;
    auto manifest = make_manifest();
    expect_error(ErrorCode::kIncompatible, "expected schema 1, got 2; delete it",
                 [&] { add_engines(manifest, values.dump()); });
}

/// Copies of the artifact that make_artifacts.py wrote and engines.build added OpenVINO to.
class EngineFiles : public testing::Test {
protected:
    ArtifactCopy copy_{"added"};
    [[nodiscard]] std::string digest() const { return sha256_of_file(copy_.file("manifest.json")); }
    [[nodiscard]] Manifest read(const std::optional<std::string>& digest = std::nullopt) const {
        return Manifest::read(copy_.folder(), digest);
    }
};

TEST_F(EngineFiles, AreReadWithTheManifestThatTheyBelongTo) {
    const auto manifest = read(digest());
    EXPECT_EQ(manifest.digest, digest());
    EXPECT_EQ(manifest.entries_of(Target::kOpenVino).size(), 1U);
    edit_manifest(copy_.folder(), [](json& v) { v["version"] = "0.2.0"; });
    expect_error(ErrorCode::kDamaged, "engines.json' belongs to another artifact",
                 [&] { (void)read(); });
    std::filesystem::remove(copy_.file("engines.json"));
    EXPECT_TRUE(read().entries_of(Target::kOpenVino).empty());
}

TEST_F(EngineFiles, AHugeListIsRefusedUnread) {
    std::filesystem::resize_file(copy_.file("engines.json"), std::uintmax_t{1} << 30U);  // sparse
    expect_error(
        ErrorCode::kDamaged,
        "engines.json' is no list of engines: expected at most 64 MiB, got more; delete it",
        [&] { (void)read(); });
}

TEST_F(EngineFiles, AnotherDigestIsRefusedBeforeAnythingIsParsed) {
    auto capitals = digest();
    for (auto& c : capitals) c = static_cast<char>(std::toupper(c));
    EXPECT_EQ(read(capitals).digest, digest());
    const auto asked = digest();
    write_text(copy_.file("manifest.json"), "{");
    expect_error(ErrorCode::kDamaged,
                 "'" + copy_.folder().string() +
                     "' is not the artifact that was asked for: expected digest " + asked +
                     ", got " + digest() + "; copy the right artifact there",
                 [&] { (void)read(asked); });
}

TEST_F(EngineFiles, PartOfADigestIsRefused) {
    for (const auto& text : {std::string(), digest().substr(0, 12), digest() + "0",
                             std::string(64, 'g'), "sha256:" + digest()}) {
        expect_error(ErrorCode::kInvalidArgument,
                     "expected all 64 hexadecimal digits of the sha256 of manifest.json, got " +
                         std::to_string(text.size()) + " characters",
                     [&] { (void)read(text); });
    }
}

}  // namespace
}  // namespace segvit::test
