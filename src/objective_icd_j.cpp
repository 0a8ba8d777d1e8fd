#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "block_sums.h"
#include "facts_problem.h"
#include "greedy_blocks.h"
#include "icd/objective.h"
#include "line_search.h"

// J of the project before this one (icd/core/cost.py of mrcha033/iterative-co-design), with its
// defaults and without its four defects; lower is better:
//   J = alpha C + beta R_align + gamma R_stab - mu Q
// Positions are cut into lines of g, vectors of 16 and quarters; W is the weight of all edges.
//
//   C        sum over edges of w phi(|line_u - line_v|) / (W phi(last line)), with phi(d) = d up
//            to lambda lines and tau times slower beyond. There it was phi(floor(distance / g)),
//            which is 0 also for half of the pairs that straddle two lines.
//   R_align  the share of weight on edges whose ends do not share a vector. There the rewarded
//            ends were a multiple of 16 apart, so in different vectors.
//   R_stab   the share of members moved by more than h from where the checkpoint has them. There
//            they were compared with the solver's own start.
//   Q        the modularity of the quarters, its null model over all pairs. There it was taken
//            over the pairs with an edge.
// Every edge counts once above and below the bar; there it was once above, twice below.

namespace icd {
namespace {

constexpr double kAlpha = 1;
constexpr double kBeta = 0.2;
constexpr double kGamma = 0.1;
constexpr double kMu = 0.5;
constexpr double kLambda = 3;  // lines
constexpr double kTau = 0.25;
constexpr double kResolution = 1.2;  // gamma of Q
constexpr Index kQuarters = 4;
constexpr Index kVector = 16;  // positions
constexpr Index kHysteresis = 2;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

double phi(Index lines) {
  const double d = lines;
  return d <= kLambda ? d : kLambda + kTau * (d - kLambda);
}

/// What positions mean to J.
class Floor {
 public:
  Floor(const Graph& graph, Blocks lines)
      : lines_(lines),
        quarter_{.size = std::max<Index>(graph.size() / kQuarters, 1)},
        weight_(graph.total_weight()) {
    const double last = phi(std::max<Index>(lines.count(graph.size()), 1) - 1);
    distance_price_ = last > 0 ? kAlpha / last : 0;
  }

  /// The terms of an edge of weight 1 between two positions, times W.
  double price(Index p, Index q) const noexcept {
    return distance_price_ * phi(std::abs(lines_.of(p) - lines_.of(q))) +
           (p / kVector != q / kVector ? kBeta : 0) - (quarter(p) == quarter(q) ? kMu : 0);
  }

  /// The last quarter takes what does not divide.
  Index quarter(Index position) const noexcept {
    return std::min(quarter_.of(position), kQuarters - 1);
  }

  /// What quarters of these strengths cost by the null model.
  double chance(double strength) const noexcept {
    const double share = strength / (2 * weight_);
    return kMu * kResolution * share * share;
  }

  double weight() const noexcept { return weight_; }

