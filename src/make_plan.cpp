#include "icd/make_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "evidence_batches.h"
#include "icd/error.h"
#include "icd/joint.h"
#include "icd/random.h"

namespace icd {
namespace {

/// "a, b, c". By hand: g++ 12 sees an overflow in fmt::join that is not there.
std::string listed(const std::vector<std::string>& words) {
  std::string list;
  for (const std::string& word : words) {
    if (!list.empty()) list += ", ";
    list += word;
  }
  return list;
}

/// The seed of one group does not depend on which others are solved.
std::uint64_t seed_for(const AxisGroup& group, std::uint64_t seed) {
  std::uint64_t key = 0xCBF29CE484222325u;  // FNV-1a of the name
  for (const char c : group.name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return Random::derived(seed, key).next();
}

/// What objective and solver read together.
Needs needs_of(const PlanRequest& request) {
  Needs needs = request.objective->needs;
  needs.graph = needs.graph || request.solver->reads == Reads::graph;
  return needs;
}

/// Orders groups as their evidence arrives, a few at a time.
class Maker {
 public:
  Maker(const PlanRequest& request, const EvidenceSource& source, Plan& plan, Progress& progress)
      : request_(request), source_(source), plan_(plan), progress_(progress) {}

  /// Solves each group on its own evidence.
  void solve(const std::vector<const AxisGroup*>& groups) {
    gather(groups, [this](const AxisGroup& group, const Problem& problem) {
      const SolveOptions options{.seed = seed_for(group, request_.seed),
                                 .max_steps = request_.max_steps};
      return request_.solver->solve(problem, options);
    });
  }

  /// Solves the groups of each nest together, on what its line scores. The plan has a score of
  /// the line, under its name.
  void solve(const std::vector<Nest>& nests, const Layout& layout) {
    std::vector<const AxisGroup*> lines;
    for (const Nest& nest : nests) lines.push_back(layout.find(nest.line.name));
    std::vector<NestOrders> found(nests.size());
    gather(lines, [&](const AxisGroup& line, const Problem& problem) {
      const auto place = std::find(lines.begin(), lines.end(), &line) - lines.begin();
      std::int64_t steps = request_.max_steps;
      NestOrders& orders = found[static_cast<std::size_t>(place)];
      orders = solve_jointly(problem, nests[static_cast<std::size_t>(place)], steps);
      return orders.line();
    });
    for (std::size_t i = 0; i < nests.size(); ++i) {
      plan_.groups.erase(nests[i].line.name);
      plan_.groups.insert_or_assign(nests[i].coarse->name, found[i].coarse);
      for (std::size_t run = 0; run < nests[i].fine.size(); ++run) {
        if (nests[i].fine[run] == nullptr) continue;
        plan_.groups.insert_or_assign(nests[i].fine[run]->name, found[i].fine[run]);
      }
    }
  }

  /// Gives groups an order that was solved elsewhere, and scores it on their own.
  void assign(const std::vector<const AxisGroup*>& groups, const Permutation& order) {
    gather(groups, [&](const AxisGroup&, const Problem&) { return order; });
  }

 private:
  struct Solved {
    Permutation order;
    GroupScore score;
  };

  template <typename Solve>
  void gather(const std::vector<const AxisGroup*>& groups, const Solve& solve) {
    if (!source_.gather) {  // the solver reads nothing, and nothing can be scored
      for (const AxisGroup* group : groups) {
        const AxisFacts facts{
            .size = group->size,
            .graph = std::make_shared<const Graph>(Graph::from_edges(group->size, {}))};
        plan_.groups.insert_or_assign(group->name, solve(*group, *intra_block_problem(facts, {})));
      }
      return;
    }
    const EvidenceRequest asked{.needs = needs_of(request_),
                                .signal = request_.signal,
                                .graph = request_.graph,
                                .active_share = request_.active_share};
    for_each_evidence<Solved>(
        source_, groups, asked,
        [&](const AxisGroup& group, const Evidence& evidence) {
          return solved(group, evidence, solve);
        },
        [&](const AxisGroup& group, Solved&& result) {
          plan_.groups.insert_or_assign(group.name, std::move(result.order));
          plan_.scores.push_back(std::move(result.score));
        },
        progress_);
  }

  template <typename Solve>
  Solved solved(const AxisGroup& group, const Evidence& evidence, const Solve& solve) const {
    const Objective& objective = *request_.objective;
    const ObjectiveOptions options = options_for(request_.options, group.size);
    const auto problem = objective.problem(evidence.calibration, options);
    const Permutation before = Permutation::identity(group.size);
    Permutation order = solve(group, *problem);
    GroupScore score{.group = group.name,
                     .objective = std::string(objective.name),
                     .calibration_before = problem->score(before),
                     .calibration_after = problem->score(order)};
    if (evidence.heldout) {
      const auto heldout = objective.problem(*evidence.heldout, options);
      score.heldout_before = heldout->score(before);
      score.heldout_after = heldout->score(order);
    }
    return {std::move(order), std::move(score)};
  }

  const PlanRequest& request_;
  const EvidenceSource& source_;
  Plan& plan_;
  Progress& progress_;
};

/// Refuses groups of which the objective says nothing, or leaves them out with a warning a kind.
void check(const PlanRequest& request, const Checkpoint& checkpoint, const Layout& layout,
           std::vector<const AxisGroup*>& groups, const EvidenceSource& source,
           Progress& progress) {
  if (!source.gather) return;
  std::string last_kind;
  const auto says_nothing = [&](const AxisGroup* group) {
    const std::string reason = why_not(*request.objective, checkpoint, layout, *group, source);
    if (reason.empty()) return false;
    const std::string message = fmt::format("objective {}: says nothing of {}: {}",
                                            request.objective->name, group->name, reason);
    if (!request.leave_out) {
      throw Error(ErrorCode::usage, "--" + message, "`icd objectives` says what each reads");
    }
    if (group->kind != last_kind) progress.warn(message + "; left as it is");
    last_kind = group->kind;
    return true;
  };
  std::erase_if(groups, says_nothing);
}

}  // namespace

Layout with_lines(const Checkpoint& checkpoint, const Layout& layout,
                  const std::vector<std::string>& kinds, const std::vector<Index>& layers) {
  Layout extended = layout;
  for (Nest& nest : nests_of(checkpoint, layout, groups_of(layout, kinds, layers))) {
    extended.groups.push_back(std::move(nest.line));
  }
  return extended;
}

std::vector<const AxisGroup*> groups_of(const Layout& layout, const std::vector<std::string>& kinds,
                                        const std::vector<Index>& layers) {
  const auto known = layout.kinds();
  for (const std::string& kind : kinds) {
    if (std::find(known.begin(), known.end(), kind) == known.end()) {
      throw Error(
          ErrorCode::usage,
          fmt::format("--group: there is no group '{}', expected {} or all", kind, listed(known)));
    }
  }
  for (const Index layer : layers) {
    if (std::none_of(layout.groups.begin(), layout.groups.end(),
                     [&](const AxisGroup& group) { return group.layer == layer; })) {
      throw Error(ErrorCode::usage, fmt::format("--layers: no group belongs to layer {}", layer),
                  "`icd inspect` lists the groups");
    }
  }
  std::vector<const AxisGroup*> groups;
  for (const AxisGroup& group : layout.groups) {
    if (std::find(kinds.begin(), kinds.end(), group.kind) == kinds.end()) continue;
    if (!layers.empty() && std::find(layers.begin(), layers.end(), group.layer) == layers.end()) {
      continue;
    }
    groups.push_back(&group);
  }
  if (groups.empty()) {
    throw Error(ErrorCode::usage,
                fmt::format("--layers: none of the groups asked for ({}) is in these layers",
                            listed(kinds)));
  }
  return groups;
}

ObjectiveOptions options_for(const ObjectiveOptions& options, Index n) {
  ObjectiveOptions own = options;
  own.block = std::min(options.block, std::max<Index>(n / 4, 1));
  return own;
}

Plan make_plan(const Checkpoint& checkpoint, const Layout& layout, const PlanRequest& request,
               const EvidenceSource& source, Progress& progress) {
  Plan plan{
      .architecture = layout.name,
      .settings = layout.settings,
      .structure = checkpoint.structure_digest(),
      .sources = {},
      .objective = std::string(request.objective->name),
      .options = options_in_words(*request.objective, request.options),
      .solver = std::string(request.solver->name),
      .evidence = evidence_in_words({.needs = needs_of(request), .graph = request.graph}, source),
      .seed = request.seed,
      .groups = {},
      .scores = {}};
  Maker maker(request, source, plan, progress);
  auto groups = groups_of(layout, request.kinds, request.layers);
  check(request, checkpoint, layout, groups, source, progress);
  if (request.joint) {
    const std::vector<Nest> nests = nests_of(checkpoint, layout, groups);
    if (nests.empty()) {
      throw Error(ErrorCode::usage,
                  fmt::format("--joint: none of the groups asked for ({}) lie inside each other",
                              listed(request.kinds)),
                  "heads and their channels do: --group head,channel");
    }
    plan.solver = "exchanges of one group after the other";
    maker.solve(nests, layout);
    std::erase_if(groups,
                  [&](const AxisGroup* group) { return plan.groups.contains(group->name); });
    if (groups.empty()) return plan;
  }
  if (!request.expansion) {
    maker.solve(groups);
    return plan;
  }

  std::vector<const AxisGroup*> inner;
  std::copy_if(groups.begin(), groups.end(), std::back_inserter(inner),
               [](const AxisGroup* group) { return group->kind == "inner"; });
  const bool orders_model = std::any_of(
      groups.begin(), groups.end(), [](const AxisGroup* group) { return group->kind == "model"; });
  if (inner.empty()) {
    throw Error(ErrorCode::usage, "--expand: fills inner axes, but --group does not name inner");
  }
  std::erase_if(groups, [](const AxisGroup* group) { return group->kind == "inner"; });
  const AxisGroup* model = layout.find("model");
  if (model == nullptr) {
    throw Error(
        ErrorCode::usage,
        fmt::format("--expand: layout '{}' has no residual stream to expand from", layout.name));
  }
  if (!orders_model) groups.push_back(model);
  expand_hidden(Permutation::identity(model->size), inner.front()->size,
                *request.expansion);  // fits?
  maker.solve(groups);
  const Permutation hidden = plan.groups.at(model->name);
  if (!orders_model) {  // it only served the inner axes
    plan.groups.erase(model->name);
    std::erase_if(plan.scores, [&](const GroupScore& score) { return score.group == model->name; });
  }
  maker.assign(inner, expand_hidden(hidden, inner.front()->size, *request.expansion));
  return plan;
}

}  // namespace icd
