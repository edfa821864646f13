#include "views.hpp"

#include <cstring>

#include "text.hpp"

namespace segvit {
namespace {

constexpr int kChannels = 3;

[[noreturn]] void refuse(const std::string& message) {
    throw Error(ErrorCode::kInvalidArgument, message);
}

/// What images and labels have in common.
struct Shape {
    const void* data;
    int height, width;
    std::ptrdiff_t stride, row_bytes;
};

void check_shape(const Shape& got, int height, int width, const std::string& name) {
    if (got.data == nullptr) refuse(name + ": expected memory, got a null pointer");
    if (got.height != height || got.width != width) {
        refuse(concat(name, ": expected height ", height, " and width ", width,
                      " as the engine has, got ", got.height, " and ", got.width, "; resize it"));
    }
    if (got.stride != 0 && got.stride < got.row_bytes && got.stride > -got.row_bytes) {
        refuse(concat(name, ": expected a stride of at least ", got.row_bytes,
                      " bytes (a row) or 0, got ", got.stride));
    }
}

}  // namespace

void check_images(std::span<const ImageView> images, int height, int width) {
    if (images.empty()) refuse("images: expected at least one, got none");
    for (std::size_t i = 0; i < images.size(); ++i) {
        const auto& image = images[i];
        const Shape shape{image.data, image.height, image.width, image.stride,
                          std::ptrdiff_t{width} * kChannels};
        check_shape(shape, height, width, concat("images[", i, "]"));
    }
}

void check_labels(std::span<const LabelView> labels, std::size_t count, int height, int width,
                  int label_bytes) {
    if (labels.size() != count) {
        refuse(concat("labels: expected one for each of ", count, " images, got ", labels.size()));
    }
    for (std::size_t i = 0; i < labels.size(); ++i) {
        const auto& view = labels[i];
        const auto name = concat("labels[", i, "]");
        if (view.label_bytes != label_bytes) {
            refuse(
                concat(name, ": expected label_bytes ", label_bytes, ", got ", view.label_bytes));
        }
        const Shape shape{view.data, view.height, view.width, view.stride,
                          std::ptrdiff_t{width} * label_bytes};
        check_shape(shape, height, width, name);
    }
}

void copy_image(const ImageView& image, std::uint8_t* to) {
    const auto row = static_cast<std::size_t>(image.width) * kChannels;
    const auto stride = image.stride != 0 ? image.stride : static_cast<std::ptrdiff_t>(row);
    for (int y = 0; y < image.height; ++y) {
        std::memcpy(to + static_cast<std::size_t>(y) * row, image.data + y * stride, row);
    }
}

void copy_labels(const std::byte* from, const LabelView& labels) {
    const auto row =
        static_cast<std::size_t>(labels.width) * static_cast<std::size_t>(labels.label_bytes);
    const auto stride = labels.stride != 0 ? labels.stride : static_cast<std::ptrdiff_t>(row);
    auto* const to = static_cast<std::byte*>(labels.data);
    for (int y = 0; y < labels.height; ++y) {
        std::memcpy(to + y * stride, from + static_cast<std::size_t>(y) * row, row);
    }
}

LabelMap::LabelMap(int height, int width, int label_bytes)
    : height_(height), width_(width), label_bytes_(label_bytes) {
    if (height < 0 || width < 0 || (label_bytes != 1 && label_bytes != 4)) {
        refuse(concat("label map: expected sides of at least 0 and 1 or 4 bytes a label, got ",
                      height, ", ", width, " and ", label_bytes));
    }
    data_.resize(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) *
                 static_cast<std::size_t>(label_bytes));
}

int LabelMap::at(int row, int column) const {
    if (row < 0 || row >= height_ || column < 0 || column >= width_) {
        refuse(concat("label map: expected a pixel within ", height_, " rows and ", width_,
                      " columns, got row ", row, ", column ", column));
    }
    const auto index = static_cast<std::size_t>(row) * static_cast<std::size_t>(width_) +
                       static_cast<std::size_t>(column);
    if (label_bytes_ == 1) return std::to_integer<int>(data_[index]);
    std::int32_t label = 0;
    std::memcpy(&label, data_.data() + index * sizeof(label), sizeof(label));
    return label;
}

LabelView LabelMap::view() noexcept {
    return {.data = data_.data(),
            .height = height_,
            .width = width_,
            .label_bytes = label_bytes_,
            .stride = 0};
}

}  // namespace segvit