 private:
  Blocks lines_;
  Blocks quarter_;
  double weight_;
  double distance_price_;
};

/// The sum of strengths in each quarter. O(n).
using Strengths = std::array<double, kQuarters>;
Strengths strengths_of(const Graph& graph, const Floor& floor, std::span<const Index> order) {
  Strengths strengths = {};
  for (std::size_t p = 0; p < order.size(); ++p) {
    strengths[at(floor.quarter(static_cast<Index>(p)))] += graph.strength(order[p]);
  }
  return strengths;
}

bool is_moved(Index member, Index position) { return std::abs(member - position) > kHysteresis; }

/// What exchanging the members at positions i and j changes. position: (n) by member; strengths:
/// of the quarters. O(degrees).
double exchange_delta(const Graph& graph, const Floor& floor, std::span<const Index> order,
                      std::span<const Index> position, const Strengths& strengths, Index i,
                      Index j) {
  if (i == j) return 0;
  const Index u = order[at(i)];
  const Index v = order[at(j)];
  const int moved = is_moved(u, j) + is_moved(v, i) - is_moved(u, i) - is_moved(v, j);
  double change = kGamma * moved / static_cast<double>(order.size());
  if (floor.weight() == 0) return change;

  double edges = 0;
  const auto move = [&](Index mover, Index other, Index from, Index to) {
    for (const Neighbour& next : graph.neighbours(mover)) {
      if (next.vertex == other) continue;  // prices are symmetric: theirs stays
      const Index place = position[at(next.vertex)];
      edges += double{next.weight} * (floor.price(to, place) - floor.price(from, place));
    }
  };
  move(u, v, i, j);
  move(v, u, j, i);
  change += edges / floor.weight();

  const Index a = floor.quarter(i);
  const Index b = floor.quarter(j);
  if (a == b) return change;
  const double in_a = strengths[at(a)];
  const double in_b = strengths[at(b)];
  const double gained = graph.strength(v) - graph.strength(u);  // by a
  return change + floor.chance(in_a + gained) - floor.chance(in_a) + floor.chance(in_b - gained) -
         floor.chance(in_b);
}

double j_of(const Graph& graph, const Floor& floor, const Permutation& order) {
  const Index n = order.size();
  if (n == 0) return 0;
  const Permutation position = order.inverse();
  Index moved = 0;
  double edges = 0;
  for (Index u = 0; u < n; ++u) {
    moved += is_moved(u, position[u]) ? 1 : 0;
    for (const Neighbour& next : graph.neighbours(u)) {
      if (u < next.vertex) {
        edges += double{next.weight} * floor.price(position[u], position[next.vertex]);
      }
    }
  }
  double j = kGamma * moved / static_cast<double>(n);
  if (floor.weight() == 0) return j;
  j += edges / floor.weight();
  for (const double strength : strengths_of(graph, floor, order.gather())) {
    j += floor.chance(strength);
  }
  return j;
}

/// Lays the blocks of an order out anew: `rank` of a block is where it goes; a shorter last
/// block stays last.
Permutation blocks_in_order(const Permutation& order, Blocks blocks, const Permutation& rank) {
  std::vector<Index> result;
  result.reserve(at(order.size()));
  for (const Index block : rank.gather()) {
    for (Index p = blocks.begin(block); p < blocks.end(block, order.size()); ++p) {
      result.push_back(order[p]);
    }
  }
  for (auto p = static_cast<Index>(result.size()); p < order.size(); ++p) {
    result.push_back(order[p]);
  }
  return Permutation::from_gather(std::move(result));
}

/// The lines that are full, in the order of a short linear arrangement of the graph of lines.
Permutation arrange_lines(const Graph& graph, Blocks lines, const Permutation& order,
                          std::int64_t& steps) {
  const Permutation position = order.inverse();
  const Index full = order.size() / lines.size;
  std::vector<double> between(at(full) * at(full));
  for (Index u = 0; u < graph.size(); ++u) {
    const Index a = lines.of(position[u]);
    if (a >= full) continue;
    for (const Neighbour& next : graph.neighbours(u)) {
      const Index b = lines.of(position[next.vertex]);
      if (b < a) between[at(a) * at(full) + at(b)] += double{next.weight};
    }
  }
  // Shares of the whole, which floats hold whatever the weights' magnitude.
  std::vector<Graph::Edge> edges;
  for (Index a = 0; a < full; ++a) {
    for (Index b = 0; b < a; ++b) {
      const double share = between[at(a) * at(full) + at(b)] / graph.total_weight();
      if (share > 0) edges.push_back({a, b, static_cast<float>(share)});
    }
  }
  const Graph quotient = Graph::from_edges(full, std::move(edges));
  LineSearch search(quotient, Permutation::identity(full));
  search.descend(steps);
  return blocks_in_order(order, lines, search.order());
}

/// The members of each line in vectors that hold the most weight.
Permutation pack_vectors(const Graph& graph, Blocks lines, const Permutation& order,
                         std::int64_t& steps) {
  std::vector<Index> result(order.gather().begin(), order.gather().end());
  std::vector<Index> place(result.size(), -1);  // in the line at hand
  for (Index line = 0; line < lines.count(order.size()); ++line) {
    const Index begin = lines.begin(line);
    const Index members = lines.end(line, order.size()) - begin;
    for (Index k = 0; k < members; ++k) place[at(order[begin + k])] = k;
    std::vector<Graph::Edge> edges;
    for (Index k = 0; k < members; ++k) {
      for (const Neighbour& next : graph.neighbours(order[begin + k])) {
        if (place[at(next.vertex)] > k) edges.push_back({k, place[at(next.vertex)], next.weight});
      }
    }
    for (Index k = 0; k < members; ++k) place[at(order[begin + k])] = -1;
    const Graph inside = Graph::from_edges(members, std::move(edges));
    if (inside.edges() == 0 || members <= kVector) continue;
    BlockSums vectors(inside, 0, {kVector}, greedy_blocks(inside, 0, {kVector}));
    vectors.descend(steps);
    const Permutation packed = vectors.order();
    for (Index k = 0; k < members; ++k) result[at(begin + k)] = order[begin + packed[k]];
  }
  return Permutation::from_gather(std::move(result));
}

/// First the large moves, one term at a time: lines that hold the most weight, lines that are
/// close to those they are joined with, vectors that hold the most weight. Then exchanges on J
/// itself. Keeps of each what lowers J.
class JSearch final : public ExchangeSearch {
 public:
  JSearch(const Graph& graph, const Floor& floor, Blocks lines, const Permutation& from)
      : graph_(graph),
        floor_(floor),
        lines_(lines),
        order_(from.gather().begin(), from.gather().end()),
        position_(order_.size()) {
    take(from);
  }

  // A step is a member whose best partner is looked for, by J or by one of its terms.
  void descend(std::int64_t& steps) override {
    if (graph_.edges() > 0) rebuild(steps);
    exchange_members(steps);
  }

  void kick(Random& random, Index pairs) override {
    for (Index pair = 0; pair < pairs && !order_.empty(); ++pair) {
      exchange(static_cast<Index>(random.below(order_.size())),
               static_cast<Index>(random.below(order_.size())));
    }
  }

