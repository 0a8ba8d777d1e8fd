#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "facts_problem.h"
#include "icd/objective.h"
#include "plain_search.h"

// The modularity of the best communities that an order lays side by side: the largest
//   sum over runs c of [ L_c / W - gamma (S_c / 2W)^2 ]
// of any cut of the order into runs, of any number and length; L_c, S_c and W as in
// objective_modularity.cpp. 0 on a graph without edges.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Where the best cut of an order begins its runs, ascending, and what it is worth times W.
struct Cut {
  std::vector<Index> begins;
  double worth = 0;
};

/// A dynamic program over the ends of the last run. O(n^2 + E). Ties to the longer last run.
Cut best_cut(const Graph& graph, double gamma, const Permutation& order) {
  const Index n = order.size();
  const Permutation position = order.inverse();
  const double kappa = gamma / (4 * graph.total_weight());
  std::vector<double> inside(at(n));    // by begin: the weight in the run that ends here
  std::vector<double> strength(at(n));  // by begin: its strength
  std::vector<double> row(at(n));
  std::vector<double> most(at(n) + 1);  // by end: the worth of the best cut before it
  std::vector<Index> begin_of(at(n) + 1);
  for (Index end = 0; end < n; ++end) {
    const Index v = order[end];
    for (const Neighbour& next : graph.neighbours(v)) {
      row[at(position[next.vertex])] = double{next.weight};
    }
    double joined = 0;  // of v with the run
    double best = 0;
    Index best_begin = end;
    for (Index begin = end; begin >= 0; --begin) {
      joined += row[at(begin)];
      inside[at(begin)] += joined;
      strength[at(begin)] += graph.strength(v);
      const double worth =
          most[at(begin)] + inside[at(begin)] - kappa * strength[at(begin)] * strength[at(begin)];
      if (begin == end || worth >= best) {
        best = worth;
        best_begin = begin;
      }
    }
    for (const Neighbour& next : graph.neighbours(v)) row[at(position[next.vertex])] = 0;
    most[at(end) + 1] = best;
    begin_of[at(end) + 1] = best_begin;
  }
  Cut cut{.begins = {}, .worth = most.back()};
  for (Index end = n; end > 0; end = begin_of[at(end)]) cut.begins.push_back(begin_of[at(end)]);
  std::reverse(cut.begins.begin(), cut.begins.end());
  return cut;
}

/// Single members move between the communities that the best cut of the start gives: to the
/// one where modularity rises most, or into one of their own.
class CommunitySearch final : public ExchangeSearch {
 public:
  CommunitySearch(const Graph& graph, double gamma, const Permutation& from)
      : graph_(graph),
        kappa_(gamma / (2 * graph.total_weight())),
        community_(at(graph.size())),
        strength_(at(graph.size())),
        joined_(at(graph.size())),
        members_(at(graph.size())) {
    const Cut cut = best_cut(graph, gamma, from);
    for (std::size_t c = 0; c < cut.begins.size(); ++c) {
      const Index end = c + 1 < cut.begins.size() ? cut.begins[c + 1] : graph.size();
      for (Index p = cut.begins[c]; p < end; ++p) move(from[p], static_cast<Index>(c));
    }
  }

  // A step is one member. Ties stay, then go to the community that is met first.
  void descend(std::int64_t& steps) override {
    const double smallest_gain = 1e-12 * graph_.total_weight();
    for (bool improved = true; improved;) {
      improved = false;
      for (Index v = 0; v < graph_.size(); ++v) {
        if (steps-- <= 0) return;
        const Index best = best_community(v, smallest_gain);
        if (best == community_[at(v)]) continue;
        leave(v);
        move(v, best);
        improved = true;
      }
    }
  }

  void kick(Random& random, Index pairs) override {
    for (Index pair = 0; pair < 2 * pairs && !community_.empty(); ++pair) {
      const auto v = static_cast<Index>(random.below(community_.size()));
      const Index target = community_[random.below(community_.size())];
      leave(v);
      move(v, target);
    }
  }

  /// Communities by their lowest member, members ascending.
  Permutation order() const override {
    std::vector<Index> lowest(community_.size(), graph_.size());
    for (Index v = graph_.size() - 1; v >= 0; --v) lowest[at(community_[at(v)])] = v;
    std::vector<Index> order(community_.size());
    std::iota(order.begin(), order.end(), Index{0});
    std::stable_sort(order.begin(), order.end(), [&](Index u, Index v) {
      return lowest[at(community_[at(u)])] < lowest[at(community_[at(v)])];
    });
    return Permutation::from_gather(std::move(order));
  }

 private:
  void move(Index v, Index community) {
    community_[at(v)] = community;
    strength_[at(community)] += graph_.strength(v);
    ++members_[at(community)];
  }
  void leave(Index v) {
    const Index community = community_[at(v)];
    // What is empty weighs nothing, whatever rounding left.
    strength_[at(community)] =
        --members_[at(community)] == 0 ? 0 : strength_[at(community)] - graph_.strength(v);
  }

  Index best_community(Index v, double smallest_gain) {
    const Index home = community_[at(v)];
    const double own = graph_.strength(v);
    for (const Neighbour& next : graph_.neighbours(v)) {
      joined_[at(community_[at(next.vertex)])] += double{next.weight};
    }
    const auto worth = [&](Index community) {
      const double others = strength_[at(community)] - (community == home ? own : 0);
      return joined_[at(community)] - kappa_ * own * others;
    };
    double most = worth(home) + smallest_gain;
    Index best = home;
    for (const Neighbour& next : graph_.neighbours(v)) {
      const Index community = community_[at(next.vertex)];
      if (community == home) continue;
      if (const double here = worth(community); here > most) {
        most = here;
        best = community;
      }
    }
    if (most < 0 && members_[at(home)] > 1) {
      best = static_cast<Index>(std::find(members_.begin(), members_.end(), 0) - members_.begin());
    }
    for (const Neighbour& next : graph_.neighbours(v)) {
      joined_[at(community_[at(next.vertex)])] = 0;
    }
    return best;
  }

  const Graph& graph_;
  double kappa_;
  std::vector<Index> community_;  // (n), by vertex
  std::vector<double> strength_;  // by community, room for n
  std::vector<double> joined_;    // the same: weights between the vertex at hand and them
  std::vector<Index> members_;    // the same: how many
};

class Communities final : public FactsProblem {
 public:
  Communities(const AxisFacts& facts, Blocks blocks, double gamma)
      : FactsProblem(facts), blocks_(blocks), gamma_(gamma) {}

  Direction direction() const noexcept override { return Direction::higher; }
  Blocks blocks() const noexcept override { return blocks_; }
  double gamma() const noexcept override { return gamma_; }

  double score(const Permutation& order) const override {
    if (graph().edges() == 0) return 0;
    return best_cut(graph(), gamma_, order).worth / graph().total_weight();
  }

  // Every run may change, so the order is cut twice: O(n^2 + E), no faster than two scores.
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    return i == j ? 0 : score(exchanged(order, i, j)) - score(order);
  }

  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override {
    if (graph().edges() == 0) return FactsProblem::search(from);
    return std::make_unique<CommunitySearch>(graph(), gamma_, from);
  }

 private:
  Blocks blocks_;
  double gamma_;
};

}  // namespace

std::unique_ptr<Problem> communities_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options) {
  return std::make_unique<Communities>(facts, Blocks{options.block}, options.gamma);
}

}  // namespace icd
