#pragma once

#include <span>
#include <string_view>

#include "icd/permutation.h"

namespace icd {

/// A number format in which a group of weights shares a scale, as a row of a table.
struct GroupFormat {
  std::string_view name;     ///< what follows --quant-format
  std::string_view summary;  ///< its line in `icd objectives`
  Index group;               ///< weights that share a scale, unless told otherwise
  bool is_fixed;             ///< the format has no other group
  bool is_asymmetric;        ///< the scale is of the range, not of the largest magnitude
  int element_bits;
  int group_bits;           ///< of the scale, and the zero if there is one
  float largest_of_tensor;  ///< what the largest weight of a tensor becomes; 0: no tensor scale
  std::string_view source;

  /// See quantise().
  void (*round_trip)(std::span<const float> group, float tensor_scale, std::span<float> out);

  /// Of one weight, scales included, in groups of `size`.
  double bits(Index size) const noexcept {
    return element_bits + static_cast<double>(group_bits) / size;
  }
};

/// Every format, in the order of `icd objectives`.
std::span<const GroupFormat> all_group_formats();

/// nullptr if there is none of that name.
const GroupFormat* find_group_format(std::string_view name) noexcept;

/// What one group of finite weights becomes when it is stored and read back. A group may be
/// shorter than the format's: as if the rest were zeros. `out` is as long as `group` and may be
/// it. Weights whose scale is 0 in the format become 0; those too large for a scale of 16 bits
/// become infinite or NaN, as in the source.
void quantise(const GroupFormat& format, std::span<const float> group, std::span<float> out,
              float tensor_scale = 1);

/// The scale of a tensor whose largest weight has this magnitude; 1 for formats without one.
float tensor_scale(const GroupFormat& format, float largest) noexcept;

/// x in a float of so many explicit mantissa bits (at most 10) and this exponent of its smallest
/// normal number, ties to even; not limited above. |x| < 2^100.
float rounded_to_minifloat(float x, int mantissa_bits, int smallest_exponent) noexcept;

}  // namespace icd
