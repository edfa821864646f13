/// Labels of OpenVINO, pixel for pixel, and a segmenter that stays usable whatever it is given.
#include "segvit/segmenter.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>

#include "artifacts.hpp"

namespace segvit::test {
namespace {

TEST(Segmenter, KnowsItsEngine) {
    const auto segmenter = Segmenter::load(artifact("range"));
    EXPECT_EQ(segmenter.target(), Target::kOpenVino);
    EXPECT_EQ(segmenter.height(), kHeight);
    EXPECT_EQ(segmenter.width(), kWidth);
    EXPECT_EQ(segmenter.label_bytes(), 1);
    EXPECT_EQ(segmenter.batch().smallest, 1);
    EXPECT_EQ(segmenter.batch().typical, 2);
    EXPECT_EQ(segmenter.batch().largest, 4);
    ASSERT_EQ(segmenter.classes().size(), 8U);
    EXPECT_EQ(segmenter.classes()[3].name, "class 3");
    EXPECT_EQ(segmenter.classes()[3].colour.green, 6);
    ASSERT_EQ(segmenter.notes().size(), 2U);
    EXPECT_EQ(segmenter.notes()[0].rfind("trt: ", 0), 0U);
    EXPECT_EQ(segmenter.notes()[1].rfind("trt-rtx: ", 0), 0U);
}

class EveryArtifact : public testing::TestWithParam<const char*> {};

TEST_P(EveryArtifact, GivesTheLabelsOfTheSums) {
    const auto segmenter = Segmenter::load(artifact(GetParam()), {.target = Target::kOpenVino});
    const auto classes = static_cast<int>(segmenter.classes().size());
    EXPECT_EQ(segmenter.label_bytes(), classes > 256 ? 4 : 1);
    std::vector<std::vector<std::uint8_t>> pixels;
    std::vector<ImageView> images;
    for (unsigned i = 0; i < 7; ++i) pixels.push_back(make_pixels(i));
    for (const auto& one : pixels) images.push_back(view_of(one));
    // Seven: above the largest batch of all of them, and no multiple of any.
    const auto labels = segmenter.segment(images);
    ASSERT_EQ(labels.size(), images.size());
    for (std::size_t i = 0; i < images.size(); ++i) expect_labels(labels[i], pixels[i], classes);
    expect_labels(segmenter.segment(images[5]), pixels[5], classes);
}

INSTANTIATE_TEST_SUITE_P(Kinds, EveryArtifact,
                         testing::Values("single", "range", "four", "wide", "external"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(Segmenter, WideLabelsGoAbove255) {
    const auto segmenter = Segmenter::load(artifact("wide"));
    const auto pixels = make_pixels(1);
    const auto labels = segmenter.segment(view_of(pixels));
    int largest = 0;
    for (int column = 0; column < kWidth; ++column)
        largest = std::max(largest, labels.at(0, column));
    EXPECT_GT(largest, 255);
}

TEST(Segmenter, WritesIntoMemoryWithGaps) {
    const auto segmenter = Segmenter::load(artifact("single"));
    const auto pixels = make_pixels(2);
    constexpr std::size_t kImageStride = kWidth * 3 + 5, kLabelStride = kWidth + 3;
    std::vector<std::uint8_t> spaced(kImageStride * kHeight), labels(kLabelStride * kHeight, 0xEE);
    for (std::size_t y = 0; y < kHeight; ++y) {
        std::memcpy(spaced.data() + y * kImageStride, pixels.data() + y * kWidth * 3, kWidth * 3);
    }
    const ImageView image{spaced.data(), kHeight, kWidth, kImageStride};
    const LabelView view{labels.data(), kHeight, kWidth, 1, kLabelStride};
    segmenter.segment_into(std::span(&image, 1), std::span(&view, 1));
    const auto expected = segmenter.segment(view_of(pixels));
    for (int y = 0; y < kHeight; ++y) {
        const auto* row = labels.data() + static_cast<std::size_t>(y) * kLabelStride;
        for (int x = 0; x < kWidth; ++x) ASSERT_EQ(row[x], expected.at(y, x));
        for (std::size_t x = kWidth; x < kLabelStride; ++x) ASSERT_EQ(row[x], 0xEE);
    }
}

TEST(Segmenter, StaysUsableAfterEveryBadInput) {
    const auto segmenter = Segmenter::load(artifact("single"));
    const auto pixels = make_pixels(3);
    const auto good = view_of(pixels);
    LabelMap map(kHeight, kWidth, 1);
    const auto view = map.view();
    const auto refuses = [&](const std::string& message, auto call) {
        expect_error(ErrorCode::kInvalidArgument, message, call);
        expect_labels(segmenter.segment(good), pixels);
    };
    refuses("null pointer", [&] {
        (void)segmenter.segment(ImageView{nullptr, kHeight, kWidth, 0});
    });
    refuses("expected height 24 and width 40 as the engine has, got 40 and 24", [&] {
        (void)segmenter.segment(ImageView{pixels.data(), kWidth, kHeight, 0});
    });
    refuses("expected a stride of at least 120", [&] {
        (void)segmenter.segment(ImageView{pixels.data(), kHeight, kWidth, 40});
    });
    refuses("expected at least one, got none",
            [&] { (void)segmenter.segment(std::span<const ImageView>{}); });
    refuses("expected at least one, got none",
            [&] { (void)segmenter.segment_async(std::vector<ImageView>{}).get(); });
    refuses("expected one for each of 1 images, got 0",
            [&] { segmenter.segment_into(std::span(&good, 1), {}); });
    const LabelView wide{map.view().data, kHeight, kWidth, 4, 0};
    refuses("expected label_bytes 1, got 4",
            [&] { segmenter.segment_into(std::span(&good, 1), std::span(&wide, 1)); });
    const LabelView narrow{map.view().data, kHeight, kWidth, 1, 39};
    refuses("expected a stride of at least 40",
            [&] { segmenter.segment_into(std::span(&good, 1), std::span(&narrow, 1)); });
    const ImageView bad[] = {good, ImageView{}};
    const LabelView two[] = {view, view};
    refuses("images[1]: expected memory, got a null pointer",
            [&] { segmenter.segment_into(bad, two); });
}

class Instances : public testing::TestWithParam<int> {};

TEST_P(Instances, ServeManyThreads) {
    const auto segmenter = Segmenter::load(artifact("range"), {.instances = GetParam()});
    segmenter.warm_up();
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            for (unsigned i = 0; i < 20; ++i) {
                const auto pixels = make_pixels(100 * t + i);
                expect_labels(segmenter.segment(view_of(pixels)), pixels);
            }
        });
    }
    for (auto& thread : threads) thread.join();
}

INSTANTIATE_TEST_SUITE_P(OneAndMore, Instances, testing::Values(1, 3));

TEST(Segmenter, AnswersAsynchronously) {
    const auto segmenter = Segmenter::load(artifact("four"), {.threads = 1, .instances = 2});
    const auto first = make_pixels(4), second = make_pixels(5);
    auto one = segmenter.segment_async(view_of(first));
    auto both = segmenter.segment_async({view_of(first), view_of(second)});
    expect_labels(one.get(), first);
    const auto labels = both.get();
    ASSERT_EQ(labels.size(), 2U);
    expect_labels(labels[1], second);
}

TEST(Segmenter, ClosesWhileOthersCall) {
    auto segmenter = Segmenter::load(artifact("single"), {.instances = 2});
    const auto pixels = make_pixels(6);
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
        threads.emplace_back([&] {
            try {
                for (;;) expect_labels(segmenter.segment(view_of(pixels)), pixels);
            } catch (const Error& error) {
                EXPECT_EQ(error.code(), ErrorCode::kClosed);
            }
        });
    }
    (void)segmenter.segment(view_of(pixels));
    segmenter.close();
    for (auto& thread : threads) thread.join();
    segmenter.close();
    EXPECT_EQ(segmenter.height(), kHeight);
}

