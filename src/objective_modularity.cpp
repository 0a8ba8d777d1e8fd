#include <algorithm>
#include <memory>
#include <vector>

#include "block_sums.h"
#include "facts_problem.h"
#include "greedy_blocks.h"
#include "icd/objective.h"

// The modularity of contiguous equal blocks,
//   sum over blocks c of [ L_c / W - gamma (S_c / 2W)^2 ],
// L_c the weight of the edges inside c, S_c the sum of strengths in c, W the weight of all edges;
// 0 on a graph without edges. The null model is taken over all pairs, joined or not. With gamma 0
// it is the share of the weight inside blocks.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

class BlockModularity final : public FactsProblem {
 public:
  BlockModularity(const AxisFacts& facts, Blocks blocks, double gamma)
      : FactsProblem(facts), blocks_(blocks), gamma_(gamma) {}

  Direction direction() const noexcept override { return Direction::higher; }
  Blocks blocks() const noexcept override { return blocks_; }
  double gamma() const noexcept override { return gamma_; }

  double score(const Permutation& order) const override {
    const double total = graph().total_weight();
    if (total == 0) return 0;

    const Permutation position = order.inverse();
    std::vector<double> strengths(at(blocks_.count(size())), 0.0);
    double inside = 0;
    for (Index u = 0; u < size(); ++u) {
      const Index block = blocks_.of(position[u]);
      strengths[at(block)] += graph().strength(u);
      if (graph().degree(u) == size() - 1) {  // look-ups are cheap, and the block is short
        for (Index k = position[u] + 1; k < blocks_.end(block, size()); ++k) {
          inside += double{graph().weight(u, order[k])};
        }
        continue;
      }
      for (const Neighbour& next : graph().neighbours(u)) {
        if (position[u] < position[next.vertex] && blocks_.of(position[next.vertex]) == block) {
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

  // O(size of both blocks * cost of Graph::weight()).
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    const double total = graph().total_weight();
    const Index a = blocks_.of(i);
    const Index b = blocks_.of(j);
    if (total == 0 || a == b) return 0;

    const Index u = order[i];
    const Index v = order[j];
    double inside = 0;         // the change of sum L_c
    double strength_less = 0;  // S_a - S_b
    for (Index k = blocks_.begin(a); k < blocks_.end(a, size()); ++k) {
      const Index x = order[k];
      if (k != i) inside += double{graph().weight(v, x)} - double{graph().weight(u, x)};
      strength_less += graph().strength(x);
    }
    for (Index k = blocks_.begin(b); k < blocks_.end(b, size()); ++k) {
      const Index x = order[k];
      if (k != j) inside += double{graph().weight(u, x)} - double{graph().weight(v, x)};
      strength_less -= graph().strength(x);
    }
    // (S_a + d)^2 + (S_b - d)^2 less the squares now, for d the strength that a gains.
    const double d = graph().strength(v) - graph().strength(u);
    const double squares = 2 * d * (strength_less + d);
    return inside / total - gamma_ * squares / (4 * total * total);
  }

  Permutation greedy() const override { return greedy_blocks(graph(), gamma_, blocks_); }

  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override {
    // Under one block, or blocks of one member, every order scores the same.
    if (graph().edges() == 0 || blocks_.count(size()) <= 1 || blocks_.size == 1) {
      return FactsProblem::search(from);
    }
    return std::make_unique<BlockSums>(graph(), gamma_, blocks_, from);
  }

 private:
  Blocks blocks_;
  double gamma_;
};

}  // namespace

std::unique_ptr<Problem> modularity_problem(const AxisFacts& facts,
                                            const ObjectiveOptions& options) {
  return std::make_unique<BlockModularity>(facts, Blocks{options.block}, options.gamma);
}

std::unique_ptr<Problem> intra_block_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options) {
  return std::make_unique<BlockModularity>(facts, Blocks{options.block}, 0.0);
}

}  // namespace icd
