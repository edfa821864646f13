/// What app_make_cases.py wrote: pictures, and the arrays that Python makes of them.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "app/files.hpp"
#include "app/npz_file.hpp"

namespace segvit::app {

inline const std::filesystem::path kCases = SEGVIT_IMAGE_CASES;

inline Array expected(const std::string& name) {
    static const std::vector<std::byte> archive = read_file(kCases / "expected.npz");
    return read_npz(archive, name, "expected.npz");
}

inline Image expected_image(const std::string& name) {
    const Array array = expected(name);
    Image image{static_cast<int>(array.shape.at(0)), static_cast<int>(array.shape.at(1)),
                std::vector<std::uint8_t>(array.data.size())};
    std::memcpy(image.pixels.data(), array.data.data(), array.data.size());
    return image;
}

inline Labels expected_labels(const std::string& name) {
    const Array array = expected(name);
    Labels labels{static_cast<int>(array.shape.at(0)), static_cast<int>(array.shape.at(1)), {}};
    std::transform(array.data.begin(), array.data.end(), std::back_inserter(labels.ids),
                   [](std::byte id) { return std::to_integer<std::uint16_t>(id); });
    return labels;
}

/// Returns the message of the `Error` of a code that an action throws; fails without one.
inline std::string error_of(ErrorCode code, const std::function<void()>& action) {
    try {
        action();
    } catch (const Error& error) {
        EXPECT_EQ(error.code(), code) << error.what();
        return error.what();
    }
    ADD_FAILURE() << "nothing was thrown";
    return {};
}

/// An empty folder of this test's own, gone after it.
class TemporaryFolder {
public:
    TemporaryFolder()
        : path_(std::filesystem::temp_directory_path() /
                ("segvit_" +
                 std::string(::testing::UnitTest::GetInstance()->current_test_info()->name()) +
                 "_" + std::to_string(getpid()))) {
        std::filesystem::create_directories(path_);
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    TemporaryFolder(TemporaryFolder&&) = delete;
    TemporaryFolder& operator=(TemporaryFolder&&) = delete;
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    [[nodiscard]] const std::filesystem::path& path() const { return path_; }

private:
    std::filesystem::path path_;
};

}  // namespace segvit::app
