#include "app/segment_images.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <future>
#include <map>
#include <span>

#include "app/decimal.hpp"
#include "app/files.hpp"
#include "app/overlay.hpp"
#include "app/png_file.hpp"
#include "app/resize.hpp"

namespace segvit::app {
namespace {

namespace fs = std::filesystem;

/// Images on their way through the engine; it stays where it is, since that reads its pixels.
struct Batch {
    Batch() = default;
    Batch(const Batch&) = delete;
    Batch& operator=(const Batch&) = delete;
    Batch(Batch&&) = delete;
    Batch& operator=(Batch&&) = delete;
    ~Batch() {
        if (labels.valid()) {
            labels.wait();
        }
    }

    std::vector<fs::path> paths;
    std::vector<Image> images;   // as read
    std::vector<Image> resized;  // to the engine's size; empty where they had it
    std::future<std::vector<LabelMap>> labels;
};

Labels widen(const LabelMap& map) {
    const std::span<const std::byte> bytes = map.bytes();
    Labels labels{map.height(), map.width(), {}};
    if (map.label_bytes() == 1) {
        labels.ids.resize(bytes.size());
        std::transform(bytes.begin(), bytes.end(), labels.ids.begin(),
                       [](std::byte id) { return std::to_integer<std::uint16_t>(id); });
        return labels;
    }
    labels.ids.resize(bytes.size() / sizeof(std::int32_t));
    for (std::size_t pixel = 0; pixel < labels.ids.size(); ++pixel) {
        std::int32_t id = 0;
        std::memcpy(&id, bytes.data() + pixel * sizeof id, sizeof id);
        labels.ids[pixel] = static_cast<std::uint16_t>(id);
    }
    return labels;
}

Segmented write_result(const Segmenter& segmenter, const fs::path& path, const Image& image,
                       const LabelMap& map, const Arguments& arguments) {
    Labels labels = widen(map);
    if (labels.height != image.height || labels.width != image.width) {
        labels = resize_labels(labels, image.height, image.width);
    }
    const std::vector<ClassInfo>& classes = segmenter.classes();
    const std::string stem = path.stem().string();
    Segmented result{
        path, arguments.out / (stem + ".labels.png"), arguments.out / (stem + ".overlay.png"), {}};
    write_file(result.labels, encode_png(labels, classes.size()));
    write_file(result.overlay, encode_png(draw_overlay(image, labels, classes, arguments.opacity)));
    const std::vector<double> shares = class_shares(labels, classes.size());
    for (std::size_t index = 0; index < classes.size(); ++index) {
        if (shares[index] > 0.0) {
            result.shares.emplace_back(classes[index].name, shares[index]);
        }
    }
    return result;
}

/// Reads a part of the images into `batch` and hands them to the engine.
void start(Batch& batch, const Segmenter& segmenter, std::span<const fs::path> paths) {
    const int height = segmenter.height();
    const int width = segmenter.width();
    for (const fs::path& path : paths) {
        batch.paths.push_back(path);
        const Image& image = batch.images.emplace_back(read_image(path));
        const bool fits = image.height == height && image.width == width;
        batch.resized.push_back(fits ? Image{} : resize_image(image, height, width));
    }
    std::vector<ImageView> views;
    for (std::size_t i = 0; i < batch.images.size(); ++i) {
        const bool fits = batch.resized[i].pixels.empty();
        views.push_back((fits ? batch.images : batch.resized)[i].view());
    }
    batch.labels = segmenter.segment_async(std::move(views));
}

}  // namespace

void check_stems(const std::vector<fs::path>& paths) {
    std::map<std::string, fs::path> seen;
    for (const fs::path& path : paths) {
        const std::string stem = path.stem().string();
        const auto [other, is_new] = seen.emplace(stem, path);
        if (!is_new) {
            throw Error(ErrorCode::kInvalidArgument,
                        "images '" + other->second.string() + "' and '" + path.string() +
                            "' would both be written as '" + stem +
                            ".labels.png'; rename one, or segment them into different --out "
                            "folders");
        }
    }
}

void segment_images(const Segmenter& segmenter, const std::vector<fs::path>& paths,
                    const Arguments& arguments,
                    const std::function<void(const Segmented&)>& report) {
    if (!(arguments.opacity >= 0.0 && arguments.opacity <= 1.0)) {
        throw Error(ErrorCode::kInvalidArgument,
                    "--opacity: expected 0 to 1, got " + shortest(arguments.opacity));
    }
    const auto count = static_cast<std::size_t>(choose_batch(arguments, segmenter.batch()));
    const auto most = static_cast<std::size_t>(arguments.options.instances);
    std::deque<Batch> in_flight;
    const auto finish_first = [&] {
        Batch& batch = in_flight.front();
        const std::vector<LabelMap> labels = batch.labels.get();
        for (std::size_t i = 0; i < labels.size(); ++i) {
            report(write_result(segmenter, batch.paths[i], batch.images[i], labels[i], arguments));
        }
        in_flight.pop_front();
    };
    const std::span<const fs::path> all(paths);
    for (std::size_t first = 0; first < all.size(); first += count) {
        Batch& batch = in_flight.emplace_back();
        try {
            start(batch, segmenter, all.subspan(first, std::min(count, all.size() - first)));
        } catch (...) {
            in_flight.pop_back();
            while (!in_flight.empty()) {
                finish_first();
            }
            throw;
        }
        if (in_flight.size() > most) {
            finish_first();
        }
    }
    while (!in_flight.empty()) {
        finish_first();
    }
}

}  // namespace segvit::app
