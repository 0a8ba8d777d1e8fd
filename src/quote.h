#pragma once

#include <string>
#include <string_view>

namespace icd {

/// `text` in single quotes, for messages about files that are not trusted: one printable
/// line whatever the bytes are (\n, \x1b, ... escaped), cut after 120 of them.
std::string quote(std::string_view text);

}  // namespace icd
