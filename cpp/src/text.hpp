/// What messages are put together with.
#pragma once

#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>

namespace segvit {

/// Returns everything it is given, printed one after the other.
template <typename... Parts>
std::string concat(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

[[nodiscard]] std::string quoted(const std::filesystem::path& path);

/// Returns text of unknown origin as it may stand in a message: short, on one line, whole UTF-8.
[[nodiscard]] std::string shortened(std::string_view text, std::size_t most = 80);

/// Returns the entries of a range of texts with commas between them, or `none` of an empty one.
template <typename Range>
std::string listed(const Range& names, std::string_view none = "none") {
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : ", ") + std::string(name);
    return text.empty() ? std::string(none) : text;
}

}  // namespace segvit
