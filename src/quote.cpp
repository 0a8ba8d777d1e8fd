#include "quote.h"

#include <cstddef>

namespace icd {

std::string quote(std::string_view text) {
  constexpr std::size_t kLongest = 120;
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "'";
  for (const char letter : text.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(letter);
    if (byte >= 0x20 && byte < 0x7f) {
      out += letter;
    } else if (letter == '\n') {
      out += "\\n";
    } else {
      out += "\\x";
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  out += text.size() > kLongest ? "...'" : "'";
  return out;
}

}  // namespace icd
