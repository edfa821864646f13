#include "session.hpp"

#include <algorithm>

#include "memory_errors.hpp"
#include "views.hpp"

namespace segvit {
namespace {

std::vector<std::unique_ptr<Instance>> make_instances(Backend& backend, int count) {
    std::vector<std::unique_ptr<Instance>> instances;
    instances.reserve(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i) instances.push_back(backend.make_instance());
    return instances;
}

}  // namespace

Session::Session(EngineInfo info, std::unique_ptr<Backend> backend, int instances)
    : info_(std::move(info)), backend_(std::move(backend)) {
    pool_.emplace(make_instances(*backend_, instances));
    workers_.emplace(static_cast<std::size_t>(instances));
}

LabelMap Session::segment(const ImageView& image) {
    return std::move(segment(std::span(&image, 1)).front());
}

std::vector<LabelMap> Session::segment(std::span<const ImageView> images) {
    const auto pass = gate_.enter();
    return make_labels(images);
}

void Session::segment_into(std::span<const ImageView> images, std::span<const LabelView> labels) {
    const auto pass = gate_.enter();
    check_images(images, info_.height, info_.width);
    check_labels(labels, images.size(), info_.height, info_.width, info_.label_bytes);
    with_memory_errors("segmenting", [&] { run(images, labels); });
}

std::future<LabelMap> Session::segment_async(const ImageView& image) {
    return submit<LabelMap>(
        [this, image] { return std::move(make_labels(std::span(&image, 1)).front()); });
}

std::future<std::vector<LabelMap>> Session::segment_async(std::vector<ImageView> images) {
    return submit<std::vector<LabelMap>>(
        [this, images = std::move(images)] { return make_labels(images); });
}

void Session::warm_up() {
    const auto pass = gate_.enter();
    with_memory_errors("warming up", [this] {
        for (std::size_t i = 0; i < pool_->size(); ++i) {
            (void)pool_->take(i)->run(info_.batch.typical);
        }
    });
}

void Session::close() noexcept {
    gate_.close();
    const std::lock_guard lock(closing_);
    workers_.reset();
    pool_.reset();
    backend_.reset();
}

template <typename Result, typename Work>
std::future<Result> Session::submit(Work work) {
    auto pass = gate_.enter();
    std::packaged_task<Result()> task(std::move(work));
    auto future = task.get_future();
    workers_->submit(std::packaged_task<void()>(
        [task = std::move(task), pass = std::move(pass)]() mutable { task(); }));
    return future;
}

std::vector<LabelMap> Session::make_labels(std::span<const ImageView> images) {
    check_images(images, info_.height, info_.width);
    return with_memory_errors("segmenting", [&] {
        std::vector<LabelMap> maps;
        std::vector<LabelView> views;
        for (std::size_t i = 0; i < images.size(); ++i) {
            maps.emplace_back(info_.height, info_.width, info_.label_bytes);
            views.push_back(maps.back().view());
        }
        run(images, views);
        return maps;
    });
}

void Session::run(std::span<const ImageView> images, std::span<const LabelView> labels) {
    const auto pixels =
        static_cast<std::size_t>(info_.height) * static_cast<std::size_t>(info_.width);
    const auto image_bytes = pixels * 3;
    const auto map_bytes = pixels * static_cast<std::size_t>(info_.label_bytes);
    const auto largest = static_cast<std::size_t>(info_.batch.largest);
    const auto smallest = static_cast<std::size_t>(info_.batch.smallest);
    const auto instance = pool_->take();
    for (std::size_t start = 0; start < images.size(); start += largest) {
        const auto part = images.subspan(start, std::min(largest, images.size() - start));
        const auto filled = std::max(part.size(), smallest);
        auto* const input = instance->input().data();
        for (std::size_t i = 0; i < filled; ++i) {
            copy_image(part[std::min(i, part.size() - 1)], input + i * image_bytes);
        }
        const auto output = instance->run(static_cast<int>(filled));
        for (std::size_t i = 0; i < part.size(); ++i) {
            copy_labels(output.data() + i * map_bytes, labels[start + i]);
        }
    }
}

}  // namespace segvit
