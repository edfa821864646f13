/// Segments raw RGB pixels of the engine's size: embed ARTIFACT < image.rgb > labels
#include <cstdint>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include "segvit/segmenter.hpp"

int main(int argc, char** argv) try {
    const segvit::Segmenter segmenter = segvit::Segmenter::load(argc > 1 ? argv[1] : "artifact");
    const int height = segmenter.height();
    const int width = segmenter.width();
    std::vector<char> pixels(static_cast<std::size_t>(3 * height * width));  // yours, as decoded
    if (!std::cin.read(pixels.data(), std::ssize(pixels))) {
        throw std::runtime_error("standard input: expected " + std::to_string(pixels.size()) +
                                 " bytes of RGB");
    }
    const auto* data = reinterpret_cast<const std::uint8_t*>(pixels.data());
    const segvit::LabelMap labels = segmenter.segment({data, height, width});
    std::cout.write(reinterpret_cast<const char*>(labels.bytes().data()),
                    std::ssize(labels.bytes()));
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
