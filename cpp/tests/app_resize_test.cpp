#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "app/overlay.hpp"
#include "app/resize.hpp"
#include "app_cases.hpp"

namespace segvit::app {
namespace {

constexpr std::array<std::pair<int, int>, 5> kSizes{
    {{64, 64}, {32, 32}, {33, 100}, {128, 128}, {1, 7}}};

std::string suffix(int height, int width) {
    return "_" + std::to_string(height) + "x" + std::to_string(width);
}

int largest_difference(const std::vector<std::uint8_t>& left,
                       const std::vector<std::uint8_t>& right) {
    EXPECT_EQ(left.size(), right.size());
    int largest = 0;
    for (std::size_t i = 0; i < std::min(left.size(), right.size()); ++i) {
        largest = std::max(largest, std::abs(left[i] - right[i]));
    }
    return largest;
}

TEST(ResizeImage, EqualsOpenCv) {
    const Image image = expected_image("image");
    for (const auto& [height, width] : kSizes) {
        SCOPED_TRACE(suffix(height, width));
        const Image wanted = expected_image("image" + suffix(height, width));
        const Image resized = resize_image(image, height, width);
        EXPECT_EQ(resized.height, height);
        EXPECT_EQ(resized.width, width);
        // Equal on x86-64; OpenCV may take another path of its own elsewhere, rounded otherwise.
#if defined(__x86_64__)
        EXPECT_EQ(largest_difference(resized.pixels, wanted.pixels), 0);
#else
        EXPECT_LE(largest_difference(resized.pixels, wanted.pixels), 1);
#endif
    }
}

TEST(ResizeLabels, EqualsPython) {
    const Labels labels = expected_labels("labels");
    for (const auto& [height, width] : kSizes) {
        SCOPED_TRACE(suffix(height, width));
        const Labels wanted = expected_labels("labels" + suffix(height, width));
        const Labels resized = resize_labels(labels, height, width);
        EXPECT_EQ(resized.height, height);
        EXPECT_EQ(resized.width, width);
        EXPECT_EQ(resized.ids, wanted.ids);
    }
}

TEST(DrawOverlay, BlendsAsOpenCvDoes) {
    const Image image = expected_image("image");
    const Labels labels = expected_labels("labels");
    const std::vector<ClassInfo> classes{
        {"a", {200, 30, 40}}, {"b", {10, 220, 90}}, {"c", {60, 70, 250}}};
    for (const int percent : {0, 30, 50, 100}) {
        SCOPED_TRACE(percent);
        const Image wanted = expected_image("overlay_" + std::to_string(percent));
        const Image drawn = draw_overlay(image, labels, classes, percent / 100.0);
        // The weights are floats, and OpenCV may fuse product and sum.
        EXPECT_LE(largest_difference(drawn.pixels, wanted.pixels), 1);
    }
}

TEST(DrawOverlay, LeavesPixelsWithoutAClassAsTheyAre) {
    const Image image{1, 2, {10, 20, 30, 40, 50, 60}};
    const Image drawn = draw_overlay(image, {1, 2, {7, 0}}, {{"a", {200, 30, 40}}}, 1.0);
    EXPECT_EQ(drawn.pixels, (std::vector<std::uint8_t>{10, 20, 30, 200, 30, 40}));
}

TEST(ClassShares, CountsPixelsOfKnownClasses) {
    EXPECT_EQ(class_shares({2, 2, {0, 1, 1, 9}}, 3), (std::vector<double>{0.25, 0.5, 0.0}));
}

}  // namespace
}  // namespace segvit::app
