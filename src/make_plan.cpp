#include "icd/make_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "icd/digest.h"
#include "icd/error.h"
#include "icd/random.h"
#include "icd/weight_similarity.h"

namespace icd {
namespace {

std::vector<const AxisGroup*> groups_of(const Layout& layout,
                                        const std::vector<std::string>& kinds) {
  const auto known = layout.kinds();
  for (const std::string& kind : kinds) {
    if (std::find(known.begin(), known.end(), kind) == known.end()) {
      throw Error(ErrorCode::usage,
                  fmt::format("--group: there is no group '{}', expected {} or all", kind,
                              fmt::join(known, ", ")));
    }
  }
  std::vector<const AxisGroup*> groups;
  for (const AxisGroup& group : layout.groups) {
    if (std::find(kinds.begin(), kinds.end(), group.kind) != kinds.end()) groups.push_back(&group);
  }
  return groups;
}

/// A small group in blocks of the full size would be one block, which no order changes.
Blocks blocks_for(const AxisGroup& group, Index block) {
  return {std::min(block, std::max<Index>(group.size / 4, 1))};
}

/// The seed of one group does not depend on which others are solved.
std::uint64_t seed_for(const AxisGroup& group, std::uint64_t seed) {
  std::uint64_t key = 0xCBF29CE484222325u;  // FNV-1a of the name
  for (const char c : group.name) key = (key ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return Random::derived(seed, key).next();
}

class Maker {
 public:
  Maker(const PlanRequest& request, const SimilaritySource& source, Plan& plan, Progress& progress)
      : request_(request), source_(source), plan_(plan), progress_(progress) {}

  /// Solves each group on its own similarity.
  void solve(const std::vector<const AxisGroup*>& groups) {
    if (request_.solver->reads == Reads::nothing && !source_) {
      for (const AxisGroup* group : groups) take(*group, Graph::from_edges(group->size, {}));
      return;
    }
    source_(
        groups,
        [&](const AxisGroup& group, Similarity&& similarity) {
          const Permutation& order = take(group, graph_of(group, similarity.calibration));
          score(group, order, similarity);
        },
        progress_);
  }

  /// Gives groups an order that was solved elsewhere, and scores it on their own.
  void assign(const std::vector<const AxisGroup*>& groups, const Permutation& order) {
    for (const AxisGroup* group : groups) plan_.groups.insert_or_assign(group->name, order);
    if (!source_) return;
    source_(
        groups,
        [&](const AxisGroup& group, Similarity&& similarity) { score(group, order, similarity); },
        progress_);
  }

 private:
  Graph graph_of(const AxisGroup& group, std::span<const float> similarity) const {
    return correlation_graph(similarity, group.size, request_.graph);
  }

  std::unique_ptr<Problem> problem_of(const AxisGroup& group, Graph graph) const {
    AxisFacts facts;
    facts.graph = std::make_shared<const Graph>(std::move(graph));
    return request_.objective->problem(facts, {.block = blocks_for(group, request_.block).size});
  }

  const Permutation& take(const AxisGroup& group, const Graph& graph) {
    const SolveOptions options{.seed = seed_for(group, request_.seed),
                               .max_steps = request_.max_steps};
    Permutation order = request_.solver->solve(*problem_of(group, graph), options);
    return plan_.groups.insert_or_assign(group.name, std::move(order)).first->second;
  }

  void score(const AxisGroup& group, const Permutation& order, const Similarity& similarity) {
    const Permutation before = Permutation::identity(group.size);
    const auto calibration = problem_of(group, graph_of(group, similarity.calibration));
    GroupScore row{.group = group.name,
                   .objective = std::string(request_.objective->name),
                   .calibration_before = calibration->score(before),
                   .calibration_after = calibration->score(order)};
    if (!similarity.heldout.empty()) {
      const auto heldout = problem_of(group, graph_of(group, similarity.heldout));
      row.heldout_before = heldout->score(before);
      row.heldout_after = heldout->score(order);
    }
    plan_.scores.push_back(std::move(row));
  }

  const PlanRequest& request_;
  const SimilaritySource& source_;
  Plan& plan_;
  Progress& progress_;
};

std::string graph_in_words(const PlanRequest& request, std::string_view source) {
  constexpr std::string_view kWeights[] = {"|r|", "r^2", "max(r, 0)"};
  std::string words =
      fmt::format("{} of {}", kWeights[static_cast<int>(request.graph.weight)], source);
  if (request.graph.top_k > 0) words += fmt::format(", top {} a vertex", request.graph.top_k);
  return words;
}

}  // namespace

SimilaritySource similarity_by_running(const LanguageModel<float>& model, const Layout& layout,
                                       const TokenSplit& tokens, const std::string& signal) {
  return [&model, &layout, &tokens, signal](const std::vector<const AxisGroup*>& groups,
                                            const auto& take, Progress& progress) {
    CalibrationOptions options{.kinds = {}, .signals = {}};
    for (const AxisGroup* group : groups) {
      const std::string own(signal_for(group->kind, signal));
      const auto add = [](std::vector<std::string>& list, const std::string& entry) {
        if (std::find(list.begin(), list.end(), entry) == list.end()) list.push_back(entry);
      };
      add(options.kinds, group->kind);
      add(options.signals, own);
    }
    calibrate(
        model, layout, tokens, options,
        [&](GroupStatistics&& statistics) {
          take(*layout.find(statistics.group), {std::move(statistics.train.correlation),
                                                std::move(statistics.heldout.correlation)});
        },
        progress);
  };
}

SimilaritySource similarity_from(const StatisticsFile& statistics, const std::string& signal) {
  return [&statistics, signal](const std::vector<const AxisGroup*>& groups, const auto& take,
                               Progress& progress) {
    progress.start("solving", static_cast<std::int64_t>(groups.size()), "groups");
    for (const AxisGroup* group : groups) {
      GroupStatistics found = statistics.read(group->name, signal_for(group->kind, signal));
      take(*group, {std::move(found.train.correlation), std::move(found.heldout.correlation)});
      progress.advance(1, group->name);
    }
  };
}

SimilaritySource similarity_of_weights(const Checkpoint& checkpoint) {
  return [&checkpoint](const std::vector<const AxisGroup*>& groups, const auto& take,
                       Progress& progress) {
    progress.start("comparing weights", static_cast<std::int64_t>(groups.size()), "groups");
    for (const AxisGroup* group : groups) {
      take(*group, {weight_similarity(checkpoint, *group), {}});
      progress.advance(1, group->name);
    }
  };
}

Plan make_plan(const Checkpoint& checkpoint, const Layout& layout, const PlanRequest& request,
               const SimilaritySource& source, std::string_view source_in_words,
               Progress& progress) {
  Plan plan{.architecture = layout.name,
            .settings = layout.settings,
            .structure = checkpoint.structure_digest(),
            .sources = {},
            .objective = std::string(request.objective->name),
            .solver = std::string(request.solver->name),
            .graph = source ? graph_in_words(request, source_in_words) : "none",
            .seed = request.seed,
            .block = request.block,
            .groups = {},
            .scores = {}};
  Maker maker(request, source, plan, progress);
  auto groups = groups_of(layout, request.kinds);
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
