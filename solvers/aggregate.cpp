#include "aggregate.h"

#include <algorithm>
#include <cstddef>
#include <deque>

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

}  // namespace

Aggregate aggregate_of(const Graph& graph) {
  Aggregate result;
  result.begin = {0};
  result.edges.reserve(2 * static_cast<std::size_t>(graph.edges()));
  for (Index v = 0; v < graph.size(); ++v) {
    const auto row = graph.neighbours(v);
    result.edges.insert(result.edges.end(), row.begin(), row.end());
    result.begin.push_back(result.edges.size());
    result.strength.push_back(graph.strength(v));
  }
  return result;
}

Aggregate aggregate_of(const Aggregate& graph, const std::vector<Index>& set, Index sets) {
  // Members by set: a counting sort.
  std::vector<std::size_t> end(at(sets) + 1);
  for (const Index s : set) ++end[at(s) + 1];
  for (std::size_t s = 1; s < end.size(); ++s) end[s] += end[s - 1];
  std::vector<Index> members(set.size());
  std::vector<std::size_t> next_place(end.begin(), end.end() - 1);
  for (Index v = 0; v < graph.size(); ++v) members[next_place[at(set[at(v)])]++] = v;

  Aggregate result;
  result.begin = {0};
  result.strength.assign(at(sets), 0);
  std::vector<double> joined(at(sets));
  std::vector<bool> met(at(sets), false);
  std::vector<Index> row;
  for (Index s = 0; s < sets; ++s) {
    row.clear();
    for (std::size_t m = end[at(s)]; m < end[at(s) + 1]; ++m) {
      const Index v = members[m];
      result.strength[at(s)] += graph.strength[at(v)];
      for (std::size_t e = graph.begin[at(v)]; e < graph.begin[at(v) + 1]; ++e) {
        const Index other = set[at(graph.edges[e].vertex)];
        if (other == s) continue;
        if (!met[at(other)]) row.push_back(other);
        met[at(other)] = true;
        joined[at(other)] += double{graph.edges[e].weight};
      }
    }
    std::sort(row.begin(), row.end());
    for (const Index other : row) {
      result.edges.push_back({other, static_cast<float>(joined[at(other)])});
      joined[at(other)] = 0;
      met[at(other)] = false;
    }
    result.begin.push_back(result.edges.size());
  }
  return result;
}

bool move_locally(const Aggregate& graph, double kappa, double smallest_gain, Random& random,
                  std::vector<Index>& community) {
  const Index n = graph.size();
  std::vector<double> strength(at(n));
  std::vector<Index> members(at(n));
  for (Index v = 0; v < n; ++v) {
    strength[at(community[at(v)])] += graph.strength[at(v)];
    ++members[at(community[at(v)])];
  }
  std::vector<Index> empty;  // the lowest last
  for (Index c = n - 1; c >= 0; --c) {
    if (members[at(c)] == 0) empty.push_back(c);
  }

  const Permutation first = random_permutation(n, random);
  std::deque<Index> queue(first.gather().begin(), first.gather().end());
  std::vector<bool> queued(at(n), true);
  std::vector<double> joined(at(n));  // weights between the vertex at hand and a community
  bool moved = false;
  while (!queue.empty()) {
    const Index v = queue.front();
    queue.pop_front();
    queued[at(v)] = false;
    const Neighbour* const row = graph.edges.data() + graph.begin[at(v)];
    const Neighbour* const row_end = graph.edges.data() + graph.begin[at(v) + 1];
    const Index home = community[at(v)];
    const double own = graph.strength[at(v)];
    for (const auto* e = row; e != row_end; ++e) {
      joined[at(community[at(e->vertex)])] += double{e->weight};
    }

    const double others_at_home = members[at(home)] == 1 ? 0 : strength[at(home)] - own;
    double most = joined[at(home)] - kappa * own * others_at_home + smallest_gain;
    Index best = home;
    if (members[at(home)] > 1 && most < 0) {
      most = 0;
      best = empty.back();
    }
    for (const auto* e = row; e != row_end; ++e) {
      const Index c = community[at(e->vertex)];
      if (c == home) continue;
      const double here = joined[at(c)] - kappa * own * strength[at(c)];
      if (here > most) {
        most = here;
        best = c;
      }
    }
    for (const auto* e = row; e != row_end; ++e) joined[at(community[at(e->vertex)])] = 0;
    if (best == home) continue;

    moved = true;
    if (members[at(best)] == 0) empty.pop_back();
    community[at(v)] = best;
    strength[at(best)] += own;
    ++members[at(best)];
    strength[at(home)] -= own;
    if (--members[at(home)] == 0) {
      strength[at(home)] = 0;  // whatever rounding left
      empty.push_back(home);
    }
    for (const auto* e = row; e != row_end; ++e) {
      if (queued[at(e->vertex)] || community[at(e->vertex)] == best) continue;
      queued[at(e->vertex)] = true;
      queue.push_back(e->vertex);
    }
  }
  return moved;
}

Index renumber(std::vector<Index>& labels) {
  std::vector<Index> number(labels.size(), -1);
  Index count = 0;
  for (Index& label : labels) {
    if (number[at(label)] < 0) number[at(label)] = count++;
    label = number[at(label)];
  }
  return count;
}

}  // namespace icd
