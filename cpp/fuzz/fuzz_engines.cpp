/// Any text as a list of added engines: read, or refused with an `Error`.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine_list.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    segvit::Manifest manifest;
    manifest.folder = "artifact";
    // That of the seeds, which make_seeds.py writes.
    manifest.digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    manifest.files = {{"model.onnx", manifest.digest}};
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), size);
        segvit::add_engines(manifest, text);
    } catch (const segvit::Error&) {
        return 0;
    }
    return 0;
}
