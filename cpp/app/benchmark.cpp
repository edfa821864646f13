#include "app/benchmark.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <future>
#include <numeric>
#include <vector>

namespace segvit::app {
namespace {

using Clock = std::chrono::steady_clock;
using Milliseconds = std::chrono::duration<double, std::milli>;

/// Images and memory for their labels, of one thread.
class Caller {
public:
    Caller(const Segmenter& segmenter, const Image& image, int batch)
        : segmenter_(segmenter), images_(static_cast<std::size_t>(batch), image.view()) {
        for (int i = 0; i < batch; ++i) {
            maps_.emplace_back(image.height, image.width, segmenter.label_bytes());
        }
        for (LabelMap& map : maps_) {
            labels_.push_back(map.view());
        }
    }
    void call() { segmenter_.segment_into(images_, labels_); }

private:
    const Segmenter& segmenter_;
    std::vector<ImageView> images_;
    std::vector<LabelMap> maps_;
    std::vector<LabelView> labels_;
};

/// Returns a percentile of sorted values, interpolated linearly as NumPy does.
double percentile(const std::vector<double>& sorted, double percent) {
    const double position = percent / 100.0 * static_cast<double>(sorted.size() - 1);
    const auto lower = static_cast<std::size_t>(position);
    const std::size_t upper = std::min(lower + 1, sorted.size() - 1);
    return std::lerp(sorted[lower], sorted[upper], position - std::floor(position));
}

}  // namespace

Timing time_calls(const Segmenter& segmenter, const Image& image, int batch, int instances,
                  int runs) {
    segmenter.warm_up();
    std::vector<Caller> callers;
    for (int i = 0; i < instances; ++i) {
        callers.emplace_back(segmenter, image, batch).call();
    }
    std::vector<double> latencies(static_cast<std::size_t>(runs));
    std::atomic<std::size_t> next{0};
    const auto call_until_done = [&](Caller& caller) {
        for (std::size_t run = next++; run < latencies.size(); run = next++) {
            const auto started = Clock::now();
            caller.call();
            latencies[run] = Milliseconds(Clock::now() - started).count();
        }
    };
    const auto started = Clock::now();
    {
        std::vector<std::future<void>> others;
        for (std::size_t i = 1; i < callers.size(); ++i) {
            others.push_back(std::async(std::launch::async, call_until_done, std::ref(callers[i])));
        }
        call_until_done(callers.front());
        for (std::future<void>& other : others) {
            other.get();
        }
    }
    const double seconds = Milliseconds(Clock::now() - started).count() / 1000.0;
    std::sort(latencies.begin(), latencies.end());
    return {runs,
            batch,
            instances,
            percentile(latencies, 50),
            percentile(latencies, 90),
            percentile(latencies, 99),
            runs * batch / seconds};
}

}  // namespace segvit::app
