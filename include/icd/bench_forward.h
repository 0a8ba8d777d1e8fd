#pragma once

#include <cstdint>
#include <vector>

#include "icd/language_model.h"

namespace icd {

/// Every sample of a forward benchmark, in seconds for the whole batch. What icd was built
/// without stays empty.
struct ForwardBench {
  std::int64_t tokens = 0;
  std::vector<double> fixed_order;        ///< logits() with GemmEngine::fixed_order
  std::vector<double> onednn;             ///< logits() with GemmEngine::onednn
  std::vector<double> gemms_fixed_order;  ///< the matrix products of logits() alone, ours
  std::vector<double> gemms_onednn;       ///< the same products by oneDNN
};

/// Runs the fast model over random tokens and its matrix products alone, on all rows at once
/// and with the weights of one layer for every layer, so that the products are at their best.
/// Each kind is run once before it is measured; then `repeats` rounds of one sample each.
/// Throws Error{usage} for an empty batch or no repeats.
ForwardBench bench_forward(const Checkpoint& checkpoint, const ModelSpec& spec, BatchShape shape,
                           int threads, int repeats);

}  // namespace icd
