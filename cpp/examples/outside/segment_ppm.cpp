/// Segments a PPM picture of the engine's size: segment_ppm ARTIFACT image.ppm labels.pgm
#include <segvit/segmenter.hpp>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int kMaxSide = 1 << 14;

struct Picture {
    int height = 0, width = 0;
    std::vector<std::uint8_t> pixels;
};

Picture read_ppm(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::string kind;
    int largest = 0;
    Picture picture;
    file >> kind >> picture.width >> picture.height >> largest;
    file.ignore();
    const bool fits = picture.width > 0 && picture.width <= kMaxSide && picture.height > 0 &&
                      picture.height <= kMaxSide;
    if (!file || kind != "P6" || largest != 255 || !fits) {
        throw std::runtime_error("'" + path + "' is no PPM (P6) of 8 bits without comments");
    }
    picture.pixels.resize(std::size_t{3} * picture.height * picture.width);
    file.read(reinterpret_cast<char*>(picture.pixels.data()), std::ssize(picture.pixels));
    if (!file) {
        throw std::runtime_error("'" + path + "' is cut off");
    }
    return picture;
}

void write_pgm(const std::string& path, const segvit::LabelMap& labels) {
    std::ofstream file(path, std::ios::binary);
    file << "P5\n" << labels.width() << " " << labels.height() << "\n255\n";
    for (int row = 0; row < labels.height(); ++row) {
        for (int column = 0; column < labels.width(); ++column) {
            file.put(static_cast<char>(labels.at(row, column)));
        }
    }
    if (!file.flush()) {
        throw std::runtime_error("'" + path + "' cannot be written");
    }
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 4) {
        std::cerr << "usage: segment_ppm ARTIFACT image.ppm labels.pgm\n";
        return 2;
    }
    const segvit::Segmenter segmenter = segvit::Segmenter::load(argv[1]);
    const Picture picture = read_ppm(argv[2]);
    write_pgm(argv[3], segmenter.segment({picture.pixels.data(), picture.height, picture.width}));
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
