/// After warm-up, a call allocates nothing of an image's size.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "artifacts.hpp"
#include "segvit/segmenter.hpp"

namespace {

std::atomic<std::size_t> largest_allocation = 0;

void* allocate(std::size_t count, std::size_t alignment) {
    auto largest = largest_allocation.load();
    while (count > largest && !largest_allocation.compare_exchange_weak(largest, count)) {}
    void* memory = nullptr;
    if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), count) != 0) {
        throw std::bad_alloc();
    }
    return memory;
}

}  // namespace

// Those of libraries are replaced with them.
void* operator new(std::size_t count) {
    return allocate(count, alignof(std::max_align_t));
}
void* operator new(std::size_t count, std::align_val_t alignment) {
    return allocate(count, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}

namespace segvit::test {
namespace {

class Allocation : public testing::TestWithParam<const char*> {};

TEST_P(Allocation, OfAnImagesSizeIsMadeByNoCall) {
    const auto segmenter = Segmenter::load(artifact(GetParam()));
    const auto pixels = make_pixels(0);
    const std::vector<ImageView> images(4, view_of(pixels));
    std::vector<LabelMap> maps(4, LabelMap(kHeight, kWidth, 1));
    std::vector<LabelView> labels;
    for (auto& map : maps) labels.push_back(map.view());
    segmenter.segment_into(images, labels);
    largest_allocation = 0;
    for (int i = 0; i < 3; ++i) segmenter.segment_into(images, labels);
    // The labels of an image; the pixels of one are three times as many.
    EXPECT_LT(largest_allocation, std::size_t{kHeight} * kWidth);
    expect_labels(maps[3], pixels);
}

INSTANTIATE_TEST_SUITE_P(Batches, Allocation, testing::Values("single", "range", "four"));

TEST(Allocation, IsCounted) {
    largest_allocation = 0;
    const LabelMap map(kHeight, kWidth, 4);
    EXPECT_EQ(largest_allocation, std::size_t{kHeight} * kWidth * 4);
}

}  // namespace
}  // namespace segvit::test
