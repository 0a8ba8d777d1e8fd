#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace icd {

using Json = nlohmann::ordered_json;

/// Parses `text` strictly: one value, valid UTF-8, no key twice in an object, at most 64
/// levels deep. `name` is what messages call the file.
/// Throws Error{input} with the place and the reason.
Json parse_json(std::string_view text, std::string_view name);

/// Members of an object, checked: Error{input} "name: 'key' is missing" or
/// "name: 'key' is a string, expected a whole number".
std::int64_t integer_at(const Json& object, std::string_view key, std::string_view name);
double number_at(const Json& object, std::string_view key, std::string_view name);
bool boolean_at(const Json& object, std::string_view key, std::string_view name);
std::string text_at(const Json& object, std::string_view key, std::string_view name);
const Json& object_at(const Json& object, std::string_view key, std::string_view name);
const Json& array_at(const Json& object, std::string_view key, std::string_view name);

/// What follows nlohmann's "[json.exception...] parse error at line 1, column 5: ", without
/// the echo of the offending text, on one line.
std::string json_reason(const nlohmann::json::exception& error);

}  // namespace icd
