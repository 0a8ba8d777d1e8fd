#include <cstddef>
#include <utility>
#include <vector>

#include "solvers.h"
#include "traversal.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// Sloan's weights of the distance from the goal and of the growth of the front.
constexpr Index kDistance = 1;
constexpr Index kGrowth = 2;

/// Numbers vertices. Active is what has a numbered neighbour, preactive what has an active one.
class SloanWalk {
 public:
  explicit SloanWalk(const Graph& graph)
      : graph_(graph), state_(at(graph.size()), State::inactive), priority_(at(graph.size())) {}

  void run(const std::vector<Index>& component, Ends ends, std::vector<Index>& order) {
    const std::vector<Index> away = distances(graph_, ends.end);
    for (const Index v : component) {
      priority_[at(v)] = kDistance * away[at(v)] - kGrowth * (graph_.degree(v) + 1);
    }
    state_[at(ends.begin)] = State::preactive;
    for (std::size_t left = component.size(); left > 0; --left) {
      Index chosen = -1;
      for (const Index v : component) {
        if (state_[at(v)] == State::inactive || state_[at(v)] == State::numbered) continue;
        if (chosen < 0 || priority_[at(v)] > priority_[at(chosen)]) chosen = v;
      }
      if (state_[at(chosen)] == State::preactive) raise_neighbours(chosen);
      state_[at(chosen)] = State::numbered;
      order.push_back(chosen);
      for (const Neighbour& next : graph_.neighbours(chosen)) {
        if (state_[at(next.vertex)] != State::preactive) continue;
        state_[at(next.vertex)] = State::active;
        priority_[at(next.vertex)] += kGrowth;
        raise_neighbours(next.vertex);
      }
    }
  }

 private:
  enum class State : unsigned char { inactive, preactive, active, numbered };

  /// Their numbering would make the front grow by one vertex less.
  void raise_neighbours(Index v) {
    for (const Neighbour& next : graph_.neighbours(v)) {
      if (state_[at(next.vertex)] == State::inactive) state_[at(next.vertex)] = State::preactive;
      priority_[at(next.vertex)] += kGrowth;
    }
  }

  const Graph& graph_;
  std::vector<State> state_;
  std::vector<Index> priority_;
};

}  // namespace

// Sloan: from one far end of each component to the other, number next what is far from the goal
// and adds little to the front. A small profile and a small front. Reads neither the weights nor
// the objective.
//
// Source  S. W. Sloan, "An algorithm for profile and wavefront reduction of sparse matrices",
//         Int. J. Numer. Meth. Engng. 1986, with its weights 1 and 2. Not Boost.Graph's
//         sloan_ordering: its queue leaves ties to the library.
// Cost    O(V^2 + E).
// Ties    to the lower vertex, components by their lowest vertex.
Permutation solve_sloan(const Problem& problem, const SolveOptions&) {
  const Graph& graph = problem.graph();
  std::vector<Index> order;
  order.reserve(at(graph.size()));
  SloanWalk walk(graph);
  for (const std::vector<Index>& component : components(graph)) {
    walk.run(component, far_ends(graph, component), order);
  }
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
