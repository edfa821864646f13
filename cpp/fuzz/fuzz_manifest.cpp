/// Any text as a manifest: read, or refused with an `Error`.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "manifest.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), size);
        (void)segvit::Manifest::parse(text, "artifact");
    } catch (const segvit::Error&) {
        return 0;
    }
    return 0;
}
