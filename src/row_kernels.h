#pragma once

#include <cstdint>

#include "gram.h"
#include "icd/permutation.h"

namespace icd {

/// Rows of numbers are padded to a multiple of this; sums over rows are sixteen partial sums,
/// row r to sum r mod 16, then halves onto halves, whatever the width of the registers.
inline constexpr Index kRowGroup = 16;

/// Rows of tables by members are padded to a multiple of this.
inline constexpr Index kMemberGroup = 64;

/// out[i][j] += sum over r of max(held[i][r], offered[j][r]).
struct MaximaArguments {
  const float* const* held = nullptr;  ///< (seats) rows of numbers
  Index seats = 0;
  const float* offered = nullptr;  ///< (members, rows), ld apart
  std::int64_t ld = 0;
  Index members = 0;
  Index rows = 0;               ///< a multiple of kRowGroup
  float* const* out = nullptr;  ///< (seats) rows of members
};

/// What of a row rises above `low`, up to `high`: min(max(x, low), high) - low.
struct Clip {
  Index row = 0;
  float low = 0;
  float high = 0;
};

/// out[v] += sum over clips c of what of numbers[c.row][v] rises above c.low, up to c.high.
struct ClipArguments {
  const float* numbers = nullptr;  ///< (rows, members), ld apart
  std::int64_t ld = 0;
  const Clip* clips = nullptr;
  Index count = 0;
  Index members = 0;  ///< a multiple of kMemberGroup
  float* out = nullptr;
};

/// For each of the members [first, first + kMemberGroup) the partner of another block with the
/// largest table[u][v] + table[v][u] - (own[u] + own[v]); ties to the lower v.
struct PartnerArguments {
  const float* table = nullptr;  ///< (n, ld), ld a multiple of kMemberGroup
  std::int64_t ld = 0;
  Index n = 0;
  const float* own = nullptr;    ///< (ld)
  const float* block = nullptr;  ///< (ld) whole numbers: compares and selects then have one type
  Index first = 0;               ///< a multiple of kMemberGroup
  float* gain = nullptr;         ///< (kMemberGroup), 0 where none gains
  Index* partner = nullptr;      ///< (kMemberGroup), -1 where none gains
};

/// Serial, and the same bits on every path.
struct RowKernels {
  void (*add_maxima)(const MaximaArguments& arguments);
  void (*add_clips)(const ClipArguments& arguments);
  void (*best_partners)(const PartnerArguments& arguments);

  /// out[i][r] = the kept-th largest of the other columns' numbers in row r, 0 if there are
  /// fewer: what a number in place of column i has to exceed to be kept. 1 <= kept < 16.
  void (*thresholds)(const float* const* columns, Index count, Index kept, Index rows,
                     float* const* out);
};

const RowKernels& row_kernels(VectorPath path = widest_vector_path()) noexcept;

}  // namespace icd
