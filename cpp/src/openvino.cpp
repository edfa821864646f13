#include <algorithm>
#include <fstream>
#include <openvino/openvino.hpp>
#include <sstream>

#include "artifact_files.hpp"
#include "backend.hpp"
#include "text.hpp"

namespace segvit {
namespace {

constexpr const char* kCpuInfo = "/proc/cpuinfo";

/// Whether this CPU is known to add products of INT8 in 32 bits.
bool sums_int8_exactly() {
    std::ifstream file(kCpuInfo);
    std::string word;
    while (file >> word) {
        if (word == "avx512_vnni" || word == "avx_vnni" || word == "amx_int8" ||
            word == "asimddp") {
            return true;
        }
    }
    return false;
}

/// The graph is computed as it is written:
/// 1. Floats are summed in FP32, unless the file holds BF16 and the CPU computes it: by itself
///    OpenVINO takes BF16 where it can, which is not what was verified.
/// 2. Products in INT8 are INT8 where the CPU sums them in 32 bits. Without such instructions
///    OpenVINO's pairwise sums saturate at 16 bits, so there they are computed in floats, as
///    quantised as they are.
/// 3. A stream runs one request at a time, so each instance needs its own.
ov::AnyMap make_settings(const Options& options, bool in_bf16) {
    ov::AnyMap settings{
        ov::hint::inference_precision(in_bf16 ? ov::element::bf16 : ov::element::f32),
        ov::num_streams(options.instances)};
    if (options.threads > 0) settings.insert(ov::inference_num_threads(options.threads));
    if (!sums_int8_exactly()) settings.emplace("LP_TRANSFORMS_MODE", "OFF");
    return settings;
}

/// Never freed: on CPUs with AMX OpenVINO's plugin gives the thread that loads it another stack for
/// signal handlers and frees that with its last user, on whatever thread; a signal would then end
/// the process.
ov::Core& openvino_core() {
    static auto* const core = new ov::Core;
    return *core;
}

/// Whether a model that was read has values in BF16.
bool holds_bf16(const ov::Model& model) {
    return std::ranges::any_of(model.get_ops(), [](const auto& node) {
        return std::ranges::any_of(node->outputs(), [](const auto& output) {
            return output.get_element_type() == ov::element::bf16;
        });
    });
}

/// Whether this CPU has BF16 instructions.
bool computes_bf16(const ov::Core& core) {
    const auto capabilities = core.get_property("CPU", ov::device::capabilities);
    return std::ranges::find(capabilities, ov::device::capability::BF16) != capabilities.end();
}

/// OpenVINO's messages go from the general to the particular, a line each.
std::string last_line(const ov::Exception& error) {
    std::istringstream lines(error.what());
    std::string line, last;
    while (std::getline(lines, line)) {
        const auto start = line.find_first_not_of(" \t\r");
        if (start != std::string::npos) last = line.substr(start);
    }
    return last;
}

ov::element::Type label_type(const Manifest& manifest) {
    return manifest.output.dtype == "int32" ? ov::element::i32 : ov::element::u8;
}

ov::Shape image_shape(const Manifest& manifest, int batch) {  // (B, H, W, 3)
    const auto& [name, height, width] = manifest.input;
    return {static_cast<std::size_t>(batch), static_cast<std::size_t>(height),
            static_cast<std::size_t>(width), 3};
}

ov::Shape label_shape(const Manifest& manifest, int batch) {  // (B, H, W)
    auto shape = image_shape(manifest, batch);
    shape.pop_back();
    return shape;
}

class OpenVinoInstance : public Instance {
public:
    OpenVinoInstance(ov::InferRequest request, const Manifest& manifest)
        : request_(std::move(request)),
          images_(ov::element::u8, image_shape(manifest, manifest.batch.largest)),
          labels_(label_type(manifest), label_shape(manifest, manifest.batch.largest)) {}

    std::span<std::uint8_t> input() override {
        return {images_.data<std::uint8_t>(), images_.get_byte_size()};
    }

