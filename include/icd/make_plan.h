#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "icd/calibration.h"
#include "icd/checkpoint.h"
#include "icd/expand.h"
#include "icd/graph.h"
#include "icd/layout.h"
#include "icd/objective.h"
#include "icd/plan.h"
#include "icd/progress.h"
#include "icd/solver.h"

namespace icd {

/// What to order, and how.
struct PlanRequest {
  std::vector<std::string> kinds = {"inner"};  ///< kinds of axis groups
  const Solver* solver = nullptr;
  const Objective* objective = nullptr;
  Index block = 64;  ///< positions in a block; smaller groups get a quarter of theirs
  std::uint64_t seed = 0;
  std::int64_t max_steps = SolveOptions{}.max_steps;
  std::string signal = "gated";  ///< of inner groups: "gated" or "conv"
  CorrelationGraphOptions graph = {};

  /// Solve one order of the d_model hidden channels and expand it to every inner axis,
  /// instead of solving each inner axis by itself.
  std::optional<HiddenExpansion> expansion = {};
};

/// How alike the members of a group are, on tokens that may be solved on and on others.
struct Similarity {
  std::vector<float> calibration;  ///< (n, n), symmetric
  std::vector<float> heldout;      ///< (n, n), or empty
};

/// Hands over the similarity of each group asked for, in any order, once each.
using SimilaritySource = std::function<void(
    const std::vector<const AxisGroup*>& groups,
    const std::function<void(const AxisGroup&, Similarity&&)>& take, Progress& progress)>;

/// The model run on tokens, a layer at a time.
SimilaritySource similarity_by_running(const LanguageModel<float>& model, const Layout& layout,
                                       const TokenSplit& tokens, const std::string& signal);

/// A statistics file that `icd calibrate` wrote.
SimilaritySource similarity_from(const StatisticsFile& statistics, const std::string& signal);

/// The weights alone.
SimilaritySource similarity_of_weights(const Checkpoint& checkpoint);

/// Orders the groups of the kinds asked for. `source` is asked only if the solver reads a
/// graph; it may then be empty, and the plan has no scores. Groups are solved as their
/// similarity arrives, so memory holds one or two. The plan depends on nothing but the
/// arguments. Throws Error{usage} for a kind that the layout does not have.
Plan make_plan(const Checkpoint& checkpoint, const Layout& layout, const PlanRequest& request,
               const SimilaritySource& source, std::string_view source_in_words,
               Progress& progress);

}  // namespace icd
