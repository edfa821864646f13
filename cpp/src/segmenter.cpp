#include "segvit/segmenter.hpp"

#include "load.hpp"
#include "memory_errors.hpp"
#include "session.hpp"

namespace segvit {

Segmenter Segmenter::load(const std::filesystem::path& artifact, const Options& options) {
    return with_memory_errors("loading " + artifact.string(),
                              [&] { return Segmenter(load_session(artifact, options)); });
}

Segmenter::Segmenter(std::unique_ptr<Session> session) : session_(std::move(session)) {}
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;
Segmenter::~Segmenter() = default;

LabelMap Segmenter::segment(const ImageView& image) const {
    return session().segment(image);
}

std::vector<LabelMap> Segmenter::segment(std::span<const ImageView> images) const {
    return session().segment(images);
}

void Segmenter::segment_into(std::span<const ImageView> images,
                             std::span<const LabelView> labels) const {
    session().segment_into(images, labels);
}

std::future<LabelMap> Segmenter::segment_async(const ImageView& image) const {
    return session().segment_async(image);
}

std::future<std::vector<LabelMap>> Segmenter::segment_async(std::vector<ImageView> images) const {
    return session().segment_async(std::move(images));
}

void Segmenter::warm_up() const {
    session().warm_up();
}

void Segmenter::close() noexcept {
    if (session_) session_->close();
}

Target Segmenter::target() const {
    return session().info().target;
}
int Segmenter::height() const {
    return session().info().height;
}
int Segmenter::width() const {
    return session().info().width;
}
int Segmenter::label_bytes() const {
    return session().info().label_bytes;
}
BatchRange Segmenter::batch() const {
    return session().info().batch;
}
const std::vector<ClassInfo>& Segmenter::classes() const {
    return session().info().classes;
}
const std::vector<std::string>& Segmenter::notes() const {
    return session().info().notes;
}

Session& Segmenter::session() const {
    if (!session_) {
        throw Error(ErrorCode::kClosed,
                    "the segmenter was moved from; use the one it was moved to");
    }
    return *session_;
}

}  // namespace segvit
