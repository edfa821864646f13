#include "app/npz_file.hpp"

#include <zip.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string_view>

namespace segvit::app {
namespace {

using Archive = std::unique_ptr<zip_t, decltype(&zip_discard)>;
using Entry = std::unique_ptr<zip_file_t, decltype(&zip_fclose)>;

constexpr std::size_t kMaxDimensions = 8;
constexpr std::string_view kMagic{"\x93NUMPY", 6};

[[noreturn]] void refuse(const std::string& subject, const std::string& problem) {
    throw Error(ErrorCode::kDamaged,
                subject + " cannot be read: " + problem + "; build the artifact again");
}

Archive open_archive(std::span<const std::byte> npz, const std::string& subject) {
    zip_error_t error{};
    zip_source_t* source = zip_source_buffer_create(npz.data(), npz.size(), 0, &error);
    zip_t* archive = source == nullptr ? nullptr : zip_open_from_source(source, ZIP_RDONLY, &error);
    if (archive == nullptr) {
        if (source != nullptr) {
            zip_source_free(source);
        }
        const std::string problem = zip_error_strerror(&error);
        zip_error_fini(&error);
        refuse(subject, problem);
    }
    return {archive, zip_discard};
}

/// Returns a file of the archive, inflated; its checksum is compared on the way.
std::vector<std::byte> inflate(zip_t* archive, const std::string& name, const std::string& subject,
                               std::uint64_t max_bytes) {
    zip_stat_t stat;
    if (zip_stat(archive, name.c_str(), 0, &stat) != 0) {
        refuse(subject, "it lacks '" + name + "'");
    }
    if ((stat.valid & ZIP_STAT_SIZE) == 0 || stat.size > max_bytes) {
        refuse(subject, "'" + name + "' is larger than " + std::to_string(max_bytes >> 20U) +
                            " MiB or does not say how large");
    }
    const Entry entry(zip_fopen_index(archive, stat.index, 0), zip_fclose);
    if (entry == nullptr) {
        refuse(subject, "'" + name + "': " + zip_strerror(archive));
    }
    std::vector<std::byte> data(static_cast<std::size_t>(stat.size));
    std::size_t filled = 0;
    while (filled < data.size()) {
        const zip_int64_t got = zip_fread(entry.get(), data.data() + filled, data.size() - filled);
        if (got <= 0) {
            refuse(subject, "'" + name + "' is cut off or damaged");
        }
        filled += static_cast<std::size_t>(got);
    }
    std::byte beyond{};
    if (zip_fread(entry.get(), &beyond, 1) != 0) {  // also where the checksum is compared
        refuse(subject, "'" + name + "' is longer than it says or damaged");
    }
    return data;
}

/// Reads the text that NumPy's format prescribes word for word.
class HeaderReader {
public:
    explicit HeaderReader(std::string_view text) : rest_(text) {}

    bool skip(std::string_view literal) {
        const bool present = rest_.starts_with(literal);
        rest_.remove_prefix(present ? literal.size() : 0);
        return present;
    }
    std::string_view read_until(char end) {
        const std::string_view text = rest_.substr(0, rest_.find(end));
        rest_.remove_prefix(text.size());
        return text;
    }
    bool read_number(std::int64_t& number) {
        const auto [end, error] =
            std::from_chars(rest_.data(), rest_.data() + rest_.size(), number);
        rest_.remove_prefix(static_cast<std::size_t>(end - rest_.data()));
        return error == std::errc{} && number >= 0;
    }

private:
    std::string_view rest_;
};

/// Parses `{'descr': '|u1', 'fortran_order': False, 'shape': (4, 256, 256, 3), }`.
bool parse_header(std::string_view text, Array& array) {
    HeaderReader reader(text);
    if (!reader.skip("{'descr': '")) {
        return false;
    }
    array.type = reader.read_until('\'');
    if (!reader.skip("', 'fortran_order': False, 'shape': (")) {
        return false;
    }
    while (!reader.skip(")")) {
        std::int64_t length = 0;
        if (array.shape.size() == kMaxDimensions || !reader.read_number(length)) {
            return false;
        }
        array.shape.push_back(length);
        // One length has a comma behind it; of several, the last has none.
        if (!reader.skip(", ") && array.shape.size() == 1) {
            reader.skip(",");
        }
    }
    return true;
}

/// Returns the bytes that an array's shape and type ask for, or -1 above `limit`.
std::int64_t count_bytes(const Array& array, std::int64_t limit) {
    std::int64_t bytes = array.type == "<i4" ? 4 : 1;
    for (const std::int64_t length : array.shape) {
        if (length != 0 && bytes > limit / length) {
            return -1;
        }
        bytes *= length;
    }
    return bytes;
}

/// Returns where the header's text begins and how long it is; 0 if there is none.
std::pair<std::size_t, std::size_t> locate_header(std::span<const std::byte> npy) {
    const auto at = [&](std::size_t index) { return std::to_integer<std::size_t>(npy[index]); };
    const std::string_view text(reinterpret_cast<const char*>(npy.data()), npy.size());
    if (npy.size() < 12 || !text.starts_with(kMagic)) {
        return {0, 0};
    }
    const std::size_t low = at(8) | at(9) << 8U;
    return at(6) == 1 ? std::pair{std::size_t{10}, low}
                      : std::pair{std::size_t{12}, low | at(10) << 16U | at(11) << 24U};
}

}  // namespace

Array read_npz(std::span<const std::byte> npz, const std::string& name, const std::string& subject,
               std::uint64_t max_bytes) {
    const Archive archive = open_archive(npz, subject);
    return parse_npy(inflate(archive.get(), name + ".npy", subject, max_bytes), name, subject);
}

Array parse_npy(std::vector<std::byte> npy, const std::string& name, const std::string& subject) {
    const auto [start, length] = locate_header(npy);
    Array array;
    if (start == 0 || length > npy.size() - start ||
        !parse_header({reinterpret_cast<const char*>(npy.data()) + start, length}, array)) {
        refuse(subject, "'" + name + "' is no array in C order");
    }
    if (array.type != "|u1" && array.type != "<i4") {
        refuse(subject, "'" + name + "' is of type '" + array.type + "', expected uint8 or int32");
    }
    npy.erase(npy.begin(), npy.begin() + static_cast<std::ptrdiff_t>(start + length));
    const auto size = static_cast<std::int64_t>(npy.size());
    if (count_bytes(array, size) != size) {
        refuse(subject, "'" + name + "' has another length than its header says");
    }
    array.data = std::move(npy);
    return array;
}

}  // namespace segvit::app
