#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace icd {

/// What stands at the front of a text.
struct Utf8Step {
  bool is_valid = false;
  std::size_t bytes = 0;  ///< of the character, or of what one U+FFFD replaces
};

/// The first character of `text`, which is not empty.
/// Source: The Unicode Standard, table 3-7 (well-formed byte sequences) and section 3.9
/// (substitution of maximal subparts).
Utf8Step utf8_step(std::string_view text) noexcept;

/// The first byte that is not UTF-8, if there is one.
std::optional<std::size_t> first_not_utf8(std::string_view text) noexcept;

/// `bytes` with U+FFFD for every maximal subpart that is not UTF-8.
std::string utf8_lossy(std::string_view bytes);

}  // namespace icd
