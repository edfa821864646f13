#include <gtest/gtest.h>
#include <zip.h>

#include <string>
#include <string_view>

#include "app_cases.hpp"

namespace segvit::app {
namespace {

using ::testing::IsSubstring;

/// Returns a zip file, stored, of one entry.
std::vector<std::byte> write_zip(const TemporaryFolder& folder, const std::string& name,
                                 std::string_view content) {
    const std::string path = (folder.path() / "a.npz").string();
    zip_t* archive = zip_open(path.c_str(), ZIP_CREATE | ZIP_TRUNCATE, nullptr);
    zip_source_t* source = zip_source_buffer(archive, content.data(), content.size(), 0);
    const zip_int64_t index = zip_file_add(archive, name.c_str(), source, 0);
    zip_set_file_compression(archive, static_cast<zip_uint64_t>(index), ZIP_CM_STORE, 0);
    EXPECT_EQ(zip_close(archive), 0);
    return read_file(path);
}

/// Returns an array as NumPy writes it, version 1.
std::string write_npy(const std::string& header, const std::string& data) {
    std::string npy("\x93NUMPY\x01\x00", 8);
    npy += static_cast<char>(header.size());
    npy += '\0';
    return npy + header + data;
}

std::string reading_error(std::string_view npy, std::uint64_t max_bytes = kMaxArrayBytes) {
    const TemporaryFolder folder;
    const std::vector<std::byte> archive = write_zip(folder, "x.npy", npy);
    return error_of(ErrorCode::kDamaged,
                    [&] { (void)read_npz(archive, "x", "'golden.npz'", max_bytes); });
}

TEST(ReadNpz, ReturnsWhatNumPyWrote) {
    const Array image = expected("image");
    EXPECT_EQ(image.type, "|u1");
    EXPECT_EQ(image.shape, (std::vector<std::int64_t>{64, 96, 3}));
    EXPECT_EQ(image.data.size(), 64U * 96U * 3U);
    const Array ids = expected("ids");
    EXPECT_EQ(ids.type, "<i4");
    EXPECT_EQ(ids.shape, (std::vector<std::int64_t>{4}));
    std::vector<std::int32_t> values(4);
    std::memcpy(values.data(), ids.data.data(), ids.data.size());
    EXPECT_EQ(values, (std::vector<std::int32_t>{0, -1, 70000, 3}));
}

TEST(ReadNpz, TakesOneLengthManyAndNone) {
    const TemporaryFolder folder;
    const std::vector<std::pair<std::string, std::size_t>> shapes{
        {"()", 1}, {"(3,)", 3}, {"(3, 2)", 6}, {"(0, 5)", 0}};
    for (const auto& [shape, bytes] : shapes) {
        SCOPED_TRACE(shape);
        const std::string npy =
            write_npy("{'descr': '|u1', 'fortran_order': False, 'shape': " + shape + ", }",
                      std::string(bytes, 'a'));
        EXPECT_EQ(read_npz(write_zip(folder, "x.npy", npy), "x", "a").data.size(), bytes);
    }
}

TEST(ReadNpz, RefusesWhatIsNoArchive) {
    const std::vector<std::byte> nothing;
    EXPECT_PRED_FORMAT2(IsSubstring,
                        "'golden.npz' cannot be read: ", error_of(ErrorCode::kDamaged, [&] {
                            (void)read_npz(nothing, "x", "'golden.npz'");
                        }));
    const TemporaryFolder folder;
    std::vector<std::byte> archive = write_zip(folder, "y.npy", "abc");
    EXPECT_PRED_FORMAT2(IsSubstring, "a cannot be read: it lacks 'x.npy'; build the artifact again",
                        error_of(ErrorCode::kDamaged, [&] { (void)read_npz(archive, "x", "a"); }));
    archive.resize(archive.size() / 2);
    error_of(ErrorCode::kDamaged, [&] { (void)read_npz(archive, "y", "a"); });
}

TEST(ReadNpz, ComparesTheChecksum) {
    const TemporaryFolder folder;
    const std::string npy =
        write_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", "abcd");
    std::vector<std::byte> archive = write_zip(folder, "x.npy", npy);
    const auto text =
        std::string_view(reinterpret_cast<const char*>(archive.data()), archive.size());
    archive[text.find("abcd")] = std::byte{'X'};
    EXPECT_PRED_FORMAT2(IsSubstring, "or damaged",
                        error_of(ErrorCode::kDamaged, [&] { (void)read_npz(archive, "x", "a"); }));
}

TEST(ReadNpz, RefusesHeadersThatItDoesNotTake) {
    const std::vector<std::pair<std::string, std::string>> headers{
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "is of type '<f4', expected"},
        {"{'descr': '|u1', 'fortran_order': True, 'shape': (4,), }", "is no array in C order"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (4", "is no array in C order"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (-4,), }", "is no array in C order"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (5,), }", "has another length"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4,), }", "has another length"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (4294967296, 4294967296, 4), }",
         "has another length"},
        {"{'descr': '|u1', 'fortran_order': False, 'shape': (1, 1, 1, 1, 1, 1, 1, 1, 4), }",
         "is no array in C order"},
    };
    for (const auto& [header, message] : headers) {
        SCOPED_TRACE(header);
        EXPECT_PRED_FORMAT2(IsSubstring, "'x' " + message,
                            reading_error(write_npy(header, "abcd")));
    }
    EXPECT_PRED_FORMAT2(IsSubstring, "'x' is no array in C order",
                        reading_error("no array at all"));
    EXPECT_PRED_FORMAT2(IsSubstring, "'x' is no array in C order",
                        reading_error(std::string_view("\x93NUMPY\x01\x00\xff\xff{'de", 14)));
}

TEST(ReadNpz, AllocatesNoMoreThanItsLimit) {
    const std::string npy =
        write_npy("{'descr': '|u1', 'fortran_order': False, 'shape': (4,), }", "abcd");
    EXPECT_PRED_FORMAT2(IsSubstring, "is larger than 0 MiB", reading_error(npy, npy.size() - 1));
}

}  // namespace
}  // namespace segvit::app
