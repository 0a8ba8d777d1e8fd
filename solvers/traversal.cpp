#include "traversal.h"

#include <algorithm>
#include <cstddef>
#include <utility>

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// The vertex of least degree among those whose distance is `distance`, ties to the lower.
Index slimmest(const Graph& graph, const std::vector<Index>& component,
               const std::vector<Index>& away, Index distance) {
  Index best = -1;
  for (const Index v : component) {
    if (away[at(v)] != distance) continue;
    if (best < 0 || graph.degree(v) < graph.degree(best)) best = v;
  }
  return best;
}

Index farthest(const std::vector<Index>& component, const std::vector<Index>& away) {
  Index most = 0;
  for (const Index v : component) most = std::max(most, away[at(v)]);
  return most;
}

}  // namespace

std::vector<std::vector<Index>> components(const Graph& graph) {
  std::vector<std::vector<Index>> found;
  std::vector<bool> seen(at(graph.size()), false);
  for (Index root = 0; root < graph.size(); ++root) {
    if (seen[at(root)]) continue;
    seen[at(root)] = true;
    std::vector<Index> walk = {root};
    for (std::size_t head = 0; head < walk.size(); ++head) {
      for (const Neighbour& next : graph.neighbours(walk[head])) {
        if (seen[at(next.vertex)]) continue;
        seen[at(next.vertex)] = true;
        walk.push_back(next.vertex);
      }
    }
    std::sort(walk.begin(), walk.end());
    found.push_back(std::move(walk));
  }
  return found;
}

std::vector<Index> distances(const Graph& graph, Index root) {
  std::vector<Index> away(at(graph.size()), -1);
  std::vector<Index> walk = {root};
  away[at(root)] = 0;
  for (std::size_t head = 0; head < walk.size(); ++head) {
    for (const Neighbour& next : graph.neighbours(walk[head])) {
      if (away[at(next.vertex)] >= 0) continue;
      away[at(next.vertex)] = away[at(walk[head])] + 1;
      walk.push_back(next.vertex);
    }
  }
  return away;
}

Ends far_ends(const Graph& graph, const std::vector<Index>& component) {
  Index begin = component.front();
  for (const Index v : component) {
    if (graph.degree(v) < graph.degree(begin)) begin = v;
  }
  std::vector<Index> away = distances(graph, begin);
  for (;;) {
    const Index depth = farthest(component, away);
    const Index end = slimmest(graph, component, away, depth);
    std::vector<Index> back = distances(graph, end);
    if (farthest(component, back) <= depth) return {begin, end};
    begin = end;
    away = std::move(back);
  }
}

}  // namespace icd
