#include "model_config.h"

#include <fmt/format.h>

#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "icd/error.h"

namespace icd {
namespace {

/// Infinity, -Infinity and NaN, which Python writes and JSON does not know, become strings.
std::string without_bare_words(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\' && i + 1 < text.size()) result += text[i++];
      if (text[i] == '"') in_string = false;
      result += text[i];
      continue;
    }
    in_string = c == '"';
    bool replaced = false;
    for (const std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (text.substr(i).starts_with(word)) {
        result += fmt::format("\"{}\"", word);
        i += word.size() - 1;
        replaced = true;
        break;
      }
    }
    if (!replaced) result += c;
  }
  return result;
}

}  // namespace

ModelConfig::ModelConfig(std::string_view text, std::string name)
    : document_(parse_json(without_bare_words(text), name)), name_(std::move(name)) {
  if (!document_.is_object()) {
    throw Error(ErrorCode::input, fmt::format("{}: is not a JSON object", name_));
  }
}

const Json* ModelConfig::find(std::string_view key) const {
  const Json* at = &document_;
  while (true) {
    const auto dot = key.find('.');
    const std::string part(key.substr(0, dot));
    if (at->is_object()) {
      const auto found = at->find(part);
      if (found == at->end()) return nullptr;
      at = &*found;
    } else if (at->is_array()) {
      std::size_t index = 0;
      const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
      if (parsed.ec != std::errc() || index >= at->size()) return nullptr;
      at = &(*at)[index];
    } else {
      return nullptr;
    }
    if (dot == std::string_view::npos) return at->is_null() ? nullptr : at;
    key.remove_prefix(dot + 1);
  }
}

std::string ModelConfig::text(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr || value->is_structured()) return "";
  return value->is_string() ? value->get<std::string>() : value->dump();
}

std::optional<double> ModelConfig::number(std::string_view key) const {
  const Json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_object() && value->contains("__float__")) value = &(*value)["__float__"];
  if (value->is_boolean()) return value->get<bool>() ? 1 : 0;
  if (value->is_number()) return value->get<double>();
  if (!value->is_string()) return std::nullopt;
  const std::string word = value->get<std::string>();
  if (word == "Infinity") return std::numeric_limits<double>::infinity();
  if (word == "-Infinity") return -std::numeric_limits<double>::infinity();
  return std::nullopt;
}

}  // namespace icd
