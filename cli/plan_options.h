#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "icd/evidence.h"
#include "icd/make_plan.h"
#include "icd/plan.h"
#include "pipeline.h"

namespace icd::cli {

/// Which groups: --group and --layers.
struct GroupOptions {
  std::vector<std::string> groups = {};  ///< empty: what makes up the order of the channels
  std::vector<std::string> layers = {};  ///< "0-5", "8"; empty: all

  void add_to(CLI::App& command);
  bool takes_all() const;
  std::vector<std::string> kinds(const Layout& layout) const;
  std::vector<Index> layer_list() const;
};

/// How alike members are, for objectives and solvers on graphs.
struct GraphOptions {
  std::string graph = "auto";  ///< auto, correlation, coactivation, weights, access or a file
  std::string signal = "gated";
  std::string edge = "absolute";
  Index top_k = 0;
  double active = EvidenceRequest{}.active_share;
  bool data_free = false;

  void add_to(CLI::App& command);
  GraphRequest request() const;
};

/// What an order is worth.
struct ObjectiveChoice {
  std::string objective = "modularity";
  Index block = 0;       ///< 0: the objective's own
  Index line_bytes = 0;  ///< 0: --block decides
  double gamma = 1;
  std::string pattern = "2:4";
  std::string saliency = "wanda";
  std::string format = "int4";
  Index group_size = 0;

  /// The options without --objective, which `icd advise` does not have.
  void add_details_to(CLI::App& command);
  void add_to(CLI::App& command);
  const Objective& chosen() const;
  ObjectiveOptions options(const Objective& of, const LoadedModel& model) const;
};

/// Which groups are ordered, by what.
struct PlanOptions {
  GroupOptions groups;
  ObjectiveChoice objective;
  GraphOptions graph;
  std::string solver = "auto";
  std::uint64_t seed = 0;
  std::int64_t max_steps = SolveOptions{}.max_steps;
  std::string expand = "independent";
  bool joint = false;

  void add_to(CLI::App& command);
  PlanRequest request(const LoadedModel& model) const;
};

/// Hands `use` what is known of the groups of `layout`, the model's or one with more groups: a
/// statistics file, the model run on tokens, or the weights alone. The source does not outlive the
/// call.
void with_evidence(const LoadedModel& model, const Layout& layout, const GraphOptions& graph,
                   const TokenOptions& tokens, const std::string& statistics, Context& context,
                   const std::function<void(const EvidenceSource&)>& use);

/// A plan from what with_evidence() finds.
Plan plan_for(const LoadedModel& model, const PlanOptions& options, const TokenOptions& tokens,
              const std::string& statistics, Context& context);

}  // namespace icd::cli
