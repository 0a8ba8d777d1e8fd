#pragma once

#include <cstdint>

namespace icd {

/// Four floats and no instructions beyond x86-64's first. fmaf is correctly rounded with or
/// without an instruction; without, it is slow: this set is for machines before 2013 and for
/// the tests of the others.
struct PlainIsa {
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 2;
  static constexpr int kTileVectors = 2;
  using Float = float __attribute__((vector_size(16)));
  using Int = std::int32_t __attribute__((vector_size(16)));

  static Float broadcast(float x) { return Float{x, x, x, x}; }
  static Float fma(Float a, Float b, Float c) {
    return Float{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]),
                 __builtin_fmaf(a[2], b[2], c[2]), __builtin_fmaf(a[3], b[3], c[3])};
  }
};

}  // namespace icd
