/// The caller's memory: what is refused, and that rows are found by their stride.
#include "views.hpp"

#include <gtest/gtest.h>

#include "artifacts.hpp"

namespace segvit::test {
namespace {

constexpr auto kInvalid = ErrorCode::kInvalidArgument;

TEST(Images, ThatDoNotFitAreNamed) {
    const auto pixels = make_pixels(0);
    const auto good = view_of(pixels);
    const auto check = [&](const std::string& message, const ImageView& bad) {
        expect_error(kInvalid, "images[1]: " + message, [&] {
            check_images(std::vector{good, bad}, kHeight, kWidth);
        });
    };
    check("expected memory, got a null pointer", {nullptr, kHeight, kWidth, 0});
    check("expected height 24 and width 40 as the engine has, got 24 and 39; resize it",
          {pixels.data(), kHeight, 39, 0});
    check("expected height 24", {pixels.data(), -24, kWidth, 0});
    check("expected a stride of at least 120 bytes (a row) or 0, got 119",
          {pixels.data(), kHeight, kWidth, 119});
    check("expected a stride of at least 120", {pixels.data(), kHeight, kWidth, -119});
    expect_error(kInvalid, "images: expected at least one, got none",
                 [] { check_images({}, kHeight, kWidth); });
    check_images(std::vector{good, good}, kHeight, kWidth);
}

TEST(Labels, ThatDoNotFitAreNamed) {
    LabelMap map(kHeight, kWidth, 1);
    const auto good = map.view();
    const auto check = [&](const std::string& message, const LabelView& bad) {
        expect_error(kInvalid, "labels[1]: " + message, [&] {
            check_labels(std::vector{good, bad}, 2, kHeight, kWidth, 1);
        });
    };
    check("expected memory, got a null pointer", {nullptr, kHeight, kWidth, 1, 0});
    check("expected height 24", {good.data, 23, kWidth, 1, 0});
    check("expected a stride of at least 40 bytes", {good.data, kHeight, kWidth, 1, 39});
    check("expected label_bytes 1, got 4", {good.data, kHeight, kWidth, 4, 0});
    expect_error(kInvalid, "labels: expected one for each of 2 images, got 1",
                 [&] { check_labels(std::vector{good}, 2, kHeight, kWidth, 1); });
}

TEST(Images, AreCopiedByTheirStride) {
    const std::vector<std::uint8_t> rows{1, 2, 3, 0, 0, 4, 5, 6, 0, 0};
    std::array<std::uint8_t, 6> to{};
    copy_image({rows.data(), 2, 1, 5}, to.data());
    EXPECT_EQ(to, (std::array<std::uint8_t, 6>{1, 2, 3, 4, 5, 6}));
    copy_image({rows.data() + 5, 2, 1, -5}, to.data());
    EXPECT_EQ(to, (std::array<std::uint8_t, 6>{4, 5, 6, 1, 2, 3}));
}

TEST(Labels, AreCopiedByTheirStride) {
    const std::array<std::byte, 4> from{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
    std::array<std::uint8_t, 7> to{};
    copy_labels(from.data(), {to.data(), 2, 2, 1, 5});
    EXPECT_EQ(to, (std::array<std::uint8_t, 7>{1, 2, 0, 0, 0, 3, 4}));
    // Four bytes a label, at an odd address.
    copy_labels(from.data(), {to.data() + 1, 1, 1, 4, 0});
    EXPECT_EQ(to, (std::array<std::uint8_t, 7>{1, 1, 2, 3, 4, 3, 4}));
}

TEST(LabelMaps, AreReadByPixel) {
    LabelMap map(2, 3, 4);
    EXPECT_EQ(map.bytes().size(), 24U);
    static_cast<std::int32_t*>(map.view().data)[5] = 299;
    EXPECT_EQ(map.at(1, 2), 299);
    expect_error(kInvalid, "within 2 rows and 3 columns, got row 2, column 0",
                 [&] { (void)map.at(2, 0); });
    expect_error(kInvalid, "got row 0, column -1", [&] { (void)map.at(0, -1); });
    expect_error(kInvalid, "1 or 4 bytes a label, got 1, 1 and 2", [] { (void)LabelMap(1, 1, 2); });
    EXPECT_TRUE(LabelMap().bytes().empty());
}

}  // namespace
}  // namespace segvit::test
