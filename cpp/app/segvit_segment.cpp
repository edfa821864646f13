/// segvit-segment: `python -m engines.segment` without Python.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <exception>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <variant>

#include "app/arguments.hpp"
#include "app/benchmark.hpp"
#include "app/decimal.hpp"
#include "app/files.hpp"
#include "app/resize.hpp"
#include "app/segment_images.hpp"
#include "app/self_test.hpp"

namespace segvit::app {
namespace {

using Json = nlohmann::ordered_json;

/// Where progress goes, so that standard output is JSON alone where that was asked for.
std::ostream& progress(const Arguments& arguments) {
    return arguments.json ? std::cerr : std::cout;
}

void print(const Json& document) {
    // File names need not be UTF-8, which JSON has to be.
    std::cout << document.dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
}

Json describe(const Segmented& result) {
    Json shares = Json::object();
    for (const auto& [name, share] : result.shares) {
        shares[name] = std::round(share * 1e6) / 1e6;
    }
    return {{"image", result.image.string()},
            {"labels", result.labels.string()},
            {"overlay", result.overlay.string()},
            {"shares", shares}};
}

std::string list_shares(Segmented result) {
    std::stable_sort(
        result.shares.begin(), result.shares.end(),
        [](const auto& left, const auto& right) { return left.second > right.second; });
    std::string text = result.image.string() + ":";
    for (const auto& [name, share] : result.shares) {
        text += (text.back() == ':' ? " " : ", ") + name + " " +
                (share < 0.001 ? "<0.1" : decimal(100.0 * share, 1)) + " %";
    }
    return text;
}

void segment_all(const Segmenter& segmenter, const std::vector<std::filesystem::path>& paths,
                 const Arguments& arguments) {
    const std::string target(name_of(segmenter.target()));
    std::ostream& out = progress(arguments);
    out << "segmenting " << paths.size() << " images on " << target << " into "
        << arguments.out.string() << std::endl;
    const auto started = std::chrono::steady_clock::now();
    Json images = Json::array();
    segment_images(segmenter, paths, arguments, [&](const Segmented& result) {
        images.push_back(describe(result));
        out << list_shares(result) << std::endl;
    });
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
    out << "wrote " << 2 * images.size() << " files to " << arguments.out.string() << " in "
        << decimal(seconds.count(), 1) << " s" << std::endl;
    if (arguments.json) {
        print({{"artifact", arguments.artifact.string()},
               {"target", target},
               {"seconds", std::round(seconds.count() * 1e3) / 1e3},
               {"images", std::move(images)}});
    }
}

void self_test(const Segmenter& segmenter, const Arguments& arguments) {
    const Manifest manifest = Manifest::read(arguments.artifact, arguments.options.digest);
    const Golden golden = read_golden(manifest);
    progress(arguments) << "testing " << manifest.precision << " on " << name_of(segmenter.target())
                        << " with " << golden.count << " images" << std::endl;
    const SelfTest result = run_self_test(segmenter, golden, manifest);
    if (arguments.json) {
        print({{"artifact", arguments.artifact.string()},
               {"target", result.target},
               {"precision", result.precision},
               {"images", result.images},
               {"agreement", result.agreement},
               {"gate", result.gate ? Json(*result.gate) : Json()}});
    } else {
        for (std::size_t index = 0; index < result.images.size(); ++index) {
            std::cout << "image " << index << ": " << decimal(result.images[index], 5)
                      << " of labels equal\n";
        }
        std::cout << "all: " << decimal(result.agreement, 5) << " of labels equal; "
                  << (result.gate
                          ? "the gate of " + result.precision + " is " + shortest(*result.gate)
                          : "random weights: labels are near-ties, nothing is gated")
                  << std::endl;
    }
    check_self_test(result);
}

void benchmark(const Segmenter& segmenter, const std::filesystem::path& path,
               const Arguments& arguments) {
    const Image image = resize_image(read_image(path), segmenter.height(), segmenter.width());
    const int batch = choose_batch(arguments, segmenter.batch());
    const std::string target(name_of(segmenter.target()));
    const Timing timing =
        time_calls(segmenter, image, batch, arguments.options.instances, arguments.benchmark);
    if (arguments.json) {
        print({{"artifact", arguments.artifact.string()},
               {"target", target},
               {"runs", timing.runs},
               {"batch", timing.batch},
               {"instances", timing.instances},
               {"median_ms", timing.median_ms},
               {"p90_ms", timing.p90_ms},
               {"p99_ms", timing.p99_ms},
               {"images_per_second", timing.images_per_second}});
        return;
    }
    std::cout << timing.runs << " runs on " << target << ", batch " << timing.batch << ", "
              << timing.instances << " at once: median " << decimal(timing.median_ms, 2)
              << " ms, p90 " << decimal(timing.p90_ms, 2) << " ms, p99 "
              << decimal(timing.p99_ms, 2) << " ms, " << decimal(timing.images_per_second, 1)
              << " images/s" << std::endl;
}

void run(const Arguments& arguments) {
    const std::vector<std::filesystem::path> paths = find_images(arguments.images);
    check_stems(paths);
    if (!arguments.out.empty()) {
        make_folder(arguments.out);
    }
    const Segmenter segmenter = Segmenter::load(arguments.artifact, arguments.options);
    if (arguments.verbose) {
        for (const std::string& note : segmenter.notes()) {
            progress(arguments) << "note: " << note << std::endl;
        }
    }
    if (arguments.self_test) {
        self_test(segmenter, arguments);
    } else if (arguments.benchmark > 0) {
        if (paths.size() != 1) {
            throw Error(ErrorCode::kInvalidArgument,
                        "--benchmark: expected one image, got " + std::to_string(paths.size()));
        }
        benchmark(segmenter, paths.front(), arguments);
    } else {
        segment_all(segmenter, paths, arguments);
    }
}

/// Prints an error as one line, whatever library its text is from.
int fail(const std::string& message) {
    std::istringstream words(message);
    std::string word;
    std::cerr << "error:";
    while (words >> word) {
        std::cerr << " " << word;
    }
    std::cerr << std::endl;
    return 1;
}

}  // namespace
}  // namespace segvit::app

int main(int argc, char** argv) {
    // A file above the limit is an error like any other, not the end of the process.
    std::signal(SIGXFSZ, SIG_IGN);
    try {
        const auto parsed = segvit::app::parse_arguments(argc, argv);
        if (const int* code = std::get_if<int>(&parsed)) {
            return *code;
        }
        segvit::app::run(std::get<segvit::app::Arguments>(parsed));
        return 0;
    } catch (const std::bad_alloc&) {
        return segvit::app::fail("out of memory; give smaller images or a smaller --batch");
    } catch (const std::exception& error) {
        return segvit::app::fail(error.what());
    }
}
