#include <gtest/gtest.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "app_cases.hpp"

namespace segvit::app {
namespace {

using ::testing::IsSubstring;

namespace fs = std::filesystem;

void write_text(const fs::path& path, std::string_view text) {
    write_file(path, std::as_bytes(std::span(text)));
}

TEST(WriteFile, ReplacesAndLeavesNothingBeside) {
    const TemporaryFolder folder;
    write_text(folder.path() / "a", "older and longer");
    write_text(folder.path() / "a", "new");
    EXPECT_EQ(read_file(folder.path() / "a").size(), 3U);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(WriteFile, NamesTheFileThatCannotBeWritten) {
    const TemporaryFolder folder;
    const fs::path path = folder.path() / "none" / "a";
    EXPECT_EQ(error_of(ErrorCode::kRuntime, [&] { write_text(path, "x"); }),
              "'" + path.string() + "': No such file or directory");
    fs::create_directories(folder.path() / "taken" / "inside");
    EXPECT_PRED_FORMAT2(IsSubstring, "': Is a directory", error_of(ErrorCode::kRuntime, [&] {
                            write_text(folder.path() / "taken", "x");
                        }));
    EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
}

TEST(MakeFolder, RefusesAFileInItsPlace) {
    const TemporaryFolder folder;
    write_text(folder.path() / "a", "mine");
    EXPECT_EQ(
        error_of(ErrorCode::kRuntime, [&] { make_folder(folder.path() / "a"); }),
        "'" + (folder.path() / "a").string() + "': is a file, expected a folder for the output");
    error_of(ErrorCode::kRuntime, [&] { make_folder(folder.path() / "a" / "b"); });
    EXPECT_NO_THROW(make_folder(folder.path() / "b" / "c"));
    EXPECT_TRUE(fs::is_directory(folder.path() / "b" / "c"));
}

TEST(FindImages, TakesFilesAndFoldersEachOnce) {
    const TemporaryFolder folder;
    for (const char* name : {"b.PNG", "a.jpg", "c.txt", "d.jpeg"}) {
        write_text(folder.path() / name, "x");
    }
    fs::create_directories(folder.path() / "inside.png");
    const std::string root = folder.path().string();
    EXPECT_EQ(find_images({root + "/d.jpeg", root, root + "/c.txt"}),
              (std::vector<fs::path>{root + "/d.jpeg", root + "/a.jpg", root + "/b.PNG",
                                     root + "/c.txt"}));
}

TEST(FindImages, SaysWhatIsNotThere) {
    const TemporaryFolder folder;
    const std::string root = folder.path().string();
    EXPECT_EQ(error_of(ErrorCode::kNotFound, [&] { (void)find_images({root + "/x.png"}); }),
              "'" + root + "/x.png': no such image or folder");
    EXPECT_EQ(error_of(ErrorCode::kInvalidArgument, [&] { (void)find_images({root}); }),
              "'" + root + "' holds no images; expected files ending in .jpeg .jpg .png");
}

}  // namespace
}  // namespace segvit::app
