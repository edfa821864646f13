#include "manifest_records.hpp"

#include <initializer_list>

namespace segvit {
namespace {

using Names = std::initializer_list<std::string_view>;

void check_texts(const Field& object, Names names) {
    for (const auto name : names) {
        if (const auto field = object.find(name, /*or_null=*/true)) (void)field->text();
    }
}

void check_numbers(const Field& object, Names names) {
    for (const auto name : names) {
        if (const auto field = object.find(name, /*or_null=*/true)) (void)field->number();
    }
}

void check_audit(const Field& audit) {
    for (const auto name : {"kernels", "attentions", "fused_attentions"}) {
        (void)audit[name].whole();
    }
    for (const auto name : {"traffic_mb", "activation_mb"}) (void)audit[name];
    check_numbers(audit, {"traffic_mb", "activation_mb"});
    audit["gemm_datatypes"].each_member(
        [](const auto&, const Field& count) { (void)count.whole(); });
    if (const auto parts = audit.find("parts")) {
        parts->each_member([](const std::string&, const Field& part) {
            (void)part["kernels"].whole();
            (void)part["traffic_mb"];
            check_numbers(part, {"traffic_mb"});
        });
    }
    if (const auto unfused = audit.find("unfused")) (void)unfused->texts();
}

void check_model(const Field& model) {
    check_texts(model, {"checkpoint_sha256"});
    for (const auto name : {"crop", "stride", "short_side"}) {
        if (const auto size = model.find(name, /*or_null=*/true)) (void)size->whole();
    }
    for (const auto name : {"mean", "std"}) {
        const auto colour = model.find(name, /*or_null=*/true);
        if (!colour) continue;
        int channels = 0;
        colour->each([&](const Field& channel) {
            (void)channel.number();
            ++channels;
        });
        if (channels != 3) colour->refuse("3 entries");
    }
}

void check_parity(const Field& parity) {
    (void)parity["images"].whole();
    check_numbers(parity, {"pixel_agreement", "miou_reference", "miou", "max_class_iou_drop",
                           "max_score_error"});
    if (const auto details = parity.find("details")) {
        details->each_member([](const std::string&, const Field& value) {
            if (!value.is_plain()) value.refuse("true or false, a number, a text or null");
        });
    }
}

}  // namespace

void check_build_records(const Field& values) {
    if (const auto targets = values.find("targets")) {
        targets->each([](const Field& built) {
            if (const auto audit = built.find("audit", /*or_null=*/true)) check_audit(*audit);
            check_numbers(built, {"build_seconds"});
        });
    }
    if (const auto missing = values.find("not_built")) {
        missing->each([](const Field& entry) {
            (void)entry["target"].text();
            (void)entry["reason"].text();
        });
    }
    if (const auto warnings = values.find("warnings")) (void)warnings->texts();
}

void check_records(const Field& manifest) {
    check_model(manifest["model"]);
    check_build_records(manifest);
    if (const auto parity = manifest.find("parity", /*or_null=*/true)) check_parity(*parity);
    if (const auto command = manifest.find("command")) (void)command->text();
    if (const auto versions = manifest.find("versions")) {
        versions->each_member(
            [](const std::string&, const Field& version) { (void)version.text(); });
    }
}

}  // namespace segvit
