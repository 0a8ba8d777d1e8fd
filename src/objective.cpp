#include "icd/objective.h"

#include <algorithm>
#include <array>
#include <vector>

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

class BlockModularity final : public Objective {
 public:
  constexpr BlockModularity(std::string_view name, std::string_view summary, double gamma)
      : name_(name), summary_(summary), gamma_(gamma) {}

  std::string_view name() const noexcept override { return name_; }
  std::string_view summary() const noexcept override { return summary_; }
  double gamma() const noexcept override { return gamma_; }

  double score(const Graph& graph, const Permutation& order, Blocks blocks) const override {
    const double total = graph.total_weight();
    if (total == 0) return 0;

    const Permutation position = order.inverse();
    std::vector<double> strengths(at(blocks.count(graph.size())), 0.0);
    double inside = 0;
    for (Index u = 0; u < graph.size(); ++u) {
      const Index block = blocks.of(position[u]);
      strengths[at(block)] += graph.strength(u);
      for (const Neighbour& next : graph.neighbours(u)) {
        if (u < next.vertex && blocks.of(position[next.vertex]) == block) {
          inside += double{next.weight};
        }
      }
    }
    double expected = 0;
    for (const double strength : strengths) {
      const double share = strength / (2 * total);
      expected += share * share;
    }
    return inside / total - gamma_ * expected;
  }

  double swap_delta(const Graph& graph, const Permutation& order, Blocks blocks, Index i,
                    Index j) const override {
    const double total = graph.total_weight();
    const Index a = blocks.of(i);
    const Index b = blocks.of(j);
    if (total == 0 || a == b) return 0;

    const Index u = order[i];
    const Index v = order[j];
    double inside = 0;         // the change of sum L_c
    double strength_less = 0;  // S_a - S_b
    for (Index k = a * blocks.size; k < end_of(a, blocks, order); ++k) {
      const Index x = order[k];
      if (k != i) inside += double{graph.weight(v, x)} - double{graph.weight(u, x)};
      strength_less += graph.strength(x);
    }
    for (Index k = b * blocks.size; k < end_of(b, blocks, order); ++k) {
      const Index x = order[k];
      if (k != j) inside += double{graph.weight(u, x)} - double{graph.weight(v, x)};
      strength_less -= graph.strength(x);
    }
    // (S_a + d)^2 + (S_b - d)^2 less the squares now, for d the strength that a gains.
    const double d = graph.strength(v) - graph.strength(u);
    const double squares = 2 * d * (strength_less + d);
    return inside / total - gamma_ * squares / (4 * total * total);
  }

 private:
  static Index end_of(Index block, Blocks blocks, const Permutation& order) {
    return std::min(order.size() - block * blocks.size, blocks.size) + block * blocks.size;
  }

  std::string_view name_;
  std::string_view summary_;
  double gamma_;
};

}  // namespace

const Objective& modularity() {
  static const BlockModularity objective(
      "modularity", "Newman's modularity of the blocks: weight inside, less what chance puts there",
      1);
  return objective;
}

const Objective& intra_block() {
  static const BlockModularity objective("intra_block", "share of the weight inside blocks", 0);
  return objective;
}

std::span<const Objective* const> all_objectives() {
  static const std::array<const Objective*, 2> objectives = {&modularity(), &intra_block()};
  return objectives;
}

const Objective* find_objective(std::string_view name) noexcept {
  const auto all = all_objectives();
  const auto found = std::find_if(all.begin(), all.end(),
                                  [&](const Objective* known) { return known->name() == name; });
  return found != all.end() ? *found : nullptr;
}

}  // namespace icd
