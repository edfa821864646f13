#include "app/arguments.hpp"

#include <CLI/CLI.hpp>
#include <iostream>

namespace segvit::app {
namespace {

constexpr int kWrongArguments = 2;
constexpr const char* kDescription =
    "Segment images: class ids as <stem>.labels.png, a picture of them as <stem>.overlay.png.\n\n"
    "PNG and JPEG. An image of another size than the engine's is resized (linearly), its labels\n"
    "back (nearest). The alpha channel is dropped, 16-bit channels are scaled to 8, EXIF\n"
    "orientation is applied. Images are read while others are computed. --self-test needs no\n"
    "images: it compares the engine's labels with those that the artifact has of PyTorch, and\n"
    "fails below the gate of its precision.";
constexpr const char* kExample =
    "example:\n"
    "  segvit-segment --artifact artifacts/vit_t_landcover-256x256-fp16 \\\n"
    "      photo.jpg tiles/ --out segments";

/// Throws CLI11's error where arguments do not go together.
void check_combination(const Arguments& arguments) {
    if (arguments.self_test && arguments.benchmark > 0) {
        throw CLI::ValidationError("--self-test and --benchmark are two things; give one");
    }
    if (arguments.self_test && !(arguments.images.empty() && arguments.out.empty())) {
        throw CLI::ValidationError("--self-test takes neither IMAGE nor --out");
    }
    if (arguments.benchmark > 0 && !(arguments.images.size() == 1 && arguments.out.empty())) {
        throw CLI::ValidationError("--benchmark takes one IMAGE and no --out");
    }
    if (!arguments.self_test && arguments.benchmark == 0 &&
        (arguments.images.empty() || arguments.out.empty())) {
        throw CLI::ValidationError("IMAGE and --out are required, or --self-test or --benchmark");
    }
}

}  // namespace

std::variant<Arguments, int> parse_arguments(int argc, const char* const* argv) {
    Arguments arguments;
    std::string target = "auto";
    CLI::App app(kDescription, "segvit-segment");
    app.footer(kExample);
    app.add_option("IMAGE", arguments.images, "image files or folders")->type_name("");
    const auto add = [&app](const char* name, auto& value, const char* type, const char* help) {
        return app.add_option(name, value, help)->type_name(type);
    };
    add("--artifact", arguments.artifact, "DIR", "made by python -m export.build")->required();
    add("--digest", arguments.options.digest, "SHA256",
        "refuse any artifact but that of this digest, which builds print");
    add("--out", arguments.out, "DIR", "folder for the results");
    add("--target", target, "NAME", "auto, trt, trt-rtx or openvino (default: the best that runs)")
        ->check(CLI::IsMember({"auto", "trt", "trt-rtx", "openvino"}).description(""));
    add("--device", arguments.options.device, "N", "the GPU's number (default 0)");
    add("--threads", arguments.options.threads, "N", "CPU threads (default: OpenVINO's choice)");
    add("--instances", arguments.options.instances, "N", "calls at the same time (default 1)");
    add("--batch", arguments.batch, "N", "images a call (default: the engine's typical)");
    add("--opacity", arguments.opacity, "X", "of the overlay's colours, 0 to 1 (default 0.5)");
    add("--benchmark", arguments.benchmark, "N", "time N runs on one IMAGE, write nothing")
        ->check(CLI::Range(1, 1'000'000).description(""));
    app.add_flag("--self-test", arguments.self_test, "compare golden.npz, segment nothing");
    app.add_flag("--json", arguments.json, "print files and class shares, or figures, as JSON");
    app.add_flag("-v,--verbose", arguments.verbose, "why a target was not used");
    try {
        app.parse(argc, argv);
        check_combination(arguments);
    } catch (const CLI::CallForHelp&) {
        std::cout << app.help();
        return 0;
    } catch (const CLI::ParseError& error) {
        std::cerr << "error: " << error.what() << "; see segvit-segment --help\n";
        return kWrongArguments;
    }
    arguments.options.target = parse_target(target);
    return arguments;
}

int choose_batch(const Arguments& arguments, const BatchRange& range) {
    const int batch = arguments.batch.value_or(range.typical);
    if (batch < range.smallest || batch > range.largest) {
        throw Error(ErrorCode::kInvalidArgument,
                    "--batch: the engine takes " + std::to_string(range.smallest) + " to " +
                        std::to_string(range.largest) + " images, got " + std::to_string(batch));
    }
    return batch;
}

}  // namespace segvit::app
