/// Segments a stream of frames, preparing one while another is computed:
///
///   ffmpeg -i video.mp4 -f rawvideo -pix_fmt rgb24 - | camera_loop ARTIFACT 1920x1080
///   camera_loop ARTIFACT frames/
///
/// Prints each frame's largest class and, at the end, frames a second. Rates of preparing and
/// computing do not add up: while the engine works on one frame, this thread reads and resizes the
/// next.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <future>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "app/files.hpp"
#include "app/resize.hpp"
#include "segvit/segmenter.hpp"

namespace {

using segvit::app::Image;

constexpr int kMaxSide = 1 << 14;

/// Writes the next frame, or returns false after the last.
using Source = std::function<bool(Image&)>;

Source open_folder(const std::string& folder) {
    auto paths = segvit::app::find_images({folder});
    return [paths = std::move(paths), next = std::size_t{0}](Image& frame) mutable {
        if (next == paths.size()) {
            return false;
        }
        frame = segvit::app::read_image(paths[next++]);
        return true;
    };
}

/// Frames of RGB24 on standard input; `size` is WIDTHxHEIGHT, as ffmpeg writes it.
Source open_stdin(const std::string& size) {
    int width = 0;
    int height = 0;
    char cross = 0;
    std::istringstream(size) >> width >> cross >> height;
    if (cross != 'x' || width < 1 || height < 1 || width > kMaxSide || height > kMaxSide) {
        throw std::invalid_argument("'" + size + "': no such folder, and no WIDTHxHEIGHT");
    }
    return [width, height](Image& frame) {
        frame.height = height;
        frame.width = width;
        frame.pixels.resize(3 * frame.count());
        return std::fread(frame.pixels.data(), frame.pixels.size(), 1, stdin) == 1;
    };
}

std::string largest_class(const segvit::Segmenter& segmenter, const segvit::LabelMap& labels) {
    const auto& classes = segmenter.classes();
    std::vector<int> counts(classes.size(), 0);
    for (int row = 0; row < labels.height(); ++row) {
        for (int column = 0; column < labels.width(); ++column) {
            ++counts.at(static_cast<std::size_t>(labels.at(row, column)));
        }
    }
    const auto largest = std::max_element(counts.begin(), counts.end());
    return classes[static_cast<std::size_t>(largest - counts.begin())].name;
}

/// A frame that may be in the engine; waits for that before its pixels go.
struct Slot {
    Image frame;    // as it came, its memory kept for the next
    Image resized;  // what the engine reads
    std::future<segvit::LabelMap> labels;

    Slot() = default;
    Slot(const Slot&) = delete;
    Slot& operator=(const Slot&) = delete;
    Slot(Slot&&) = delete;
    Slot& operator=(Slot&&) = delete;
    ~Slot() {
        if (labels.valid()) {
            labels.wait();
        }
    }
};

int run(const segvit::Segmenter& segmenter, const Source& source) {
    std::array<Slot, 2> slots;
    int frames = 0;
    const auto finish = [&](Slot& slot) {
        if (slot.labels.valid()) {
            std::cout << frames++ << ": " << largest_class(segmenter, slot.labels.get()) << "\n";
        }
    };
    std::size_t current = 0;
    while (source(slots[current].frame)) {
        Slot& slot = slots[current];
        slot.resized = segvit::app::resize_image(slot.frame, segmenter.height(), segmenter.width());
        slot.labels = segmenter.segment_async(slot.resized.view());
        current = 1 - current;
        finish(slots[current]);  // the frame before; meanwhile this one is computed
    }
    finish(slots[1 - current]);
    return frames;
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 3) {
        std::cerr << "usage: camera_loop ARTIFACT FOLDER|WIDTHxHEIGHT\n";
        return 2;
    }
    const segvit::Segmenter segmenter = segvit::Segmenter::load(argv[1]);
    segmenter.warm_up();
    const Source source =
        std::filesystem::is_directory(argv[2]) ? open_folder(argv[2]) : open_stdin(argv[2]);
    const auto started = std::chrono::steady_clock::now();
    const int frames = run(segmenter, source);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    std::cerr << frames << " frames, " << frames / seconds.count() << " a second\n";
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
}