    std::span<const std::byte> run(int count) override {
        const auto images = first(images_, count), labels = first(labels_, count);
        try {
            request_.set_input_tensor(images);
            request_.set_output_tensor(labels);
            request_.infer();
        } catch (const ov::Exception& error) {
            throw Error(ErrorCode::kRuntime,
                        "OpenVINO failed to run the model: " + last_line(error));
        }
        return {static_cast<const std::byte*>(labels_.data()), labels.get_byte_size()};
    }

private:
    /// Returns the first `count` entries of a batch, where they are.
    static ov::Tensor first(const ov::Tensor& batch, int count) {
        auto shape = batch.get_shape();
        shape[0] = static_cast<std::size_t>(count);
        return {batch.get_element_type(), shape, batch.data()};
    }

    ov::InferRequest request_;
    ov::Tensor images_, labels_;  // of the largest batch
};

class OpenVinoBackend : public Backend {
public:
    OpenVinoBackend(ov::CompiledModel model, Manifest manifest)
        : model_(std::move(model)), manifest_(std::move(manifest)) {}

    std::unique_ptr<Instance> make_instance() override {
        try {
            return std::make_unique<OpenVinoInstance>(model_.create_infer_request(), manifest_);
        } catch (const ov::Exception& error) {
            throw Error(ErrorCode::kRuntime,
                        "OpenVINO made no inference request: " + last_line(error));
        }
    }

private:
    ov::CompiledModel model_;
    Manifest manifest_;
};

/// Refuses a tensor that is not what the manifest says, for its smallest or its largest batch.
void check_tensor(const ov::Output<const ov::Node>& port, const std::string& name,
                  ov::element::Type type, const ov::Shape& smallest, const ov::Shape& largest) {
    const auto& shape = port.get_partial_shape();
    const bool fits = port.get_names().contains(name) && port.get_element_type() == type &&
                      shape.compatible(smallest) && shape.compatible(largest);
    if (fits) return;
    throw Error(ErrorCode::kDamaged,
                concat("its tensor '", listed(port.get_names()), "' is ", port.get_element_type(),
                       " ", shape, ", and the manifest lists '", shortened(name), "', ", type, " ",
                       smallest, " to ", largest));
}

/// Returns the path of the ONNX file, it and its weights as built.
std::filesystem::path verify_onnx(const Manifest& manifest) {
    const auto entry = manifest.entries_of(Target::kOpenVino).at(0);
    for (const auto& [name, hash] : manifest.files) {
        // External data of a model above 2 GB.
        if (name.starts_with(entry.file + ".")) (void)manifest.verify_file(name);
    }
    return manifest.verify_file(entry.file);
}

}  // namespace

std::unique_ptr<Backend> load_openvino(const Manifest& manifest, const Options& options) {
    const auto path = verify_onnx(manifest);
    const auto& [smallest, typical, largest] = manifest.batch;
    try {
        auto& core = openvino_core();
        const auto graph = core.read_model(path.string());
        const bool in_bf16 = holds_bf16(*graph) && computes_bf16(core);
        auto model = core.compile_model(graph, "CPU", make_settings(options, in_bf16));
        check_tensor(model.input(), manifest.input.name, ov::element::u8,
                     image_shape(manifest, smallest), image_shape(manifest, largest));
        check_tensor(model.output(), manifest.output.name, label_type(manifest),
                     label_shape(manifest, smallest), label_shape(manifest, largest));
        return std::make_unique<OpenVinoBackend>(std::move(model), manifest);
    } catch (const ov::Exception& error) {
        throw Error(ErrorCode::kIncompatible,
                    concat(quoted(path), " does not load on OpenVINO: ", last_line(error)));
    } catch (const Error& error) {
        throw Error(error.code(), concat(quoted(path), " does not fit its manifest: ", error.what(),
                                         "; build the artifact again: ", rebuild_command(path)));
    }
}

/// OpenVINO is linked, and every CPU has it.
std::string openvino_refusal(const Manifest& /*manifest*/, const Options& /*options*/) {
    return {};
}

}  // namespace segvit
