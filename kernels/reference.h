#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/args.h"

// Every kernel as the plain loop that it has to agree with. Same arguments, host pointers; sums in
// double, rounded once to the type of the output. Independent rows run in parallel (each_row), so
// this is also what the C interface does with tensors in host memory. Arguments are valid: see
// why_not() in kernels/args.h.
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

void selective_scan(const SelectiveScan& args);
void causal_conv1d(const CausalConv1d& args);
void causal_conv1d_update(const CausalConv1dUpdate& args);
void state_update(const StateUpdate& args);
void head_state_update(const HeadStateUpdate& args);
void ssd(const Ssd& args);
void mamba3(const Mamba3Scan& args);
void rms_norm(const RmsNorm& args);
void skip_zero_gemv(const SkipZeroGemv& args);

}  // namespace icd::reference
