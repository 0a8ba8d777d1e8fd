#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/tokens.h"

namespace icd {

/// First and second moments of n channels over some rows.
struct Moments {
  std::int64_t rows = 0;
  std::vector<double> mean;         ///< (n)
  std::vector<double> variance;     ///< (n), of the population
  std::vector<float> correlation;   ///< (n, n), Pearson; NaN where a channel never moves
};

/// What calibration knows of one axis group: the same signal on the tokens that may be
/// solved on and on those that may not.
struct GroupStatistics {
  std::string group;   ///< "layers.3/inner", "model"
  std::string signal;  ///< "conv", "gated", "normed", "bc", "dt_rank"
  Moments train;
  Moments heldout;
  /// Quantiles of the step size dt per channel, (5, d_inner): 0.01, 0.25, 0.5, 0.75, 0.99 of
  /// the train tokens. Only for signal "gated" of an inner group.
  std::vector<float> dt_quantiles;
};

}  // namespace icd
