#include "line_search.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace icd {

LineSearch::LineSearch(const Graph& graph, const Permutation& order)
    : graph_(graph),
      order_(order.gather().begin(), order.gather().end()),
      place_(order_.size()),
      left_(order_.size()),
      joined_(order_.size()) {
  lay_out();
}

void LineSearch::lay_out() {
  for (std::size_t p = 0; p < order_.size(); ++p) place_[at(order_[p])] = static_cast<Index>(p);
  for (Index v = 0; v < graph_.size(); ++v) {
    double left = 0;
    for (const Neighbour& next : graph_.neighbours(v)) {
      if (place_[at(next.vertex)] < place_[at(v)]) left += double{next.weight};
    }
    left_[at(v)] = left;
  }
}

// One step of v to the right, past x: v comes nearer to all on its right and leaves all on its
// left, x the other way round; the distance of the two stays. With lean = right - left the sum
// changes by -lean(v) + lean(x) + 2 w(v, x), and v then has w(v, x) more on its left.
LineSearch::Insertion LineSearch::best_insertion(Index v) {
  const auto row = graph_.neighbours(v);
  for (const Neighbour& next : row) joined_[at(place_[at(next.vertex)])] = next.weight;

  const Index home = place_[at(v)];
  double least = 0;
  Index best = home;
  const auto consider = [&](Index place, double change) {
    const Index farther = std::abs(place - home) - std::abs(best - home);
    if (change < least || (change == least && best != home && farther < 0)) {
      least = change;
      best = place;
    }
  };

  double change = 0;
  double own_lean = lean(v);
  for (Index p = home - 1; p >= 0; --p) {
    const double weight = double{joined_[at(p)]};
    change += own_lean - lean(order_[at(p)]) + 2 * weight;
    own_lean += 2 * weight;
    consider(p, change);
  }
  change = 0;
  own_lean = lean(v);
  for (Index p = home + 1; p < graph_.size(); ++p) {
    const double weight = double{joined_[at(p)]};
    change += lean(order_[at(p)]) - own_lean + 2 * weight;
    own_lean -= 2 * weight;
    consider(p, change);
  }

  for (const Neighbour& next : row) joined_[at(place_[at(next.vertex)])] = 0;
  return {best, -least};
}

void LineSearch::insert(Index v, Index place) {
  const Index home = place_[at(v)];
  for (const Neighbour& next : graph_.neighbours(v)) {
    const Index other = place_[at(next.vertex)];
    const double weight = next.weight;
    if (other > home && other <= place) {  // v passes it on the way to the right
      left_[at(next.vertex)] -= weight;
      left_[at(v)] += weight;
    } else if (other < home && other >= place) {
      left_[at(next.vertex)] += weight;
      left_[at(v)] -= weight;
    }
  }
  const auto line = order_.begin();
  if (place > home) {
    std::rotate(line + home, line + home + 1, line + place + 1);
  } else {
    std::rotate(line + place, line + home, line + home + 1);
  }
  for (Index p = std::min(home, place); p <= std::max(home, place); ++p) {
    place_[at(order_[at(p)])] = p;
  }
}

void LineSearch::descend(std::int64_t& steps) {
  // Below this a move changes the order and not the result, and could go on for ever.
  const double smallest_gain = 1e-9 * graph_.total_weight();
  for (bool improved = graph_.edges() > 0; improved;) {
    improved = false;
    for (Index v = 0; v < graph_.size(); ++v) {
      if (steps-- <= 0) return;
      const Insertion best = best_insertion(v);
      if (best.gain <= smallest_gain) continue;
      insert(v, best.place);
      improved = true;
    }
  }
}

void LineSearch::kick(Random& random, Index pairs) {
  for (Index pair = 0; pair < pairs && !order_.empty(); ++pair) {
    std::swap(order_[random.below(order_.size())], order_[random.below(order_.size())]);
  }
  lay_out();
}

double line_length(const Graph& graph, const Permutation& order) {
  const Permutation position = order.inverse();
  double sum = 0;
  for (Index u = 0; u < graph.size(); ++u) {
    for (const Neighbour& next : graph.neighbours(u)) {
      if (u < next.vertex) {
        sum += double{next.weight} * std::abs(position[u] - position[next.vertex]);
      }
    }
  }
  return sum;
}

}  // namespace icd
