/// Artifacts that do not open, each with its reason, and that others open all the same.
#include <gtest/gtest.h>

#include <fstream>

#include "artifacts.hpp"
#include "manifest_edit.hpp"
#include "segvit/segmenter.hpp"

namespace segvit::test {
namespace {

using nlohmann::json;

class Load : public testing::Test {
protected:
    void refuses(ErrorCode code, const std::string& message, const Options& options = {}) const {
        expect_error(code, message, [&] { (void)Segmenter::load(copy_.folder(), options); });
    }
    template <typename How>
    void edit(How how) const {
        edit_manifest(copy_.folder(), how);
    }

    ArtifactCopy copy_{"single"};
};

TEST_F(Load, FindsWhatIsMissing) {
    expect_error(ErrorCode::kNotFound, "is no artifact folder: it has no manifest.json",
                 [&] { (void)Segmenter::load(copy_.folder() / "nothing"); });
    std::filesystem::remove(copy_.file("model.onnx"));
    refuses(ErrorCode::kNotFound, "model.onnx' is missing though the manifest lists it");
}

TEST_F(Load, FindsWhatWasAltered) {
    std::ofstream(copy_.file("model.onnx"), std::ios::app) << 'x';
    refuses(ErrorCode::kDamaged, "model.onnx' was changed after it was built: expected sha256");
}

TEST_F(Load, NeverFollowsANameOutOfTheFolder) {
    std::filesystem::copy(copy_.file("model.onnx"), copy_.folder().parent_path() / "x");
    edit([](json& v) {
        v["files"]["../x"] = v["files"]["model.onnx"];
        v["targets"][0]["file"] = "../x";
    });
    refuses(ErrorCode::kDamaged, "file name '../x' is refused: expected a plain name");
}

TEST_F(Load, RefusesAHugeManifest) {
    std::filesystem::resize_file(copy_.file("manifest.json"), std::uintmax_t{1} << 30U);
    refuses(ErrorCode::kDamaged, "expected at most 64 MiB, got more");
}

TEST_F(Load, RefusesDeepJson) {
    write_text(copy_.file("manifest.json"), std::string(1'000'000, '['));
    refuses(ErrorCode::kDamaged, "nest more than 64 deep");
}

TEST_F(Load, RefusesAnotherSchema) {
    edit([](json& v) { v["schema"] = 2; });
    refuses(ErrorCode::kIncompatible, "expected schema 1, got 2");
}

TEST_F(Load, RefusesOptionsOutOfRange) {
    refuses(ErrorCode::kInvalidArgument, "options.instances: expected 1 to 256, got 0",
            {.instances = 0});
    refuses(ErrorCode::kInvalidArgument, "options.threads: expected 0 to 4096, got -1",
            {.threads = -1});
    refuses(ErrorCode::kInvalidArgument, "options.device: expected 0 to 1023, got -2",
            {.device = -2});
}

TEST_F(Load, RefusesAnotherDigestThanTheOneAskedFor) {
    refuses(ErrorCode::kDamaged, "is not the artifact that was asked for: expected digest aaaa",
            {.digest = std::string(64, 'a')});
    refuses(ErrorCode::kInvalidArgument, "got 0 characters", {.digest = ""});
}

TEST(LoadAddedEngine, RunsWhatWasAddedSinceTheBuild) {
    EXPECT_EQ(Segmenter::load(artifact("added")).target(), Target::kOpenVino);
}

TEST_F(Load, NamesTheCommandForATargetThatWasNotBuilt) {
    refuses(ErrorCode::kIncompatible,
            "holds no trt engine, only openvino; build it: python -m engines.build --artifact " +
                copy_.folder().string() + " --target trt",
            {.target = Target::kTensorRt});
}

TEST_F(Load, SaysWhyNothingRunsHere) {
    edit([](json& v) { v["targets"] = json::array(); });
    refuses(ErrorCode::kIncompatible, "holds nothing that runs here: trt: ");
    refuses(ErrorCode::kIncompatible, "; openvino: not built");
}

TEST_F(Load, PassesOverAnEngineThatCannotRunHere) {
    write_text(copy_.file("gpu.engine"), "x");
    edit([](json& v) {
        v["files"]["gpu.engine"] =
            "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881";
        v["targets"].push_back({{"target", "trt-rtx"},
                                {"version", "1.7.1.116"},
                                {"compute_capabilities", {"SM89"}},
                                {"file", "gpu.engine"}});
    });
    const auto segmenter = Segmenter::load(copy_.folder());
    EXPECT_EQ(segmenter.target(), Target::kOpenVino);
    EXPECT_EQ(segmenter.notes().at(1).rfind("trt-rtx: ", 0), 0U);
    refuses(ErrorCode::kIncompatible,
            "target 'trt-rtx' cannot run here: ", {.target = Target::kTensorRtRtx});
    // That it was altered is said on any machine.
    write_text(copy_.file("gpu.engine"), "y");
    refuses(ErrorCode::kDamaged, "gpu.engine' was changed after it was built",
            {.target = Target::kTensorRtRtx});
}

TEST(LoadUnknownOperator, IsRefusedInOpenVinosWords) {
    expect_error(ErrorCode::kIncompatible, "model.onnx' does not load on OpenVINO: ", [] {
        (void)Segmenter::load(artifact("unknown"));
    });
    expect_error(ErrorCode::kIncompatible, "NoSuchOperator",
                 [] { (void)Segmenter::load(artifact("unknown")); });
}

TEST_F(Load, RefusesAModelThatDoesNotFitItsManifest) {
    edit([](json& v) { v["input"]["shape"] = {1, 48, 40, 3}; });
    refuses(ErrorCode::kDamaged, "does not fit its manifest: its tensor 'image' is u8 [1,24,40,3]");
    edit([](json& v) {
        v["input"]["shape"] = {1, 24, 40, 3};
        v["batch"] = {1, 1, 4};
    });
    refuses(ErrorCode::kDamaged, "does not fit its manifest: its tensor 'image'");
    edit([](json& v) {
        v["batch"] = {1, 1, 1};
        v["outputs"][0]["dtype"] = "int32";
    });
    refuses(ErrorCode::kDamaged, "does not fit its manifest: its tensor 'labels' is u8");
    edit([](json& v) {
        v["outputs"][0]["dtype"] = "uint8";
        v["input"]["name"] = "pixels";
    });
    refuses(ErrorCode::kDamaged, "the manifest lists 'pixels'");
}

TEST(LoadScores, IsRefusedWithTheFix) {
    expect_error(ErrorCode::kIncompatible, "gives 'scores' of float32",
                 [] { (void)Segmenter::load(artifact("scores")); });
    expect_error(ErrorCode::kIncompatible, "build it with --output labels",
                 [] { (void)Segmenter::load(artifact("scores")); });
}

TEST(LoadExternalData, IsVerifiedToo) {
    const ArtifactCopy copy("external");
    std::fstream(copy.file("model.onnx.data"), std::ios::in | std::ios::out).put('\x01');
    expect_error(ErrorCode::kDamaged, "model.onnx.data' was changed after it was built",
                 [&] { (void)Segmenter::load(copy.folder()); });
}

}  // namespace
}  // namespace segvit::test
