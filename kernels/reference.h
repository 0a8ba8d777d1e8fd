#pragma once

#include <cstdint>
#include <cstring>

// Every kernel as the plain loop that it has to agree with. Host pointers, same arguments.
namespace icd::reference {

/// out[r, :] = in[source[r], :]
inline void gather_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes) {
  const auto* from = static_cast<const std::uint8_t*>(in);
  auto* to = static_cast<std::uint8_t*>(out);
  for (std::int64_t r = 0; r < rows; ++r) {
    std::memcpy(to + r * row_bytes, from + source[r] * row_bytes,
                static_cast<std::size_t>(row_bytes));
  }
}

/// out[r, c] = in[r, source[c]]
inline void gather_columns(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                           std::int32_t columns, int element_bytes) {
  const auto* from = static_cast<const std::uint8_t*>(in);
  auto* to = static_cast<std::uint8_t*>(out);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      std::memcpy(to + (r * columns + c) * element_bytes,
                  from + (r * columns + source[c]) * element_bytes,
                  static_cast<std::size_t>(element_bytes));
    }
  }
}

}  // namespace icd::reference
