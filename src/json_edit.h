#pragma once

#include <span>
#include <string>
#include <string_view>

namespace icd {

/// `text`, a valid JSON object, with `value` (JSON) at the path of keys `path`, and every other
/// byte as it was. A last key that is not there is added after the members of its object, spaced
/// as they are. Throws Error{input} if a key before the last leads to no object.
std::string with_json_value(std::string_view text, std::span<const std::string_view> path,
                            std::string_view value);

}  // namespace icd
