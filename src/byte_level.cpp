#include "byte_level.h"

#include <array>
#include <cstdint>

namespace icd {
namespace {

constexpr bool is_printed(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xff && byte != 0xad);
}

/// Code points by byte.
constexpr std::array<std::uint16_t, 256> kSymbols = [] {
  std::array<std::uint16_t, 256> symbols{};
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    symbols[static_cast<std::size_t>(byte)] =
        static_cast<std::uint16_t>(is_printed(byte) ? byte : next++);
  }
  return symbols;
}();

/// Bytes by code point, -1 for the others; 68 bytes are not printed.
constexpr std::array<std::int16_t, 256 + 68> kBytes = [] {
  std::array<std::int16_t, 256 + 68> bytes{};
  for (auto& byte : bytes) byte = -1;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    bytes[kSymbols[byte]] = static_cast<std::int16_t>(byte);
  }
  return bytes;
}();

}  // namespace

std::string to_symbols(std::string_view bytes) {
  std::string symbols;
  symbols.reserve(2 * bytes.size());
  for (const char byte : bytes) {
    const unsigned point = kSymbols[static_cast<unsigned char>(byte)];
    if (point < 0x80) {
      symbols += static_cast<char>(point);
    } else {
      symbols += static_cast<char>(0xc0 | point >> 6);
      symbols += static_cast<char>(0x80 | (point & 0x3f));
    }
  }
  return symbols;
}

std::optional<std::string> from_symbols(std::string_view symbols) {
  std::string bytes;
  bytes.reserve(symbols.size());
  for (std::size_t i = 0; i < symbols.size(); ++i) {
    unsigned point = static_cast<unsigned char>(symbols[i]);
    if (point >= 0x80) {
      if (point >= 0xe0 || i + 1 == symbols.size()) return std::nullopt;  // past U+07FF
      point = (point & 0x1f) << 6 | (static_cast<unsigned char>(symbols[++i]) & 0x3f);
    }
    if (point >= kBytes.size() || kBytes[point] < 0) return std::nullopt;
    bytes += static_cast<char>(kBytes[point]);
  }
  return bytes;
}

}  // namespace icd
