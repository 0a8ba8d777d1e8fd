#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "icd/permutation.h"

namespace icd {

/// Quantiles of n positive channels over rows that come a batch at a time.
///
/// The q-quantile of r values is the one of rank ceil(q r), no mean of neighbours. Exact as
/// long as rows * n is at most kExactValues; beyond that from a histogram of 64 bins an
/// octave from 2^-20 to 2^7 (about 1e-6 to 128), whose answer, the middle of a bin, is off by
/// at most 1/128 of the value; values outside count in the outermost bins. Bins are bits of
/// the float, so no logarithm decides. 6.75 KiB a channel.
class ChannelQuantiles {
 public:
  static constexpr std::int64_t kExactValues = std::int64_t{1} << 26;  // 256 MiB
  static constexpr std::array<int, 5> kPercents = {1, 25, 50, 75, 99};

  /// `rows`: how many will come at most; which decides the method.
  ChannelQuantiles(Index n, std::int64_t rows, std::int64_t exact_values = kExactValues);

  /// Adds rows (values.size() / n, n), row-major and packed.
  void add(std::span<const float> values);

  /// (5, n): kPercents of each channel.
  std::vector<float> finish() const;

 private:
  float quantile_of_bins(Index channel, std::int64_t rank) const;

  Index n_;
  bool is_exact_;
  std::int64_t rows_ = 0;
  std::vector<float> values_;          // (rows, n) if exact
  std::vector<std::uint32_t> counts_;  // (n, kBins) if not
};

}  // namespace icd
