#include <memory>
#include <vector>

#include "icd/error.h"
#include "icd/objective.h"
#include "rank_problem.h"

// GPTQ's act-order: columns by the diagonal of the Hessian 2 E[x x^T] of the layer's inputs, the
// largest first. Folded into the checkpoint, the groups are contiguous and no g_idx is needed.

namespace icd {

std::unique_ptr<Problem> act_order_problem(const AxisFacts& facts, const ObjectiveOptions&) {
  if (facts.square.size() != static_cast<std::size_t>(facts.size)) {
    throw Error(ErrorCode::input,
                "act-order: the activations of the axis are not known, expected a calibration");
  }
  return std::make_unique<RankProblem>(
      facts, std::vector<double>(facts.square.begin(), facts.square.end()));
}

}  // namespace icd
