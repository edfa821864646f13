#include "tensorrt_cache.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <system_error>

namespace segvit {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> bytes(std::string_view text) {
    std::vector<std::byte> data;
    for (const char one : text) data.push_back(static_cast<std::byte>(one));
    return data;
}

class Cache : public ::testing::Test {
protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "segvit-cache-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        base_ = name;
        ASSERT_EQ(::setenv("XDG_CACHE_HOME", base_.c_str(), 1), 0);
        path_ = find_runtime_cache("abc", "SM89");
    }
    void TearDown() override {
        (void)::unsetenv("XDG_CACHE_HOME");
        fs::remove_all(base_);
    }

    fs::path base_, path_;
};

TEST_F(Cache, IsWherePythonKeepsIt) {
    EXPECT_EQ(path_, base_ / "segvit" / "tensorrt-rtx" / "abc-sm89.runtime_cache");
}

TEST_F(Cache, IsReadAsWrittenAndNobodyElseMayWriteIt) {
    EXPECT_TRUE(read_runtime_cache(path_).empty());
    for (const auto* const text : {"kernels", "more kernels"}) {
        write_runtime_cache(path_, bytes(text));
        EXPECT_EQ(read_runtime_cache(path_), bytes(text));
    }
    EXPECT_EQ(fs::status(path_.parent_path()).permissions(), fs::perms::owner_all);
    EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_read | fs::perms::owner_write);
    EXPECT_EQ(std::distance(fs::directory_iterator(path_.parent_path()), {}), 1);
}

TEST_F(Cache, IsNotTrustedWhereOthersMayWrite) {
    write_runtime_cache(path_, bytes("kernels"));
    fs::permissions(path_, fs::perms::others_write, fs::perm_options::add);
    EXPECT_TRUE(read_runtime_cache(path_).empty());
    write_runtime_cache(path_, bytes("kernels"));
    fs::permissions(path_.parent_path(), fs::perms::group_write, fs::perm_options::add);
    EXPECT_TRUE(read_runtime_cache(path_).empty());
    EXPECT_THROW(write_runtime_cache(path_, bytes("kernels")), std::system_error);
}

TEST_F(Cache, IsNotReadThroughALink) {
    write_runtime_cache(path_, bytes("kernels"));
    fs::rename(path_, base_ / "elsewhere");
    fs::create_symlink(base_ / "elsewhere", path_);
    EXPECT_TRUE(read_runtime_cache(path_).empty());
}

TEST_F(Cache, OfUnlikelySizeIsNotRead) {
    write_runtime_cache(path_, {});
    fs::resize_file(path_, (std::uintmax_t{1} << 30U) + 1);
    EXPECT_TRUE(read_runtime_cache(path_).empty());
}

TEST_F(Cache, WithoutAHomeIsNotKept) {
    const char* const home = std::getenv("HOME");
    const std::string kept = home == nullptr ? "/" : home;
    (void)::unsetenv("XDG_CACHE_HOME");
    (void)::unsetenv("HOME");
    EXPECT_TRUE(find_runtime_cache("abc", "SM89").empty());
    (void)::setenv("HOME", kept.c_str(), 1);
    EXPECT_TRUE(read_runtime_cache({}).empty());
    EXPECT_NO_THROW(write_runtime_cache({}, bytes("kernels")));
}

}  // namespace
}  // namespace segvit
