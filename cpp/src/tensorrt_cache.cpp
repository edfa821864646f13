#include "tensorrt_cache.hpp"

#ifdef _WIN32

namespace segvit {

std::filesystem::path find_runtime_cache(const std::string& /*engine_sha256*/,
                                         std::string /*compute_capability*/) {
    return {};
}

std::vector<std::byte> read_runtime_cache(const std::filesystem::path& /*path*/) {
    return {};
}

void write_runtime_cache(const std::filesystem::path& /*path*/,
                         std::span<const std::byte> /*data*/) {}

}  // namespace segvit

#else

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <system_error>

namespace segvit {
namespace {

constexpr off_t kMostBytes = off_t{1} << 30;

class File {
public:
    File(const std::filesystem::path& path, int flags, mode_t mode = 0)
        // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): that is how open takes a mode
        : descriptor_(::open(path.c_str(), flags | O_CLOEXEC | O_NOFOLLOW, mode)) {}
    File(const File&) = delete;
    File(File&&) = delete;
    File& operator=(const File&) = delete;
    File& operator=(File&&) = delete;
    ~File() {
        if (descriptor_ >= 0) (void)::close(descriptor_);
    }
    [[nodiscard]] bool is_open() const { return descriptor_ >= 0; }
    [[nodiscard]] int descriptor() const { return descriptor_; }

private:
    int descriptor_;
};

[[noreturn]] void fail(const std::string& doing) {
    throw std::system_error(errno, std::generic_category(), doing);
}

/// Whether nobody but this user may write to what was looked at.
bool is_own(const struct stat& found) {
    return !S_ISLNK(found.st_mode) && found.st_uid == ::geteuid() &&
           (found.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

bool is_own_folder(const std::filesystem::path& folder) {
    struct stat found {};
    return ::lstat(folder.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && is_own(found);
}

void write_all(int descriptor, std::span<const std::byte> data) {
    while (!data.empty()) {
        const auto written = ::write(descriptor, data.data(), data.size());
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) fail("writing a runtime cache");
        data = data.subspan(static_cast<std::size_t>(written));
    }
}

}  // namespace

std::filesystem::path find_runtime_cache(const std::string& engine_sha256,
                                         std::string compute_capability) {
    std::ranges::transform(compute_capability, compute_capability.begin(),
                           [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const char* const own = std::getenv("XDG_CACHE_HOME");
    const char* const home = std::getenv("HOME");
    std::filesystem::path base;
    if (own != nullptr && *own != '\0') {
        base = own;
    } else if (home != nullptr && *home != '\0') {
        base = std::filesystem::path(home) / ".cache";
    } else {
        return {};
    }
    return base / "segvit" / "tensorrt-rtx" /
           (engine_sha256 + "-" + compute_capability + ".runtime_cache");
}

std::vector<std::byte> read_runtime_cache(const std::filesystem::path& path) {
    if (path.empty() || !is_own_folder(path.parent_path())) return {};
    const File file(path, O_RDONLY);  // not through a link
    struct stat found {};
    if (!file.is_open() || ::fstat(file.descriptor(), &found) != 0 || !S_ISREG(found.st_mode) ||
        !is_own(found) || found.st_size > kMostBytes) {
        return {};
    }
    std::vector<std::byte> data(static_cast<std::size_t>(found.st_size));
    std::size_t filled = 0;
    while (filled < data.size()) {
        const auto count = ::read(file.descriptor(), data.data() + filled, data.size() - filled);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return {};
        filled += static_cast<std::size_t>(count);
    }
    return data;
}

void write_runtime_cache(const std::filesystem::path& path, std::span<const std::byte> data) {
    if (path.empty()) return;
    const auto folder = path.parent_path();
    std::filesystem::create_directories(folder.parent_path());
    if (::mkdir(folder.c_str(), S_IRWXU) != 0 && errno != EEXIST) fail("making " + folder.string());
    if (!is_own_folder(folder)) {
        errno = EPERM;
        fail("'" + folder.string() + "' may be written by others");
    }
    auto temporary = path;
    temporary += "." + std::to_string(::getpid()) + ".tmp";
    try {
        std::filesystem::remove(temporary);  // of a process that ended before it was done
        const File file(temporary, O_WRONLY | O_CREAT | O_EXCL, S_IRUSR | S_IWUSR);
        if (!file.is_open()) fail("making " + temporary.string());
        write_all(file.descriptor(), data);
        std::filesystem::rename(temporary, path);
    } catch (...) {
        std::error_code ignored;
        std::filesystem::remove(temporary, ignored);
        throw;
    }
}

}  // namespace segvit

#endif
