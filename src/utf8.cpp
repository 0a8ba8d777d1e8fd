#include "utf8.h"

namespace icd {

Utf8Step utf8_step(std::string_view text) noexcept {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = at(0);
  if (lead < 0x80) return {true, 1};
  if (lead < 0xc2 || lead > 0xf4) return {false, 1};
  const std::size_t bytes = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  // The second byte is narrower after these four: overlong forms, surrogates, past U+10FFFF.
  unsigned char low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;
  unsigned char high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;
  for (std::size_t i = 1; i < bytes; ++i) {
    if (i == text.size() || at(i) < low || at(i) > high) return {false, i};
    low = 0x80;
    high = 0xbf;
  }
  return {true, bytes};
}

std::optional<std::size_t> first_not_utf8(std::string_view text) noexcept {
  for (std::size_t i = 0; i < text.size();) {
    const Utf8Step step = utf8_step(text.substr(i, 4));
    if (!step.is_valid) return i;
    i += step.bytes;
  }
  return std::nullopt;
}

std::string utf8_lossy(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const Utf8Step step = utf8_step(bytes);
    text += step.is_valid ? bytes.substr(0, step.bytes) : std::string_view("\xef\xbf\xbd");
    bytes.remove_prefix(step.bytes);
  }
  return text;
}

}  // namespace icd
