#include "app/png_file.hpp"

#include <png.h>

#include <algorithm>
#include <array>
#include <bit>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <new>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "app/exif.hpp"
#include "app/image_limits.hpp"

namespace segvit::app {
namespace {

constexpr std::size_t kSignatureBytes = 8;

/// What libpng's callbacks see: where they read or write, and what went wrong.
struct Stream {
    std::span<const std::byte> unread;
    std::vector<std::byte> written;
    std::array<char, 200> problem{};  // no string: nothing may be thrown through libpng
    bool ran_out = false;
};

void on_error(png_structp png, png_const_charp message) {
    auto& problem = static_cast<Stream*>(png_get_error_ptr(png))->problem;
    std::strncpy(problem.data(), message, problem.size() - 1);  // the last stays 0
    png_longjmp(png, 1);
}

void ignore_warning(png_structp /*png*/, png_const_charp /*message*/) {}

void read_bytes(png_structp png, png_bytep target, std::size_t count) {
    auto& stream = *static_cast<Stream*>(png_get_io_ptr(png));
    if (count > stream.unread.size()) {
        stream.ran_out = true;
        png_error(png, "its end is missing");
    }
    std::memcpy(target, stream.unread.data(), count);
    stream.unread = stream.unread.subspan(count);
}

// libpng gives the type.
// NOLINTNEXTLINE(readability-non-const-parameter)
void write_bytes(png_structp png, png_bytep source, std::size_t count) {
    auto& written = static_cast<Stream*>(png_get_io_ptr(png))->written;
    const auto* first = reinterpret_cast<const std::byte*>(source);
    bool kept = true;
    try {
        written.insert(written.end(), first, first + count);
    } catch (const std::bad_alloc&) {
        kept = false;
    }
    if (!kept) {
        png_error(png, "out of memory");
    }
}

void flush_nothing(png_structp /*png*/) {}

struct Reader {
    explicit Reader(Stream& stream)
        : png(png_create_read_struct(PNG_LIBPNG_VER_STRING, &stream, on_error, ignore_warning)),
          info(png == nullptr ? nullptr : png_create_info_struct(png)) {}
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    Reader(Reader&&) = delete;
    Reader& operator=(Reader&&) = delete;
    ~Reader() { png_destroy_read_struct(&png, &info, nullptr); }

    png_structp png;
    png_infop info;
};

struct Writer {
    explicit Writer(Stream& stream)
        : png(png_create_write_struct(PNG_LIBPNG_VER_STRING, &stream, on_error, ignore_warning)),
          info(png == nullptr ? nullptr : png_create_info_struct(png)) {}
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;
    Writer(Writer&&) = delete;
    Writer& operator=(Writer&&) = delete;
    ~Writer() { png_destroy_write_struct(&png, &info); }

