#include "tensorrt_entry.hpp"

#include <gtest/gtest.h>

namespace segvit {
namespace {

Manifest make_manifest() {
    Manifest manifest;
    manifest.folder = "artifacts/mine";
    manifest.targets = {
        {"trt-rtx", "1.6.0.9", {"SM86", "SM89"}, "old.engine"},
        {"ort", "1.32.0", {}, "model.onnx"},
        {"trt-rtx", "1.7.1.116", {"SM86", "SM89"}, "new.engine"},
        {"trt-rtx", "1.7.1.116", {"SM75"}, "turing.engine"},
        {"trt", "10.16.0.72", {"SM90"}, "trt.engine"},
    };
    return manifest;
}

std::string refusal(Target target, const std::string& capability, const std::string& version) {
    try {
        (void)find_engine(make_manifest(), target, capability, version);
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kIncompatible);
        return error.what();
    }
    return {};
}

TEST(Entry, NewestOfTheGpuIsTaken) {
    const auto manifest = make_manifest();
    EXPECT_EQ(find_engine(manifest, Target::kTensorRtRtx, "SM89", "1.7.1.116").file, "new.engine");
    EXPECT_EQ(find_engine(manifest, Target::kTensorRtRtx, "SM75", "1.7.1.116").file,
              "turing.engine");
    EXPECT_EQ(find_engine(manifest, Target::kTensorRt, "SM90", "10.16.0.72").file, "trt.engine");
}

TEST(Entry, AnotherGpuNamesTheCommand) {
    EXPECT_EQ(refusal(Target::kTensorRtRtx, "SM120", "1.7.1.116"),
              "'artifacts/mine' holds trt-rtx engines for SM75, SM86, SM89, and this GPU is SM120; "
              "build it: python -m engines.build --artifact artifacts/mine --target trt-rtx "
              "--compute-capability SM120");
    EXPECT_EQ(refusal(Target::kTensorRt, "SM89", "10.16.0.72"),
              "'artifacts/mine' holds trt engines for SM90, and this GPU is SM89; build it: python "
              "-m engines.build --artifact artifacts/mine --target trt");
}

TEST(Entry, AnotherVersionNamesBoth) {
    EXPECT_EQ(refusal(Target::kTensorRt, "SM90", "11.4.0.106"),
              "'artifacts/mine/trt.engine' was built by trt 10.16.0.72, installed is 11.4.0.106; "
              "install that version, or rebuild it: python -m engines.build --artifact "
              "artifacts/mine --target trt");
}

TEST(Entry, NoneAtAllIsSaid) {
    auto manifest = make_manifest();
    manifest.targets.clear();
    EXPECT_THROW((void)find_engine(manifest, Target::kTensorRt, "SM90", "10.16.0.72"), Error);
}

}  // namespace
}  // namespace segvit
