#include <cstdlib>
#include <memory>

#include "facts_problem.h"
#include "icd/objective.h"
#include "line_search.h"

// The mean distance, in positions, between the ends of an edge, edges counted by weight:
//   sum over edges of w_uv |pos_u - pos_v| / W;
// 0 on a graph without edges. Minimum linear arrangement, divided by the weight of all edges.

namespace icd {
namespace {

class Arrangement final : public FactsProblem {
 public:
  Arrangement(const AxisFacts& facts, Blocks blocks) : FactsProblem(facts), blocks_(blocks) {}

  Direction direction() const noexcept override { return Direction::lower; }
  Blocks blocks() const noexcept override { return blocks_; }

  double score(const Permutation& order) const override {
    return graph().edges() == 0 ? 0 : line_length(graph(), order) / graph().total_weight();
  }

  // O(n + degrees): the n is for the positions.
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    if (graph().edges() == 0 || i == j) return 0;
    const Permutation position = order.inverse();
    const Index u = order[i];
    const Index v = order[j];
    // The distance between u and v stays.
    double change = 0;
    const auto move = [&](Index mover, Index other, Index from, Index to) {
      for (const Neighbour& next : graph().neighbours(mover)) {
        if (next.vertex == other) continue;
        const Index place = position[next.vertex];
        change += double{next.weight} * (std::abs(to - place) - std::abs(from - place));
      }
    };
    move(u, v, i, j);
    move(v, u, j, i);
    return change / graph().total_weight();
  }

  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override {
    return std::make_unique<LineSearch>(graph(), from);
  }

 private:
  Blocks blocks_;
};

}  // namespace

std::unique_ptr<Problem> arrangement_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options) {
  return std::make_unique<Arrangement>(facts, Blocks{options.block});
}

}  // namespace icd
