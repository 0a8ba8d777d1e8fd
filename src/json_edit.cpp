#include "json_edit.h"

#include <fmt/format.h>

#include <algorithm>

#include "icd/error.h"

namespace icd {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

/// Where the parts of an object stand in its text.
struct ObjectPlaces {
  bool found = false;
  std::size_t value = 0;  // of the key that was looked for
  std::size_t value_end = 0;
  std::size_t before_last_key = 0;  // after the brace or comma before the last member
  std::size_t last_key = 0;
  std::size_t after_last_key = 0;
  std::size_t last_value = 0;
  std::size_t last_value_end = 0;  // 0: the object has no members
  std::size_t open = 0;
};

/// Walks over valid JSON.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  std::size_t after_space(std::size_t at) const {
    return std::min(text_.find_first_not_of(kSpace, at), text_.size());
  }

  /// After the string that opens at `at`.
  std::size_t after_string(std::size_t at) const {
    for (++at; text_[at] != '"'; ++at) {
      if (text_[at] == '\\') ++at;
    }
    return at + 1;
  }

  std::size_t after_value(std::size_t at) const {
    if (text_[at] == '"') return after_string(at);
    if (text_[at] != '{' && text_[at] != '[') {
      return std::min(text_.find_first_of(",]} \t\r\n", at), text_.size());
    }
    for (int depth = 0;;) {
      const char c = text_[at];
      if (c == '"') {
        at = after_string(at);
        continue;
      }
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      ++at;
      if (depth == 0) return at;
    }
  }

  /// The object that opens at `open`, and in it the member `key`.
  ObjectPlaces object(std::size_t open, std::string_view key) const {
    ObjectPlaces places;
    places.open = open;
    std::size_t at = open + 1;
    while (text_[after_space(at)] != '}') {
      places.before_last_key = at;
      places.last_key = after_space(at);
      places.after_last_key = after_string(places.last_key);
      places.last_value = after_space(after_space(places.after_last_key) + 1);
      places.last_value_end = after_value(places.last_value);
      const std::string_view name =
          text_.substr(places.last_key + 1, places.after_last_key - places.last_key - 2);
      if (name == key) {
        places.found = true;
        places.value = places.last_value;
        places.value_end = places.last_value_end;
      }
      at = after_space(places.last_value_end);
      if (text_[at] == ',') ++at;
    }
    return places;
  }

 private:
  std::string_view text_;
};

}  // namespace

std::string with_json_value(std::string_view text, std::span<const std::string_view> path,
                            std::string_view value) {
  const Scanner scanner(text);
  std::size_t open = scanner.after_space(0);
  ObjectPlaces places;
  for (std::size_t i = 0; i < path.size(); ++i) {
    places = scanner.object(open, path[i]);
    if (i + 1 == path.size()) break;
    if (!places.found || text[places.value] != '{') {
      throw Error(ErrorCode::input,
                  fmt::format("config.json: '{}' is no object, expected one to put '{}' into",
                              path[i], path[i + 1]));
    }
    open = places.value;
  }
  std::string edited(text);
  if (places.found) {
    edited.replace(places.value, places.value_end - places.value, value);
  } else if (places.last_value_end == 0) {
    edited.insert(places.open + 1, fmt::format("\"{}\": {}", path.back(), value));
  } else {
    const auto part = [&](std::size_t begin, std::size_t end) {
      return text.substr(begin, end - begin);
    };
    edited.insert(places.last_value_end,
                  fmt::format(",{}\"{}\"{}{}", part(places.before_last_key, places.last_key),
                              path.back(), part(places.after_last_key, places.last_value), value));
  }
  return edited;
}

}  // namespace icd
