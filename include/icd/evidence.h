#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "icd/axis_facts.h"
#include "icd/calibration.h"
#include "icd/checkpoint.h"
#include "icd/graph.h"
#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/objective.h"
#include "icd/progress.h"
#include "icd/tokens.h"

namespace icd {

/// Where the weights of edges come from.
enum class GraphKind {
  automatic,     ///< correlation where activations are known, else weights
  correlation,   ///< of the activations
  coactivation,  ///< how much more often two members are active together than by chance (lift)
  weights,       ///< how alike the members' weights are
  access,        ///< how many of the kernels' tiles read both
  given,         ///< the caller has one
};

struct GraphRequest {
  GraphKind kind = GraphKind::automatic;
  CorrelationGraphOptions edges = {};       ///< of correlation and weights
  std::vector<Index> tiles = {16, 32, 64};  ///< of access: members a tile
  std::shared_ptr<const Graph> given = {};
};

/// What somebody wants to know of the groups.
struct EvidenceRequest {
  Needs needs;
  std::string signal = "gated";  ///< of inner groups: "gated" or "conv"
  GraphRequest graph = {};
  double active_share = 0.1;  ///< as CalibrationOptions has it
};

/// What is known of one group: on the tokens that may be solved on, and on others.
struct Evidence {
  AxisFacts calibration;
  std::optional<AxisFacts> heldout;  ///< absent if nothing in it would differ, or nobody measured
};

/// Where evidence comes from: the weights, and perhaps activations.
struct EvidenceSource {
  std::string words;  ///< "6144 tokens of the built-in text"; empty: weights alone
  bool has_activations = false;

  /// Hands over the evidence of each group, in any order, once each.
  std::function<void(const std::vector<const AxisGroup*>& groups, const EvidenceRequest& request,
                     const std::function<void(const AxisGroup&, Evidence&&)>& take,
                     Progress& progress)>
      gather;
};

/// The weights alone. Arguments have to outlive the source, here and below.
EvidenceSource evidence_of_weights(const Checkpoint& checkpoint, const Layout& layout);

/// The weights, and the model run on tokens, a layer at a time. Groups whose activations the
/// blocks do not show are known by their weights.
EvidenceSource evidence_by_running(const LanguageModel<float>& model, const Checkpoint& checkpoint,
                                   const Layout& layout, const TokenSplit& tokens,
                                   std::string words);

/// The weights, and a statistics file that `icd calibrate` wrote.
EvidenceSource evidence_from(const StatisticsFile& statistics, const Checkpoint& checkpoint,
                             const Layout& layout);

/// What is looked at, in words: "|r| of the correlation on 6144 tokens of ...", "weights and
/// activations on ...", "nothing".
std::string evidence_in_words(const EvidenceRequest& request, const EvidenceSource& source);

/// Why an objective says nothing of a group, given what the source knows; empty if it does.
std::string why_not(const Objective& objective, const Checkpoint& checkpoint, const Layout& layout,
                    const AxisGroup& group, const EvidenceSource& source);

}  // namespace icd
