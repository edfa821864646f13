/// JSON values that know where they stand, so that every complaint names its field.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace segvit {

/// A field that is missing, or of another type or value than the manifest's rules ask for.
class FieldError : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

class Field {
public:
    /// Refers to `value`, which outlives the field; `where` is empty for the whole file.
    Field(const nlohmann::json& value, std::string where)
        : value_(value), where_(std::move(where)) {}

    /// Returns a member of an object. Throws `FieldError` if there is none.
    [[nodiscard]] Field operator[](std::string_view name) const;
    /// Returns a member, or nothing if it is absent; null counts as absent where `or_null`.
    [[nodiscard]] std::optional<Field> find(std::string_view name, bool or_null = false) const;

    [[nodiscard]] std::string text() const;
    [[nodiscard]] std::int64_t whole() const;
    [[nodiscard]] double number() const;
    [[nodiscard]] bool flag() const;
    [[nodiscard]] std::vector<std::string> texts() const;
    /// Returns a list of whole numbers, `count` of them.
    [[nodiscard]] std::vector<std::int64_t> wholes(std::size_t count) const;
    [[nodiscard]] bool is_text() const;
    [[nodiscard]] bool is_whole(std::int64_t expected) const;
    [[nodiscard]] bool is_plain() const;  ///< neither a list nor an object

    /// Calls `visit` with each entry of a list.
    void each(const std::function<void(const Field&)>& visit) const;
    /// Calls `visit` with the name and value of each member of an object.
    void each_member(const std::function<void(const std::string&, const Field&)>& visit) const;

    /// The value as messages show it.
    [[nodiscard]] std::string shown() const;
    /// Throws `FieldError`: "<where>: expected <what>, got <value>".
    [[noreturn]] void refuse(std::string_view expected) const;

private:
    void require(bool fits, std::string_view expected) const {
        if (!fits) refuse(expected);
    }
    [[nodiscard]] std::string path_to(std::string_view name) const;

    const nlohmann::json& value_;
    std::string where_;
};

/// A text as JSON, whose lists and objects nest at most `kMaxDepth` deep.
class Document {
public:
    static constexpr int kMaxDepth = 64;

    /// Throws `FieldError` for anything else.
    explicit Document(std::string_view text);
    ~Document();
    Document(const Document&) = delete;
    Document& operator=(const Document&) = delete;
    [[nodiscard]] Field root() const;

private:
    std::unique_ptr<const nlohmann::json> value_;  // its header is included in one file only
};

}  // namespace segvit
