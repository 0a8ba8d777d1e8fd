#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "icd/axis_facts.h"

namespace icd {

/// Records which of n channels are active, token by token. A token has a value of every channel
/// in each of `observations` rows. Active are the values of largest magnitude, a share of all of
/// the token (rounded, at least one), ties to the lower channel, then to the earlier row; and the
/// channels that have one of them. Comparisons are of bits: nothing depends on the CPU.
class ActivityRecorder {
 public:
  ActivityRecorder(Index n, double share);

  /// Adds tokens (values.size() / (observations n), observations, n), row-major and packed.
  void add(std::span<const float> values, Index observations);

  Activity finish() const;

 private:
  Index n_;
  double share_;
  std::int64_t tokens_ = 0;
  std::vector<std::uint64_t> marks_;  // (tokens, words of n bits): bit c is channel c
};

}  // namespace icd
