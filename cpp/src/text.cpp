#include "text.hpp"

#include <algorithm>

namespace segvit {

std::string quoted(const std::filesystem::path& path) {
    return "'" + path.string() + "'";
}

std::string shortened(std::string_view text, std::size_t most) {
    std::size_t count = std::min(text.size(), most);
    const auto continues = [&](std::size_t i) {
        return (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80U;
    };
    while (count > 0 && count < text.size() && continues(count)) --count;
    std::string shown(text.substr(0, count));
    const auto is_control = [](char c) { return static_cast<unsigned char>(c) < 0x20U; };
    std::replace_if(shown.begin(), shown.end(), is_control, '?');
    return count < text.size() ? shown + "…" : shown;
}

}  // namespace segvit
