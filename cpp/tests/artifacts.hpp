/// The artifacts of make_artifacts.py, and what their labels are.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "segvit/segmenter.hpp"

namespace segvit::test {

inline constexpr int kHeight = 24, kWidth = 40;

inline std::filesystem::path artifact(const std::string& name) {
    return std::filesystem::path(SEGVIT_TEST_ARTIFACTS) / name;
}

/// Pixels that differ from image to image and from row to row.
inline std::vector<std::uint8_t> make_pixels(unsigned seed) {
    std::vector<std::uint8_t> pixels(static_cast<std::size_t>(kHeight * kWidth * 3));
    unsigned state = 2654435761U * (seed + 1);
    for (auto& value : pixels) {
        state = state * 1664525U + 1013904223U;
        value = static_cast<std::uint8_t>(state >> 24U);
    }
    return pixels;
}

inline ImageView view_of(const std::vector<std::uint8_t>& pixels) {
    return {.data = pixels.data(), .height = kHeight, .width = kWidth, .stride = 0};
}

/// The class with the largest sum, as make_artifacts.py has it.
inline int expected_label(const std::uint8_t* pixel, int classes) {
    int best = 0, best_sum = INT32_MIN;
    for (int k = 0; k < classes; ++k) {
        int sum = k;
        for (int c = 0; c < 3; ++c) sum += pixel[c] * ((5 * c + 3 * k * k + 7) % 17 - 8);
        if (sum > best_sum) {
            best = k;
            best_sum = sum;
        }
    }
    return best;
}

inline void expect_labels(const LabelMap& labels, const std::vector<std::uint8_t>& pixels,
                          int classes = 8) {
    ASSERT_EQ(labels.height(), kHeight);
    ASSERT_EQ(labels.width(), kWidth);
    int wrong = 0;
    for (int row = 0; row < kHeight; ++row) {
        for (int column = 0; column < kWidth; ++column) {
            const auto* pixel = pixels.data() + (row * kWidth + column) * 3;
            wrong += labels.at(row, column) != expected_label(pixel, classes) ? 1 : 0;
        }
    }
    EXPECT_EQ(wrong, 0);
}

/// Expects `call` to throw an `Error` of a code whose message has `part` in it.
template <typename Call>
void expect_error(ErrorCode code, const std::string& part, Call call) {
    try {
        call();
        FAIL() << "nothing was thrown";
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
            << "expected '" << part << "' in: " << error.what();
    }
}

/// A copy of an artifact in a folder that goes with the test.
class ArtifactCopy {
public:
    explicit ArtifactCopy(const std::string& name) {
        const auto* info = testing::UnitTest::GetInstance()->current_test_info();
        std::string unique = std::string(info->test_suite_name()) + "." + info->name();
        for (auto& c : unique) c = c == '/' ? '-' : c;
        parent_ = std::filesystem::path(testing::TempDir()) / ("segvit-" + unique);
        std::filesystem::remove_all(parent_);
        std::filesystem::create_directories(parent_);
        std::filesystem::copy(artifact(name), folder(), std::filesystem::copy_options::recursive);
    }
    ~ArtifactCopy() { std::filesystem::remove_all(parent_); }
    ArtifactCopy(const ArtifactCopy&) = delete;
    ArtifactCopy& operator=(const ArtifactCopy&) = delete;

    [[nodiscard]] std::filesystem::path folder() const { return parent_ / "artifact"; }
    [[nodiscard]] std::filesystem::path file(const std::string& name) const {
        return folder() / name;
    }

private:
    std::filesystem::path parent_;
};

}  // namespace segvit::test
