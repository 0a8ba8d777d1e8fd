#pragma once

#include <optional>
#include <span>
#include <vector>

#include "gram.h"
#include "icd/calibration.h"
#include "site_sums.h"

namespace icd {

/// Moments of n channels over rows that come a batch at a time. Values are taken relative to
/// the mean of the first batch, so that a large mean costs no digits of a small variance.
/// Mean and variance are sums in double; the correlation, if asked for, is of GramMatrix, right
/// to about 1e-6. Its bits depend on where batches are cut, not on threads or the CPU.
class MomentsAccumulator {
 public:
  explicit MomentsAccumulator(Index n, bool has_correlation = true);

  /// Adds rows (values.size() / n, n), row-major and packed, and leaves them centred.
  void add(std::span<float> values);

  /// Takes sums that were made elsewhere; no rows came before.
  void add(const ChannelSums& sums);

  /// The first channel that held a NaN, an infinity or values whose squares add up to more
  /// than that of a float; from then on the sums say nothing.
  std::optional<Index> first_fault() const noexcept { return first_fault_; }

  std::int64_t rows() const noexcept { return rows_; }

  Moments finish() const;

 private:
  void find_fault();
  std::vector<double> first_mean(std::span<const float> values) const;

  Index n_;
  std::int64_t rows_ = 0;
  std::vector<double> shift_;           // (n), empty before the first batch
  std::vector<double> sums_;            // (n), of value - shift
  std::vector<double> squares_;         // (n), of (value - shift)^2
  std::vector<float> minimum_;          // (n)
  std::vector<float> maximum_;          // (n)
  std::optional<GramMatrix> products_;  // of value - shift, as float
  std::optional<Index> first_fault_;
};

}  // namespace icd
