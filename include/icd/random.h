#pragma once

#include <cstdint>

#include "icd/permutation.h"

namespace icd {

/// SplitMix64: a small generator whose stream is the same on every machine.
/// Source: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number
/// generators", OOPSLA 2014. std::shuffle and the std distributions differ between
/// libraries, so nothing that decides an order may use them.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(seed) {}

  std::uint64_t next() noexcept;

  /// Uniform in [0, bound), bound >= 1, without modulo bias.
  std::uint64_t below(std::uint64_t bound) noexcept;

  /// Uniform in [0, 1), 53 bits.
  double uniform() noexcept;

  /// Standard normal (sum of twelve uniforms less six: no libm, so the same everywhere).
  double normal() noexcept;

  /// A generator for a named part of the work: streams of different keys do not overlap
  /// in practice, and do not depend on which parts came before.
  static Random derived(std::uint64_t seed, std::uint64_t key) noexcept;

 private:
  std::uint64_t state_;
};

/// Fisher-Yates. O(n).
Permutation random_permutation(Index n, Random& random);

}  // namespace icd
