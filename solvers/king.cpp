#include <cstddef>
#include <utility>
#include <vector>

#include "solvers.h"
#include "traversal.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Numbers vertices. The front is what has a numbered neighbour and no number itself.
class KingWalk {
 public:
  explicit KingWalk(const Graph& graph)
      : graph_(graph), state_(at(graph.size()), State::unseen), unseen_(at(graph.size())) {
    for (Index v = 0; v < graph.size(); ++v) unseen_[at(v)] = graph.degree(v);
  }

  void run(const std::vector<Index>& component, Index root, std::vector<Index>& order) {
    see(root);
    for (std::size_t left = component.size(); left > 0; --left) {
      Index chosen = -1;
      for (const Index v : component) {
        if (state_[at(v)] != State::front) continue;
        if (chosen < 0 || unseen_[at(v)] < unseen_[at(chosen)]) chosen = v;
      }
      state_[at(chosen)] = State::numbered;
      order.push_back(chosen);
      for (const Neighbour& next : graph_.neighbours(chosen)) {
        if (state_[at(next.vertex)] == State::unseen) see(next.vertex);
      }
    }
  }

 private:
  enum class State : unsigned char { unseen, front, numbered };

  void see(Index v) {
    state_[at(v)] = State::front;
    for (const Neighbour& next : graph_.neighbours(v)) --unseen_[at(next.vertex)];
  }

  const Graph& graph_;
  std::vector<State> state_;
  std::vector<Index> unseen_;  // (n), how many neighbours are
};

}  // namespace

// King: from a far end of each component, number next the vertex of the front that adds the
// fewest to it. Narrows the profile (the sum of row widths) rather than the bandwidth. Reads
// neither the weights nor the objective.
//
// Source  I. P. King, "An automatic reordering scheme for simultaneous equations derived from
//         network systems", Int. J. Numer. Meth. Engng. 1970. Not Boost.Graph's king_ordering:
//         its heap leaves ties to the library.
// Cost    O(V^2 + E).
// Ties    to the lower vertex, components by their lowest vertex.
Permutation solve_king(const Problem& problem, const SolveOptions&) {
  const Graph& graph = problem.graph();
  std::vector<Index> order;
  order.reserve(at(graph.size()));
  KingWalk walk(graph);
  for (const std::vector<Index>& component : components(graph)) {
    walk.run(component, far_ends(graph, component).begin, order);
  }
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
