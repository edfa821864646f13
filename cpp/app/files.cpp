#include "app/files.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <iterator>
#include <memory>
#include <string_view>
#include <system_error>

#include "app/jpeg_file.hpp"
#include "app/png_file.hpp"

namespace segvit::app {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kSuffixes{".jpeg", ".jpg", ".png"};

using FilePointer = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

[[noreturn]] void fail(const fs::path& path, int code) {
    std::string message = "'" + path.string() + "': " + std::generic_category().message(code);
    if (code == ENOSPC || code == EDQUOT) {
        message += "; free some space or write elsewhere";
    } else if (code == EFBIG) {
        message += "; write to a disk without that limit";
    } else if (code == EACCES || code == EROFS) {
        message += "; change its permissions or use another folder";
    }
    throw Error(ErrorCode::kRuntime, message);
}

/// A name beside the one that is wanted; its file goes unless it was renamed.
class TemporaryFile {
public:
    explicit TemporaryFile(const fs::path& target)
        : path_(target.parent_path() /
                ("." + target.filename().string() + "." + std::to_string(getpid()) + ".tmp")) {}
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;
    TemporaryFile(TemporaryFile&&) = delete;
    TemporaryFile& operator=(TemporaryFile&&) = delete;
    ~TemporaryFile() {
        std::error_code ignored;
        fs::remove(path_, ignored);
    }
    [[nodiscard]] const fs::path& path() const { return path_; }

private:
    fs::path path_;
};

bool has_image_suffix(const fs::path& path) {
    std::string suffix = path.extension().string();
    std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                   [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
    return std::find(kSuffixes.begin(), kSuffixes.end(), suffix) != kSuffixes.end();
}

std::vector<fs::path> list_images(const fs::path& folder) {
    std::vector<fs::path> images;
    for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.is_regular_file() && has_image_suffix(entry.path())) {
            images.push_back(entry.path());
        }
    }
    std::sort(images.begin(), images.end());
    if (images.empty()) {
        throw Error(
            ErrorCode::kInvalidArgument,
            "'" + folder.string() + "' holds no images; expected files ending in .jpeg .jpg .png");
    }
    return images;
}

}  // namespace

std::vector<std::byte> read_file(const fs::path& path) {
    if (!fs::is_regular_file(path)) {
        const char* problem =
            fs::is_directory(path) ? "a folder, expected an image file" : "no such image";
        throw Error(ErrorCode::kNotFound, "'" + path.string() + "': " + problem);
    }
    const FilePointer file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (file == nullptr) {
        fail(path, errno);
    }
    std::vector<std::byte> data(static_cast<std::size_t>(fs::file_size(path)));
    if (!data.empty()) {
        data.resize(std::fread(data.data(), 1, data.size(), file.get()));
    }
    if (std::ferror(file.get()) != 0) {
        fail(path, errno);
    }
    return data;
}

void write_file(const fs::path& path, std::span<const std::byte> data) {
    const TemporaryFile temporary(path);
    FilePointer file(std::fopen(temporary.path().c_str(), "wb"), std::fclose);
    if (file == nullptr) {
        fail(path, errno);
    }
    // Data of no bytes may be a null pointer, which fwrite does not take.
    const bool written =
        data.empty() || std::fwrite(data.data(), 1, data.size(), file.get()) == data.size();
    if (!written || std::fclose(file.release()) != 0) {
        fail(path, errno);
    }
    std::error_code error;
    fs::rename(temporary.path(), path, error);
    if (error) {
        fail(path, error.value());
    }
}

void make_folder(const fs::path& path) {
    std::error_code error;
    fs::create_directories(path, error);
    if (fs::exists(path) && !fs::is_directory(path)) {
        throw Error(ErrorCode::kRuntime,
                    "'" + path.string() + "': is a file, expected a folder for the output");
    }
    if (error) {
        fail(path, error.value());
    }
}

Image read_image(const fs::path& path) {
    const std::vector<std::byte> data = read_file(path);
    const std::string subject = "image '" + path.string() + "'";
    if (data.empty()) {
        throw Error(ErrorCode::kDamaged, subject + " is empty (0 bytes)");
    }
    if (is_png(data)) {
        return decode_png(data, subject);
    }
    if (is_jpeg(data)) {
        return decode_jpeg(data, subject);
    }
    throw Error(ErrorCode::kInvalidArgument,
                subject + " cannot be decoded: expected PNG or JPEG; convert it to one of them");
}

std::vector<fs::path> find_images(const std::vector<std::string>& inputs) {
    std::vector<fs::path> found;
    for (const std::string& input : inputs) {
        std::vector<fs::path> matches;
        if (fs::is_directory(input)) {
            matches = list_images(input);
        } else if (fs::is_regular_file(input)) {
            matches = {input};
        } else {
            throw Error(ErrorCode::kNotFound, "'" + input + "': no such image or folder");
        }
        std::copy_if(matches.begin(), matches.end(), std::back_inserter(found),
                     [&](const fs::path& path) {
                         return std::find(found.begin(), found.end(), path) == found.end();
                     });
    }
    return found;
}

}  // namespace segvit::app
