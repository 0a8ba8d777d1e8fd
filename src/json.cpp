#include "json.h"

#include <fmt/format.h>

#include <set>
#include <vector>

#include "icd/error.h"

namespace icd {
namespace {

constexpr int kMaxDepth = 64;

const Json& member(const Json& object, std::string_view key, std::string_view name) {
  const auto found = object.find(std::string(key));
  if (found == object.end()) {
    throw Error(ErrorCode::input, fmt::format("{}: '{}' is missing", name, key));
  }
  return *found;
}

[[noreturn]] void refuse_kind(const Json& value, std::string_view key, std::string_view name,
                              std::string_view expected) {
  // A list may be long, and a string hold anything.
  const bool is_plain = value.is_number() || value.is_boolean();
  throw Error(ErrorCode::input,
              fmt::format("{}: '{}' is {}, expected {}", name, key,
                          is_plain ? value.dump() : fmt::format("of type {}", value.type_name()),
                          expected));
}

}  // namespace

std::string json_reason(const nlohmann::json::exception& error) {
  std::string reason = error.what();
  if (const auto end = reason.find("] "); end != std::string::npos) reason.erase(0, end + 2);
  // The echo can hold anything that the file holds.
  if (const auto echo = reason.find("; last read: "); echo != std::string::npos) reason.erase(echo);
  for (char& c : reason) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return reason;
}

Json parse_json(std::string_view text, std::string_view name) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kMaxDepth) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: is nested deeper than {} levels", name, kMaxDepth));
    }
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: key '{}' stands twice", name, value.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::input, fmt::format("{}: is not JSON: {}", name, json_reason(error)));
  }
}

std::int64_t integer_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX);
  if (!fits) refuse_kind(value, key, name, "a whole number of 64 bits");
  return value.get<std::int64_t>();
}

double number_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  if (!value.is_number()) refuse_kind(value, key, name, "a number");
  return value.get<double>();
}

bool boolean_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  if (!value.is_boolean()) refuse_kind(value, key, name, "true or false");
  return value.get<bool>();
}

std::string text_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  if (!value.is_string()) refuse_kind(value, key, name, "a string");
  return value.get<std::string>();
}

const Json& object_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  if (!value.is_object()) refuse_kind(value, key, name, "an object");
  return value;
}

const Json& array_at(const Json& object, std::string_view key, std::string_view name) {
  const Json& value = member(object, key, name);
  if (!value.is_array()) refuse_kind(value, key, name, "an array");
  return value;
}

}  // namespace icd
