#include "sha256.hpp"

#include <openssl/evp.h>

#include <array>
#include <fstream>
#include <memory>
#include <vector>

#include "segvit/segmenter.hpp"
#include "text.hpp"

namespace segvit {
namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;

void require(int succeeded) {
    if (succeeded != 1) throw Error(ErrorCode::kRuntime, "OpenSSL offers no SHA-256 here");
}

class Sha256 {
public:
    Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
        require(context_ ? EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) : 0);
    }
    void add(const void* data, std::size_t count) {
        require(EVP_DigestUpdate(context_.get(), data, count));
    }
    std::string hexadecimal() {
        std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
        unsigned int count = 0;
        require(EVP_DigestFinal_ex(context_.get(), digest.data(), &count));
        constexpr std::string_view kDigits = "0123456789abcdef";
        std::string text;
        for (unsigned int i = 0; i < count; ++i) {
            text += kDigits[digest[i] >> 4U];
            text += kDigits[digest[i] & 15U];
        }
        return text;
    }

private:
    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

bool is_sha256(std::string_view text) {
    return text.size() == 64 &&
           text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string parse_digest(std::string_view text) {
    std::string digest(text);
    for (auto& c : digest) c = c >= 'A' && c <= 'F' ? static_cast<char>(c - 'A' + 'a') : c;
    if (is_sha256(digest)) return digest;
    throw Error(ErrorCode::kInvalidArgument,
                concat("digest '", shortened(text),
                       "': expected all 64 hexadecimal digits of the sha256 of manifest.json, got ",
                       text.size(), " characters; builds print it, and so does sha256sum"));
}

std::string sha256_of(std::span<const std::byte> bytes) {
    Sha256 digest;
    digest.add(bytes.data(), bytes.size());
    return digest.hexadecimal();
}

std::string sha256_of_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> chunk(kChunkBytes);
    Sha256 digest;
    while (file) {
        file.read(chunk.data(), static_cast<std::streamsize>(chunk.size()));
        digest.add(chunk.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof()) throw Error(ErrorCode::kNotFound, quoted(path) + " cannot be read");
    return digest.hexadecimal();
}

}  // namespace segvit
