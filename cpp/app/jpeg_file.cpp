#include "app/jpeg_file.hpp"

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <string>
#include <string_view>

// In this order, and after <cstdio>: none includes what it needs.
#include <jpeglib.h>

#include <jerror.h>

#include "app/exif.hpp"
#include "app/image_limits.hpp"

namespace segvit::app {
namespace {

constexpr int kMaxScans = 500;  // a file of a few kilobytes can ask for hours of them
constexpr std::string_view kTooManyScans = "it has over 500 scans";
constexpr std::string_view kExifHeader{"Exif\0\0", 6};
// Warnings after which libjpeg goes on with pixels that the file does not hold.
constexpr std::array kDamage{JWRN_JPEG_EOF, JWRN_HIT_MARKER, JWRN_HUFF_BAD_CODE,
                             JWRN_ARITH_BAD_CODE, JWRN_MUST_RESYNC};

/// libjpeg's state; the error and progress managers are found from the callbacks' `cinfo`.
struct Decoder {
    Decoder() = default;
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;
    Decoder(Decoder&&) = delete;
    Decoder& operator=(Decoder&&) = delete;
    ~Decoder() { jpeg_destroy_decompress(&cinfo); }

    jpeg_decompress_struct cinfo{};
    jpeg_error_mgr errors{};
    jpeg_progress_mgr progress{};
    std::jmp_buf stop{};
    std::array<char, JMSG_LENGTH_MAX> problem{};
    bool ran_out = false;
};

Decoder& decoder_of(j_common_ptr cinfo) {
    return *static_cast<Decoder*>(cinfo->client_data);
}

void on_error(j_common_ptr cinfo) {
    Decoder& decoder = decoder_of(cinfo);
    cinfo->err->format_message(cinfo, decoder.problem.data());
    decoder.ran_out = cinfo->err->msg_code == JWRN_JPEG_EOF;
    std::longjmp(decoder.stop, 1);
}

void on_message(j_common_ptr cinfo, int level) {
    const int code = cinfo->err->msg_code;
    if (level < 0 && std::find(kDamage.begin(), kDamage.end(), code) != kDamage.end()) {
        on_error(cinfo);
    }
}

void limit_scans(j_common_ptr cinfo) {
    Decoder& decoder = decoder_of(cinfo);
    if (decoder.cinfo.input_scan_number > kMaxScans) {
        kTooManyScans.copy(decoder.problem.data(), decoder.problem.size() - 1);
        std::longjmp(decoder.stop, 1);
    }
}

/// Runs a step of libjpeg's. A step holds nothing that has a destructor: libjpeg leaves it by
/// longjmp.
template <typename Step>
void run(Decoder& decoder, const std::string& subject, const Step& step) {
    if (setjmp(decoder.stop) != 0) {
        throw Error(ErrorCode::kDamaged,
                    decoder.ran_out ? subject + " is cut off: its end is missing; copy it again"
                                    : subject + " cannot be decoded: " + decoder.problem.data());
    }
    step();
}

int read_orientation_of(const jpeg_decompress_struct& cinfo) {
    for (const auto* marker = cinfo.marker_list; marker != nullptr; marker = marker->next) {
        const std::span data(marker->data, marker->data_length);
        if (data.size() >= kExifHeader.size() &&
            std::memcmp(data.data(), kExifHeader.data(), kExifHeader.size()) == 0) {
            return read_orientation(std::as_bytes(data.subspan(kExifHeader.size())));
        }
    }
    return 1;
}

void open(Decoder& decoder, std::span<const std::byte> data) {
    decoder.cinfo.err = jpeg_std_error(&decoder.errors);
    decoder.errors.error_exit = on_error;
    decoder.errors.emit_message = on_message;
    decoder.cinfo.client_data = &decoder;
    jpeg_create_decompress(&decoder.cinfo);  // keeps `err` and `client_data`
    decoder.progress.progress_monitor = limit_scans;
    decoder.cinfo.progress = &decoder.progress;
    jpeg_mem_src(&decoder.cinfo, reinterpret_cast<const unsigned char*>(data.data()), data.size());
    jpeg_save_markers(&decoder.cinfo, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&decoder.cinfo, TRUE);
}

}  // namespace

bool is_jpeg(std::span<const std::byte> data) {
    return data.size() >= 3 && data[0] == std::byte{0xFF} && data[1] == std::byte{0xD8} &&
           data[2] == std::byte{0xFF};
}

Image decode_jpeg(std::span<const std::byte> data, const std::string& subject,
                  std::int64_t max_pixels) {
    Decoder decoder;
    jpeg_decompress_struct& cinfo = decoder.cinfo;
    run(decoder, subject, [&] { open(decoder, data); });
    check_size(cinfo.image_height, cinfo.image_width, subject, max_pixels);
    if (cinfo.jpeg_color_space == JCS_CMYK || cinfo.jpeg_color_space == JCS_YCCK) {
        throw Error(ErrorCode::kInvalidArgument,
                    subject + " is in CMYK, expected grey or RGB; convert it to RGB");
    }
    const int orientation = read_orientation_of(cinfo);  // markers go when decoding ends
    cinfo.out_color_space = JCS_RGB;
    cinfo.dct_method = JDCT_ISLOW;
    cinfo.do_fancy_upsampling = TRUE;
    run(decoder, subject, [&] { jpeg_start_decompress(&cinfo); });
    Image image{static_cast<int>(cinfo.output_height), static_cast<int>(cinfo.output_width), {}};
    const std::size_t row_bytes = std::size_t{3} * cinfo.output_width;
    image.pixels.resize(row_bytes * cinfo.output_height);
    run(decoder, subject, [&] {
        while (cinfo.output_scanline < cinfo.output_height) {
            JSAMPROW row = image.pixels.data() + row_bytes * cinfo.output_scanline;
            jpeg_read_scanlines(&cinfo, &row, 1);
        }
        jpeg_finish_decompress(&cinfo);
    });
    return turn_upright(std::move(image), orientation);
}

}  // namespace segvit::app