TEST(Segmenter, MovesAndLeavesAShell) {
    auto first = Segmenter::load(artifact("single"));
    auto second = std::move(first);
    const auto pixels = make_pixels(8);
    expect_labels(second.segment(view_of(pixels)), pixels);
    // NOLINTBEGIN(bugprone-use-after-move,clang-analyzer-cplusplus.Move): what it does then is what
    // is tested
    expect_error(ErrorCode::kClosed, "was moved from",
                 [&] { (void)first.segment(view_of(pixels)); });
    expect_error(ErrorCode::kClosed, "was moved from", [&] { (void)first.classes(); });
    first.close();
    // NOLINTEND(bugprone-use-after-move,clang-analyzer-cplusplus.Move)
    first = std::move(second);
    expect_labels(first.segment(view_of(pixels)), pixels);
}

TEST(Targets, HaveNames) {
    for (const auto* name : {"auto", "trt", "trt-rtx", "openvino"}) {
        EXPECT_EQ(name_of(parse_target(name)), name);
    }
    expect_error(ErrorCode::kInvalidArgument,
                 "target 'cuda' is unknown: expected one of auto, trt, trt-rtx, openvino",
                 [] { (void)parse_target("cuda"); });
    const auto available = available_targets();
    EXPECT_EQ(available.back(), Target::kOpenVino);
}

}  // namespace
}  // namespace segvit::test
