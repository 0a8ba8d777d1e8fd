#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/evidence.h"
#include "icd/layout.h"
#include "icd/make_plan.h"
#include "icd/objective.h"
#include "icd/progress.h"
#include "icd/solver.h"

namespace icd {

/// An objective, and who solves it.
struct Aim {
  const Objective* objective = nullptr;
  const Solver* solver = nullptr;
};

/// What to assess.
struct AdviceRequest {
  std::vector<std::string> kinds = {};
  std::vector<Index> layers = {};  ///< empty: all
  std::vector<Aim> aims = {};
  ObjectiveOptions options = {};  ///< whose block is each objective's own if it is 0
  std::uint64_t seed = 0;
  std::int64_t max_steps = SolveOptions{}.max_steps;
  std::string signal = "gated";
  GraphRequest graph = {};
  double active_share = EvidenceRequest{}.active_share;
};

/// Scores of one order, averaged over groups.
struct MeanScore {
  double calibration = 0;
  std::optional<double> heldout = {};

  /// On held-out tokens, where there are any.
  double told() const noexcept { return heldout.value_or(calibration); }
};

/// One objective on all groups of one kind.
struct Assessment {
  const Objective* objective = nullptr;
  std::string kind;
  Index groups = 0;
  MeanScore present = {};    ///< the order as it is
  MeanScore random = {};     ///< the mean of a few shuffles
  MeanScore solved = {};     ///< by the objective's own solver
  std::string why_not = {};  ///< not empty: the objective says nothing here, and why

  /// How much of the way from the present order's score to a perfect one the solver goes, on
  /// held-out tokens where there are any.
  double gap_closed() const noexcept;
};

/// Is an order by the objective worth having for this checkpoint?
enum class Worth {
  nothing,  ///< it changes nothing that is kept or fetched, or closes less than 1 % of the gap
  little,   ///< 1 to 5 %
  yes,
};
Worth worth(const Assessment& assessment) noexcept;

/// The same in plain words, one sentence.
std::string in_words(const Assessment& assessment);

/// Assesses every aim on every kind of group, aims outermost. The evidence of a group
/// is gathered once for all of them. Throws as make_plan does for kinds and layers.
std::vector<Assessment> advise(const Checkpoint& checkpoint, const Layout& layout,
                               const AdviceRequest& request, const EvidenceSource& source,
                               Progress& progress);

}  // namespace icd
