#include "field.hpp"

#include <nlohmann/json.hpp>

#include "text.hpp"

namespace segvit {

using nlohmann::json;

Field Field::operator[](std::string_view name) const {
    auto member = find(name);
    if (!member) throw FieldError(path_to(name) + " is missing");
    return *member;
}

std::optional<Field> Field::find(std::string_view name, bool or_null) const {
    require(value_.is_object(), "an object");
    const auto found = value_.find(name);
    if (found == value_.end() || (or_null && found->is_null())) return std::nullopt;
    return Field(*found, path_to(name));
}

std::string Field::text() const {
    require(value_.is_string(), "a text");
    return value_.get<std::string>();
}

std::int64_t Field::whole() const {
    // An unsigned number above the signed range would turn negative.
    const bool fits = value_.is_number_integer() &&
                      (!value_.is_number_unsigned() || value_.get<std::uint64_t>() <= INT64_MAX);
    require(fits, "a whole number");
    return value_.get<std::int64_t>();
}

bool Field::is_whole(std::int64_t expected) const {
    return value_.is_number_integer() && value_ == expected;
}

double Field::number() const {
    require(value_.is_number(), "a finite number");
    return value_.get<double>();
}

bool Field::flag() const {
    require(value_.is_boolean(), "true or false");
    return value_.get<bool>();
}

bool Field::is_text() const {
    return value_.is_string();
}

bool Field::is_plain() const {
    return value_.is_primitive();
}

void Field::each(const std::function<void(const Field&)>& visit) const {
    require(value_.is_array(), "a list");
    for (std::size_t i = 0; i < value_.size(); ++i) {
        visit(Field(value_[i], concat(where_, "[", i, "]")));
    }
}

void Field::each_member(const std::function<void(const std::string&, const Field&)>& visit) const {
    require(value_.is_object(), "an object");
    for (const auto& [name, value] : value_.items()) {
        visit(name, Field(value, concat(where_, "['", shortened(name), "']")));
    }
}

std::vector<std::int64_t> Field::wholes(std::size_t count) const {
    std::vector<std::int64_t> numbers;
    each([&](const Field& entry) { numbers.push_back(entry.whole()); });
    require(numbers.size() == count, concat(count, " entries"));
    return numbers;
}

std::vector<std::string> Field::texts() const {
    std::vector<std::string> found;
    each([&](const Field& entry) { found.push_back(entry.text()); });
    return found;
}

void Field::refuse(std::string_view expected) const {
    throw FieldError(
        concat(where_.empty() ? "the file" : where_, ": expected ", expected, ", got ", shown()));
}

std::string Field::path_to(std::string_view name) const {
    return where_.empty() ? std::string(name) : concat(where_, ".", name);
}

std::string Field::shown() const {
    if (value_.is_object()) return "an object";
    if (value_.is_array()) return concat("a list of ", value_.size());
    return shortened(value_.dump(), 60);
}

Document::Document(std::string_view text) {
    const auto bound_depth = [](int depth, json::parse_event_t, const json&) {
        if (depth > kMaxDepth) {
            throw FieldError(concat("lists and objects nest more than ", kMaxDepth, " deep"));
        }
        return true;
    };
    try {
        value_ = std::make_unique<json>(json::parse(text, bound_depth));
    } catch (const json::exception& error) {
        // The parser quotes what it read last, which may be a text of any length.
        throw FieldError(shortened(error.what(), 200));
    }
}

Document::~Document() = default;

Field Document::root() const {
    return {*value_, ""};
}

}  // namespace segvit
