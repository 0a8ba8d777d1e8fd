#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/evidence.h"
#include "icd/expand.h"
#include "icd/layout.h"
#include "icd/objective.h"
#include "icd/plan.h"
#include "icd/progress.h"
#include "icd/solver.h"

namespace icd {

/// What to order, and how.
struct PlanRequest {
  std::vector<std::string> kinds = {"inner"};  ///< kinds of axis groups
  std::vector<Index> layers = {};              ///< only groups of these layers; empty: all groups
  bool leave_out = false;  ///< groups of which the objective says nothing, instead of refusing
  const Objective* objective = nullptr;
  ObjectiveOptions options = {};  ///< groups below four blocks get blocks of a quarter of theirs
  const Solver* solver = nullptr;
  std::uint64_t seed = 0;
  std::int64_t max_steps = SolveOptions{}.max_steps;
  std::string signal = "gated";  ///< of inner groups: "gated" or "conv"
  GraphRequest graph = {};
  double active_share = EvidenceRequest{}.active_share;

  /// Order groups that lie inside each other together (icd/joint.h). The layout has to be one of
  /// with_lines(), and so has the source's.
  bool joint = false;

  /// Solve one order of the d_model hidden channels and expand it to every inner axis,
  /// instead of solving each inner axis by itself.
  std::optional<HiddenExpansion> expansion = {};
};

/// The groups of the kinds and layers asked for. Throws Error{usage} for a kind that the layout
/// does not have or layers without a group.
std::vector<const AxisGroup*> groups_of(const Layout& layout, const std::vector<std::string>& kinds,
                                        const std::vector<Index>& layers);

/// The layout with a group for the line of each nest among the groups asked for: what evidence of
/// the line is gathered under. Nothing moves by it.
Layout with_lines(const Checkpoint& checkpoint, const Layout& layout,
                  const std::vector<std::string>& kinds, const std::vector<Index>& layers);

/// The options as a group of n members takes them: a small group in blocks of the full size would
/// be one block, which no order changes.
ObjectiveOptions options_for(const ObjectiveOptions& options, Index n);

/// Orders the groups of the kinds asked for. The source is asked only for what objective and
/// solver read; it may be one that cannot gather if the solver reads nothing, and then the plan
/// has no scores. Groups are solved as their evidence
/// arrives, a few at a time in parallel. The plan depends on nothing but the arguments.
/// Throws Error{usage} for a kind that the layout does not have, or one of which the objective
/// says nothing.
Plan make_plan(const Checkpoint& checkpoint, const Layout& layout, const PlanRequest& request,
               const EvidenceSource& source, Progress& progress);

}  // namespace icd
