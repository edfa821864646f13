/// What a manifest says is read, and whatever is wrong with one is named.
#include "manifest.hpp"

#include <gtest/gtest.h>

#include <functional>

#include "artifacts.hpp"
#include "manifest_edit.hpp"

namespace segvit::test {
namespace {

using nlohmann::json;
using Change = std::function<void(json&)>;

/// A manifest with every field in use.
json make_manifest() {
    return json::parse(R"({
      "version": "0.1.0", "schema": 1, "precision": "fp16",
      "model": {"name": "vit_t_landcover", "parameters": 3000000, "licence": "Apache-2.0",
                "random_weights": true, "checkpoint_sha256": null, "crop": 256, "stride": null,
                "short_side": 256, "mean": [123.675, 116, 103.5], "std": null},
      "input": {"name": "image", "dtype": "uint8", "shape": ["batch", 256, 320, 3]},
      "outputs": [{"name": "labels", "dtype": "uint8", "shape": ["batch", 256, 320]}],
      "classes": ["water", "tree – cover"], "palette": [[28, 92, 168], [20, 110, 50]],
      "batch": [1, 4, 8], "mode": "slide",
      "files": {"model.onnx":
                "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"},
      "targets": [{"target": "trt-rtx", "version": "1.7.1.116", "file": "model.onnx",
                   "compute_capabilities": ["SM86", "SM89"], "layers": null,
                   "build_seconds": 2.5,
                   "audit": {"kernels": 201, "attentions": 29, "fused_attentions": 29,
                             "traffic_mb": 1115.0, "activation_mb": null,
                             "gemm_datatypes": {"Half": 108}, "unfused": ["head/0/Softmax"],
                             "parts": {"tail": {"kernels": 6, "traffic_mb": null}}}}],
      "not_built": [{"target": "trt", "reason": "not installed"}],
      "parity": {"images": 8, "pixel_agreement": 0.9998, "details": {"gate": "fp16", "ok": true}},
      "warnings": ["random"], "command": "python -m export.build", "versions": {"onnx": "1.23.2"}
    })");
}

Manifest parse(const json& values) {
    return Manifest::parse(values.dump(), "artifact");
}

TEST(Manifest, IsReadFieldByField) {
    const auto manifest = parse(make_manifest());
    EXPECT_EQ(manifest.folder, "artifact");
    EXPECT_EQ(manifest.model.name, "vit_t_landcover");
    EXPECT_EQ(manifest.model.parameters, 3000000);
    EXPECT_TRUE(manifest.model.random_weights);
    EXPECT_EQ(manifest.input.name, "image");
    EXPECT_EQ(manifest.input.height, 256);
    EXPECT_EQ(manifest.input.width, 320);
    EXPECT_EQ(manifest.output.dtype, "uint8");
    EXPECT_EQ(manifest.classes.at(1).name, "tree – cover");
    EXPECT_EQ(manifest.classes.at(1).colour.green, 110);
    EXPECT_EQ(manifest.batch.largest, 8);
    EXPECT_EQ(manifest.mode, "slide");
    const auto entries = manifest.entries_of(Target::kTensorRtRtx);
    ASSERT_EQ(entries.size(), 1U);
    EXPECT_EQ(entries[0].compute_capabilities.at(1), "SM89");
    EXPECT_TRUE(manifest.entries_of(Target::kOpenVino).empty());
}

TEST(Manifest, ShortOneHasDefaults) {
    auto values = make_manifest();
    for (const auto* name : {"batch", "mode", "files", "targets", "not_built", "parity", "warnings",
                             "command", "versions"}) {
        values.erase(name);
    }
    const auto manifest = parse(values);
    EXPECT_EQ(manifest.batch.largest, 1);
    EXPECT_EQ(manifest.mode, "whole");
    EXPECT_TRUE(manifest.targets.empty());
}

TEST(Manifest, FieldsOfALaterVersionAreIgnored) {
    auto values = make_manifest();
    values["later"] = {{"a", 1}};
    EXPECT_EQ(parse(values).precision, "fp16");
}

TEST(Manifest, AnotherSchemaIsRefusedWithTheFix) {
    for (const auto& [schema, shown] :
         {std::pair<json, std::string>{2, "2"}, {"1", "\"1\""}, {true, "true"}, {1.0, "1.0"}}) {
        auto values = make_manifest();
        values["schema"] = schema;
        expect_error(ErrorCode::kIncompatible,
                     "is of another version: expected schema 1, got " + shown +
                         "; build the artifact again with this version: python -m export.build "
                         "--out artifact",
                     [&] { parse(values); });
    }
}

struct Damage {
    const char* message;
    Change change;
};

class DamagedManifest : public testing::TestWithParam<Damage> {};

TEST_P(DamagedManifest, NamesTheField) {
    auto values = make_manifest();
    GetParam().change(values);
    expect_error(ErrorCode::kDamaged, GetParam().message, [&] { parse(values); });
    expect_error(ErrorCode::kDamaged,
                 "'artifact/manifest.json' is damaged: ", [&] { parse(values); });
}

INSTANTIATE_TEST_SUITE_P(
    Everywhere, DamagedManifest,
    testing::Values(
        Damage{"model is missing", [](json& v) { v.erase("model"); }},
        Damage{"model.licence is missing", [](json& v) { v["model"].erase("licence"); }},
        Damage{"model.parameters: expected a whole number, got \"3M\"",
               [](json& v) { v["model"]["parameters"] = "3M"; }},
        Damage{"model.parameters: expected a whole number, got true",
               [](json& v) { v["model"]["parameters"] = true; }},
        Damage{"model.parameters: expected a whole number, got 3.0",
               [](json& v) { v["model"]["parameters"] = 3.0; }},
        Damage{"model.parameters: expected a whole number, got 18446744073709551615",
               [](json& v) { v["model"]["parameters"] = UINT64_MAX; }},
        Damage{"model.random_weights: expected true or false, got 1",
               [](json& v) { v["model"]["random_weights"] = 1; }},
        Damage{"model.crop: expected a whole number, got \"x\"",
               [](json& v) { v["model"]["crop"] = "x"; }},
        Damage{"model.mean: expected 3 entries, got a list of 1",
               [](json& v) { v["model"]["mean"] = {1}; }},
        Damage{"model: expected an object, got a list of 0",
               [](json& v) { v["model"] = json::array(); }},
        Damage{"version: expected a text, got null", [](json& v) { v["version"] = nullptr; }},
        Damage{"classes: expected a list, got \"water\"", [](json& v) { v["classes"] = "water"; }},
        Damage{"classes[1]: expected a text, got 5", [](json& v) { v["classes"][1] = 5; }},
        Damage{"batch: expected 3 entries",
               [](json& v) {
                   v["batch"] = {1, 2};
               }},
        Damage{"batch: expected 1 <= min <= opt <= max",
               [](json& v) {
                   v["batch"] = {4, 2, 1};
               }},
        Damage{"batch: expected 1 <= min",
               [](json& v) {
                   v["batch"] = {0, 1, 1};
               }},
        Damage{"<= max <= 65536, got 1, 1, 1000000000",
               [](json& v) {
                   v["batch"] = {1, 1, 1000000000};
               }},
        Damage{"palette: expected channels of 0 to 255",
               [](json& v) {
                   v["palette"][0] = {1, 2, 300};
               }},
        Damage{"palette: expected channels of 0 to 255",
               [](json& v) {
                   v["palette"][0] = {1, 2, -1};
               }},
        Damage{"palette: expected a colour for each of the 2 classes, got 1",
               [](json& v) { v["palette"].erase(0); }},
        Damage{"palette: expected a colour for each of the 2 classes, got 3",
               [](json& v) {
                   v["palette"].push_back({1, 2, 3});
               }},
        Damage{"outputs: expected at least one", [](json& v) { v["outputs"] = json::array(); }},
        Damage{"outputs[0].shape[1]: expected a whole number, got 2.5",
               [](json& v) { v["outputs"][0]["shape"][1] = 2.5; }},
        Damage{"input: expected a shape (batch, height, width, 3)",
               [](json& v) {
                   v["input"]["shape"] = {1, 2};
               }},
        Damage{"sides of 1 to 65536, got (1, 2000000000, 2000000000, 3) of uint8",
               [](json& v) {
                   v["input"]["shape"] = {1, 2000000000, 2000000000, 3};
               }},
        Damage{"of uint8, with", [](json& v) { v["input"]["dtype"] = "float32"; }},
        Damage{"files['a.txt']: expected a sha256, got \"00\"",
               [](json& v) { v["files"]["a.txt"] = "00"; }},
        Damage{"target 'trt-rtx' names 'b.engine', which files lacks",
               [](json& v) { v["targets"][0]["file"] = "b.engine"; }},
        Damage{"names 'layers.json', which files lacks",
               [](json& v) { v["targets"][0]["layers"] = "layers.json"; }},
        Damage{"targets[0].audit: expected an object",
               [](json& v) { v["targets"][0]["audit"] = json::array(); }},
        Damage{"targets[0].audit.parts['tail'].kernels: expected a whole number",
               [](json& v) { v["targets"][0]["audit"]["parts"]["tail"]["kernels"] = "6"; }},
        Damage{"targets[0].audit.activation_mb is missing",
               [](json& v) { v["targets"][0]["audit"].erase("activation_mb"); }},
        Damage{"not_built[0].reason is missing",
               [](json& v) { v["not_built"][0].erase("reason"); }},
        Damage{"parity.miou: expected a finite number, got \"high\"",
               [](json& v) { v["parity"]["miou"] = "high"; }},
        Damage{"parity.details['gate']: expected true or false, a number, a text or null",
               [](json& v) { v["parity"]["details"]["gate"] = json::object(); }},
        Damage{"versions['onnx']: expected a text, got 1",
               [](json& v) { v["versions"]["onnx"] = 1; }},
        Damage{"warnings[0]: expected a text", [](json& v) { v["warnings"][0] = 1; }}));

class OutsideName : public testing::TestWithParam<std::string> {};

TEST_P(OutsideName, IsRefused) {
    auto values = make_manifest();
    values["files"] = {{GetParam(), std::string(64, 'a')}};
    values["targets"][0]["file"] = GetParam();
    expect_error(ErrorCode::kDamaged, "is refused: expected a plain name inside",
                 [&] { parse(values); });
}

INSTANTIATE_TEST_SUITE_P(Everywhere, OutsideName,
                         testing::Values("../x", "/etc/passwd", "a/../../b", "C:\\x.engine",
                                         "a\\..\\b", "", ".hidden", "a/", "a//b", "a/.b",
                                         std::string("a\0b", 3), std::string(256, 'a'), "é"));

TEST(Manifest, TextThatIsNoJsonIsRefused) {
    const std::string deep(100'000, '[');
    for (const auto& text : {std::string("{"), std::string("[1]"), deep, std::string("\0\xff", 2),
                             std::string(), std::string("{\"a\": 1e999}"),
                             std::string("{\"a\": NaN}"), std::string("\"\xc3\x28\"")}) {
        expect_error(ErrorCode::kDamaged, "is damaged", [&] { Manifest::parse(text, "x"); });
    }
    expect_error(ErrorCode::kDamaged, "nest more than 64 deep",
                 [&] { Manifest::parse(deep, "x"); });
}

TEST(Manifest, MessagesStayShortWhateverTheTextHolds) {
    const std::string endless = "{\"version\": \"" + std::string(1'000'000, 'x');
    try {
        Manifest::parse(endless, "x");
        FAIL();
    } catch (const Error& error) {
        EXPECT_LT(std::string(error.what()).size(), 500U);
    }
}

/// The artifact that make_artifacts.py wrote, in a copy that tests may spoil.
class ManifestFiles : public testing::Test {
protected:
    ArtifactCopy copy_{"single"};
    [[nodiscard]] Manifest read() const { return Manifest::read(copy_.folder()); }
};

TEST_F(ManifestFiles, AsBuiltAreVerified) {
    const auto manifest = read();
    EXPECT_EQ(manifest.verify_file("model.onnx"), copy_.file("model.onnx"));
    EXPECT_EQ(manifest.read_verified("model.onnx").size(),
              std::filesystem::file_size(copy_.file("model.onnx")));
}

TEST_F(ManifestFiles, OneChangedByteIsFound) {
    const auto manifest = read();
    const auto path = copy_.file("model.onnx");
    std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(20).put('\x7f');
    file.close();
    const auto message = "'" + path.string() +
                         "' was changed after it was built: expected sha256 " +
                         manifest.files.at("model.onnx");
    expect_error(ErrorCode::kDamaged, message, [&] { (void)manifest.verify_file("model.onnx"); });
    expect_error(ErrorCode::kDamaged, message, [&] { (void)manifest.read_verified("model.onnx"); });
}

TEST_F(ManifestFiles, MissingUnlistedOrOutsideAreRefused) {
    const auto manifest = read();
    expect_error(ErrorCode::kDamaged, "is not in the manifest, which lists golden.npz, model.onnx",
                 [&] { (void)manifest.verify_file("other.engine"); });
    expect_error(ErrorCode::kDamaged, "is refused: expected a plain name",
                 [&] { (void)manifest.verify_file("../artifact/model.onnx"); });
    const auto path = copy_.file("model.onnx"), outside = copy_.folder().parent_path() / "x.onnx";
    std::filesystem::rename(path, outside);
    expect_error(ErrorCode::kNotFound, "is missing though the manifest lists it",
                 [&] { (void)manifest.verify_file("model.onnx"); });
    std::filesystem::create_symlink(outside, path);
    expect_error(ErrorCode::kDamaged, "is a link to",
                 [&] { (void)manifest.read_verified("model.onnx"); });
}

TEST_F(ManifestFiles, LinksInsideTheFolderAreFollowed) {
    const auto manifest = read();
    std::filesystem::rename(copy_.file("model.onnx"), copy_.file("real.onnx"));
    std::filesystem::create_symlink("real.onnx", copy_.file("model.onnx"));
    EXPECT_EQ(manifest.verify_file("model.onnx"), copy_.file("model.onnx"));
}

TEST_F(ManifestFiles, AHugeManifestIsRefusedUnread) {
    std::filesystem::resize_file(copy_.file("manifest.json"), std::uintmax_t{1} << 30U);  // sparse
    expect_error(ErrorCode::kDamaged, "is no manifest: expected at most 64 MiB, got more",
                 [&] { (void)read(); });
}

TEST_F(ManifestFiles, AFolderWithoutOneIsNamed) {
    const auto folder = copy_.folder().parent_path();
    const auto message = "'" + folder.string() + "' is no artifact folder: it has no manifest.json";
    expect_error(ErrorCode::kNotFound, message, [&] { Manifest::read(folder); });
    expect_error(ErrorCode::kNotFound, "is no artifact folder",
                 [&] { Manifest::read(folder / "nothing"); });
}

}  // namespace
}  // namespace segvit::test
