#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include <jpeglib.h>

#include "app/png_file.hpp"
#include "app_cases.hpp"

namespace segvit::app {
namespace {

using ::testing::IsSubstring;

std::vector<std::byte> case_bytes(const std::string& name) {
    return read_file(kCases / name);
}

std::vector<std::byte> as_bytes(std::string_view text) {
    const auto bytes = std::as_bytes(std::span(text));
    return {bytes.begin(), bytes.end()};
}

/// A grey ramp in the four inks of a printer.
std::vector<std::byte> write_cmyk_jpeg() {
    jpeg_compress_struct cinfo{};
    jpeg_error_mgr errors{};
    cinfo.err = jpeg_std_error(&errors);
    jpeg_create_compress(&cinfo);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&cinfo, &data, &size);
    cinfo.image_width = cinfo.image_height = 8;
    cinfo.input_components = 4;
    cinfo.in_color_space = JCS_CMYK;
    jpeg_set_defaults(&cinfo);
    jpeg_start_compress(&cinfo, TRUE);
    std::array<JSAMPLE, 32> pixels{};
    JSAMPROW row = pixels.data();
    while (cinfo.next_scanline < cinfo.image_height) {
        jpeg_write_scanlines(&cinfo, &row, 1);
    }
    jpeg_finish_compress(&cinfo);
    jpeg_destroy_compress(&cinfo);
    const std::unique_ptr<unsigned char, decltype(&std::free)> owner(data, std::free);
    const auto bytes = std::as_bytes(std::span(data, size));
    return {bytes.begin(), bytes.end()};
}

/// A file of these bytes, and what reading it as an image says.
std::string reading_error(ErrorCode code, std::span<const std::byte> data) {
    const TemporaryFolder folder;
    const std::filesystem::path path = folder.path() / "a.png";
    write_file(path, data);
    std::string message = error_of(code, [&] { (void)read_image(path); });
    EXPECT_TRUE(message.starts_with("image '" + path.string() + "' ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    return message;
}

TEST(ReadImage, EqualsOpenCvOnEveryKindOfFile) {
    int pictures = 0;
    for (const auto& entry : std::filesystem::directory_iterator(kCases)) {
        const std::string name = entry.path().filename().string();
        if (entry.is_directory() || entry.path().extension() == ".npz") {
            continue;
        }
        SCOPED_TRACE(name);
        const Image image = read_image(entry.path());
        const Image wanted = expected_image(name);
        EXPECT_EQ(image.height, wanted.height);
        EXPECT_EQ(image.width, wanted.width);
        EXPECT_TRUE(image.pixels == wanted.pixels);
        ++pictures;
    }
    EXPECT_GE(pictures, 50);
}

TEST(ReadImage, SaysThatAFileIsCutOffWhereverItEnds) {
    for (const char* name : {"type2_8bit.png", "type6_16bit_interlaced.png", "colour420.jpg",
                             "progressive.jpg", "restarts.jpg"}) {
        const std::vector<std::byte> whole = case_bytes(name);
        for (std::size_t length = 20; length < whole.size(); length += whole.size() / 17) {
            SCOPED_TRACE(name + (":" + std::to_string(length)));
            EXPECT_PRED_FORMAT2(IsSubstring, "is cut off: its end is missing; copy it again",
                                reading_error(ErrorCode::kDamaged, std::span(whole).first(length)));
        }
    }
}

TEST(ReadImage, SaysWhatIsDamaged) {
    std::vector<std::byte> png = case_bytes("type2_8bit.png");
    png[png.size() - 18] ^= std::byte{0xFF};
    EXPECT_PRED_FORMAT2(IsSubstring, "cannot be decoded: IDAT",
                        reading_error(ErrorCode::kDamaged, png));
    std::vector<std::byte> jpeg = case_bytes("restarts.jpg");
    jpeg.erase(jpeg.end() - 300, jpeg.end() - 200);
    EXPECT_PRED_FORMAT2(IsSubstring, "cannot be decoded: Corrupt JPEG data",
                        reading_error(ErrorCode::kDamaged, jpeg));
}

TEST(ReadImage, RefusesWhatIsNoImage) {
    EXPECT_PRED_FORMAT2(IsSubstring, "is empty (0 bytes)", reading_error(ErrorCode::kDamaged, {}));
    EXPECT_PRED_FORMAT2(IsSubstring, "expected PNG or JPEG; convert it",
                        reading_error(ErrorCode::kInvalidArgument, as_bytes("GIF89a")));
    const TemporaryFolder folder;
    EXPECT_EQ(error_of(ErrorCode::kNotFound, [&] { (void)read_image(folder.path() / "none.png"); }),
              "'" + (folder.path() / "none.png").string() + "': no such image");
    EXPECT_PRED_FORMAT2(IsSubstring, "': a folder, expected an image file",
                        error_of(ErrorCode::kNotFound, [&] { (void)read_image(folder.path()); }));
}

TEST(ReadImage, RefusesCmyk) {
    EXPECT_PRED_FORMAT2(IsSubstring, "is in CMYK, expected grey or RGB; convert it to RGB",
                        reading_error(ErrorCode::kInvalidArgument, write_cmyk_jpeg()));
}

TEST(ReadImage, RefusesMorePixelsThanOpenCvWould) {
    // Headers alone: had their pixels been allocated, or looked for, the message would differ.
    EXPECT_PRED_FORMAT2(IsSubstring, "has 1x1048577 pixels, expected at most 1048576 a side",
                        reading_error(ErrorCode::kInvalidArgument, case_bytes("bad/wide.png")));
    EXPECT_PRED_FORMAT2(IsSubstring, "is larger than 268 megapixels; cut it into tiles",
                        reading_error(ErrorCode::kInvalidArgument, case_bytes("bad/huge.png")));
    EXPECT_PRED_FORMAT2(IsSubstring, "is larger than 268 megapixels; cut it into tiles",
                        reading_error(ErrorCode::kInvalidArgument, case_bytes("bad/huge.jpg")));
}

TEST(ReadImage, StopsAtAFileOfEndlessScans) {
    EXPECT_PRED_FORMAT2(IsSubstring, "cannot be decoded: it has over 500 scans",
                        reading_error(ErrorCode::kDamaged, case_bytes("bad/scans.jpg")));
}

TEST(EncodePng, IsReadBackAsWritten) {
    const Image image = expected_image("image");
    EXPECT_TRUE(decode_png(encode_png(image), "image 'a'").pixels == image.pixels);
    const Labels labels{1, 3, {0, 2, 255}};
    const Image grey = decode_png(encode_png(labels, 256), "image 'a'");
    EXPECT_EQ(grey.pixels, (std::vector<std::uint8_t>{0, 0, 0, 2, 2, 2, 255, 255, 255}));
}

TEST(EncodePng, TakesSixteenBitsAbove256Classes) {
    const Labels labels{1, 3, {0, 257, 65535}};
    const Image grey = decode_png(encode_png(labels, 257), "image 'a'");
    EXPECT_EQ(grey.pixels, (std::vector<std::uint8_t>{0, 0, 0, 1, 1, 1, 255, 255, 255}));
}

}  // namespace
}  // namespace segvit::app