  Permutation order() const override { return Permutation::from_gather(order_); }

 private:
  void take(const Permutation& order) {
    for (Index p = 0; p < order.size(); ++p) {
      order_[at(p)] = order[p];
      position_[at(order[p])] = p;
    }
    j_ = j_of(graph_, floor_, order);
  }

  void keep_if_better(const Permutation& order) {
    if (j_of(graph_, floor_, order) < j_) take(order);
  }

  void rebuild(std::int64_t& steps) {
    const auto n = static_cast<Index>(order_.size());
    Permutation built = order();
    if (lines_.count(n) > 1 && lines_.size > 1) {
      BlockSums search(graph_, 0, lines_, built);
      search.descend(steps);
      built = search.order();
    }
    if (n / lines_.size > 1) built = arrange_lines(graph_, lines_, built, steps);
    keep_if_better(built);
    // Otherwise vectors lie across lines.
    if (lines_.size % kVector == 0) keep_if_better(pack_vectors(graph_, lines_, built, steps));
  }

  void exchange(Index i, Index j) {
    std::swap(order_[at(i)], order_[at(j)]);
    position_[at(order_[at(i)])] = i;
    position_[at(order_[at(j)])] = j;
  }

  /// Two partners are tried: of the line that u has the most weight with the member that has the
  /// least, as of the sweep's begin; and who stands where the checkpoint has u.
  void exchange_members(std::int64_t& steps) {
    const auto n = static_cast<Index>(order_.size());
    std::vector<double> joined(at(lines_.count(n)));
    Strengths strengths = strengths_of(graph_, floor_, order_);
    for (bool improved = true; improved;) {
      improved = false;
      const std::vector<Index> loosest = loosest_members();
      for (Index u = 0; u < n; ++u) {
        if (steps-- <= 0) return;
        double most = 1e-12;
        Index partner = -1;
        for (const Index place : {position_[at(loosest[at(heaviest_line(u, joined))])], u}) {
          const double gain = -exchange_delta(graph_, floor_, order_, position_, strengths,
                                              position_[at(u)], place);
          if (gain > most) {
            most = gain;
            partner = place;
          }
        }
        if (partner < 0) continue;
        exchange(position_[at(u)], partner);
        strengths = strengths_of(graph_, floor_, order_);
        improved = true;
      }
    }
  }

  /// The line that u has the most weight with, ties to the first; its own if it has no edges.
  Index heaviest_line(Index u, std::vector<double>& joined) const {
    std::fill(joined.begin(), joined.end(), 0.0);
    for (const Neighbour& next : graph_.neighbours(u)) {
      joined[at(lines_.of(position_[at(next.vertex)]))] += double{next.weight};
    }
    Index best = lines_.of(position_[at(u)]);
    for (Index line = 0; line < std::ssize(joined); ++line) {
      if (joined[at(line)] > joined[at(best)]) best = line;
    }
    return best;
  }

  /// Of each line the member with the least weight to the others; ties to the lower member.
  std::vector<Index> loosest_members() const {
    std::vector<Index> loosest(at(lines_.count(graph_.size())), -1);
    std::vector<double> least(loosest.size());
    for (Index u = 0; u < graph_.size(); ++u) {
      const Index line = lines_.of(position_[at(u)]);
      double inside = 0;
      for (const Neighbour& next : graph_.neighbours(u)) {
        if (lines_.of(position_[at(next.vertex)]) == line) inside += double{next.weight};
      }
      if (loosest[at(line)] < 0 || inside < least[at(line)]) {
        loosest[at(line)] = u;
        least[at(line)] = inside;
      }
    }
    return loosest;
  }

  const Graph& graph_;
  const Floor& floor_;
  Blocks lines_;
  std::vector<Index> order_;
  std::vector<Index> position_;  // (n), by member
  double j_ = 0;                 // of the order that was taken last
};

class IcdJ final : public FactsProblem {
 public:
  IcdJ(const AxisFacts& facts, Blocks lines)
      : FactsProblem(facts), lines_(lines), floor_(graph(), lines) {}

  Direction direction() const noexcept override { return Direction::lower; }
  Blocks blocks() const noexcept override { return lines_; }

  double score(const Permutation& order) const override { return j_of(graph(), floor_, order); }

  // O(n + degrees): the n is for the positions and the strengths of quarters.
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    const Permutation position = order.inverse();
    return exchange_delta(graph(), floor_, order.gather(), position.gather(),
                          strengths_of(graph(), floor_, order.gather()), i, j);
  }

  Permutation greedy() const override { return greedy_blocks(graph(), 0, lines_); }

  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override {
    return std::make_unique<JSearch>(graph(), floor_, lines_, from);
  }

 private:
  Blocks lines_;
  Floor floor_;
};

}  // namespace

std::unique_ptr<Problem> icd_j_problem(const AxisFacts& facts, const ObjectiveOptions& options) {
  return std::make_unique<IcdJ>(facts, Blocks{options.block});
}

}  // namespace icd