    png_structp png;
    png_infop info;
};

/// Runs a step of libpng's and returns whether it ended well. A step holds nothing that has a
/// destructor: libpng leaves it by longjmp.
template <typename Step>
bool succeeds(png_structp png, const Step& step) {
    if (setjmp(png_jmpbuf(png)) != 0) {
        return false;
    }
    step();
    return true;
}

[[noreturn]] void refuse(const std::string& subject, const Stream& stream) {
    throw Error(ErrorCode::kDamaged,
                stream.ran_out ? subject + " is cut off: its end is missing; copy it again"
                               : subject + " cannot be decoded: " + stream.problem.data());
}

/// Makes every kind of PNG RGB, with 8 or 16 bits a channel.
void expand_to_rgb(const Reader& reader) {
    png_set_expand(reader.png);
    png_set_gray_to_rgb(reader.png);
    png_set_strip_alpha(reader.png);
    png_set_interlace_handling(reader.png);
    png_read_update_info(reader.png, reader.info);
}

/// Turns big-endian 16-bit channels into 8-bit ones, where they lie.
void halve_depth(std::vector<std::uint8_t>& pixels) {
    const std::size_t count = pixels.size() / 2;
    for (std::size_t i = 0; i < count; ++i) {
        const unsigned value = pixels[2 * i] * 256U + pixels[2 * i + 1];
        pixels[i] = static_cast<std::uint8_t>((value + 128) / 257);
    }
    pixels.resize(count);
}

int read_orientation_of(const Reader& reader) {
    png_uint_32 count = 0;
    png_bytep exif = nullptr;
    if (png_get_eXIf_1(reader.png, reader.info, &count, &exif) == 0) {
        return 1;
    }
    return read_orientation(std::as_bytes(std::span(exif, count)));
}

/// Writes rows of `channels` (1 or 3) of `bits` (8, or 16 in this machine's order).
std::vector<std::byte> encode(const void* pixels, int height, int width, int channels, int bits) {
    Stream stream;
    const Writer writer(stream);
    if (writer.info == nullptr) {
        throw Error(ErrorCode::kOutOfMemory, "libpng has no memory to write a PNG");
    }
    const auto row_bytes = static_cast<std::size_t>(width) * static_cast<std::size_t>(channels) *
                           static_cast<std::size_t>(bits / 8);
    const bool written = succeeds(writer.png, [&] {
        png_set_write_fn(writer.png, &stream, write_bytes, flush_nothing);
        // As OpenCV writes: runs of equal labels need no search for longer matches.
        png_set_compression_level(writer.png, 1);
        png_set_compression_strategy(writer.png, 3);  // zlib's Z_RLE
        png_set_filter(writer.png, PNG_FILTER_TYPE_BASE, PNG_FILTER_SUB);
        png_set_IHDR(writer.png, writer.info, static_cast<png_uint_32>(width),
                     static_cast<png_uint_32>(height), bits,
                     channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                     PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
        png_write_info(writer.png, writer.info);
        if (bits == 16 && std::endian::native == std::endian::little) {
            png_set_swap(writer.png);
        }
        const auto* row = static_cast<png_const_bytep>(pixels);
        for (int index = 0; index < height; ++index, row += row_bytes) {
            png_write_row(writer.png, row);
        }
        png_write_end(writer.png, nullptr);
    });
    if (!written) {
        throw Error(ErrorCode::kRuntime,
                    std::string("PNG cannot be written: ") + stream.problem.data());
    }
    return std::move(stream.written);
}

}  // namespace

bool is_png(std::span<const std::byte> data) {
    return data.size() >= kSignatureBytes &&
           png_sig_cmp(reinterpret_cast<png_const_bytep>(data.data()), 0, kSignatureBytes) == 0;
}

Image decode_png(std::span<const std::byte> data, const std::string& subject,
                 std::int64_t max_pixels) {
    Stream stream;
    stream.unread = data;
    const Reader reader(stream);
    if (reader.info == nullptr) {
        throw Error(ErrorCode::kOutOfMemory, subject + ": libpng has no memory to read it");
    }
    if (!succeeds(reader.png, [&] {
            png_set_user_limits(reader.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_size does
            png_set_read_fn(reader.png, &stream, read_bytes);
            png_read_info(reader.png, reader.info);
        })) {
        refuse(subject, stream);
    }
    const png_uint_32 height = png_get_image_height(reader.png, reader.info);
    const png_uint_32 width = png_get_image_width(reader.png, reader.info);
    check_size(height, width, subject, max_pixels);
    if (!succeeds(reader.png, [&] { expand_to_rgb(reader); })) {
        refuse(subject, stream);
    }
    Image image{static_cast<int>(height), static_cast<int>(width), {}};
    const std::size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
    image.pixels.resize(row_bytes * height);
    std::vector<png_bytep> rows(height);
    for (std::size_t row = 0; row < rows.size(); ++row) {
        rows[row] = image.pixels.data() + row * row_bytes;
    }
    if (!succeeds(reader.png, [&] {
            png_read_image(reader.png, rows.data());
            png_read_end(reader.png, reader.info);  // to its end, which also may hold EXIF
        })) {
        refuse(subject, stream);
    }
    if (png_get_bit_depth(reader.png, reader.info) == 16) {
        halve_depth(image.pixels);
    }
    return turn_upright(std::move(image), read_orientation_of(reader));
}

std::vector<std::byte> encode_png(const Image& image) {
    return encode(image.pixels.data(), image.height, image.width, 3, 8);
}

std::vector<std::byte> encode_png(const Labels& labels, std::size_t num_classes) {
    if (num_classes > 256) {
        return encode(labels.ids.data(), labels.height, labels.width, 1, 16);
    }
    std::vector<std::uint8_t> narrow(labels.ids.size());
    std::transform(labels.ids.begin(), labels.ids.end(), narrow.begin(),
                   [](std::uint16_t id) { return static_cast<std::uint8_t>(id); });
    return encode(narrow.data(), labels.height, labels.width, 1, 8);
}

}  // namespace segvit::app
