#include "block_sums.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace icd {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

}  // namespace

BlockSums::BlockSums(const Graph& graph, double gamma, Blocks blocks, const Permutation& order)
    : graph_(graph),
      kappa_(gamma / (2 * graph.total_weight())),
      block_(at(graph.size())),
      slot_(block_.size()),
      members_(at(blocks.count(graph.size()))),
      sums_(members_.size() * block_.size()),
      own_(block_.size()),
      strength_(block_.size()),
      block_strength_(members_.size()),
      bounds_(members_.size() * members_.size()),
      bounded_at_(bounds_.size()),
      changed_at_(members_.size()),
      promise_(members_.size()) {
  for (Index i = 0; i < order.size(); ++i) {
    const Index v = order[i];
    auto& block = members_[at(blocks.of(i))];
    block_[at(v)] = blocks.of(i);
    slot_[at(v)] = static_cast<Index>(block.size());
    block.push_back(v);
  }
  for (Index v = 0; v < graph.size(); ++v) {
    strength_[at(v)] = static_cast<float>(graph.strength(v));
  }
  heaviest_ = *std::max_element(strength_.begin(), strength_.end());
  refresh();
}

void BlockSums::refresh() {
  std::vector<double> row(members_.size());
  for (Index v = 0; v < graph_.size(); ++v) {
    std::fill(row.begin(), row.end(), 0.0);
    for (const Neighbour& next : graph_.neighbours(v)) {
      row[at(block_[at(next.vertex)])] += double{next.weight};
    }
    for (std::size_t b = 0; b < row.size(); ++b)
      sums_[b * size() + at(v)] = static_cast<float>(row[b]);
    own_[at(v)] = sum(v, block_[at(v)]);
  }
  for (std::size_t b = 0; b < members_.size(); ++b) {
    double strength = 0;
    for (const Index v : members_[b]) strength += graph_.strength(v);
    block_strength_[b] = static_cast<float>(strength);
  }
  std::fill(bounded_at_.begin(), bounded_at_.end(), -1);
}

// What v alone gains by going to `block`, the two blocks' other members staying.
float BlockSums::pull(Index v, Index block) const noexcept {
  const Index home = block_[at(v)];
  const float strength = strength_[at(v)];
  const float chance = static_cast<float>(kappa_) * strength *
                       (block_strength_[at(block)] - (block_strength_[at(home)] - strength));
  return sum(v, block) - own_[at(v)] - chance;
}

float BlockSums::bound(Index from, Index to) {
  const std::size_t entry = at(from) * members_.size() + at(to);
  if (bounded_at_[entry] < std::max(changed_at_[at(from)], changed_at_[at(to)])) {
    float most = kNever;
    for (const Index v : members_[at(to)]) most = std::max(most, pull(v, from));
    bounds_[entry] = most;
    bounded_at_[entry] = swaps_;
  }
  return bounds_[entry];
}

// Exchanging u of a and v of b gains pull(u, b) + pull(v, a) - 2 w(u, v) + 2 kappa s_u s_v:
// each is pulled by the other, who will not be there.
Index BlockSums::best_partner(Index u) {
  const Index home = block_[at(u)];
  const float twice_kappa = 2 * static_cast<float>(kappa_) * strength_[at(u)];
  for (Index b = 0; b < std::ssize(members_); ++b) {
    promise_[at(b)] = b == home ? kNever : pull(u, b) + bound(home, b) + twice_kappa * heaviest_;
  }

  float best = 0;
  Index partner = -1;
  for (;;) {
    const auto next = std::max_element(promise_.begin(), promise_.end());
    if (*next < best || *next <= 0) return partner;
    *next = kNever;
    const auto b = static_cast<Index>(next - promise_.begin());
    const float u_pull = pull(u, b);
    for (const Index v : members_[at(b)]) {
      float gain = u_pull + pull(v, home) + twice_kappa * strength_[at(v)];
      if (gain < best) continue;  // the look-up of the weight can only lower it
      gain -= 2 * graph_.weight(u, v);
      if (gain > best || (gain == best && v < partner)) {
        best = gain;
        partner = v;
      }
    }
  }
}

double BlockSums::exact_gain(Index u, Index v) const {
  double gain = 0;
  double strength_less = 0;  // of u's block, less that of v's
  for (const Index x : members_[at(block_[at(u)])]) {
    if (x != u) gain += double{graph_.weight(v, x)} - double{graph_.weight(u, x)};
    strength_less += graph_.strength(x);
  }
  for (const Index x : members_[at(block_[at(v)])]) {
    if (x != v) gain += double{graph_.weight(u, x)} - double{graph_.weight(v, x)};
    strength_less -= graph_.strength(x);
  }
  const double moved = graph_.strength(v) - graph_.strength(u);
  return gain - kappa_ * moved * (strength_less + moved);
}

void BlockSums::exchange(Index u, Index v) {
  const Index a = block_[at(u)];
  const Index b = block_[at(v)];
  float* with_a = sums_.data() + at(a) * size();
  float* with_b = sums_.data() + at(b) * size();
  for (const Neighbour& next : graph_.neighbours(u)) {
    with_a[next.vertex] -= next.weight;
    with_b[next.vertex] += next.weight;
  }
  for (const Neighbour& next : graph_.neighbours(v)) {
    with_a[next.vertex] += next.weight;
    with_b[next.vertex] -= next.weight;
  }

  std::swap(block_[at(u)], block_[at(v)]);
  std::swap(slot_[at(u)], slot_[at(v)]);
  members_[at(a)][at(slot_[at(v)])] = v;
  members_[at(b)][at(slot_[at(u)])] = u;
  ++swaps_;
  for (const Index block : {a, b}) {
    double strength = 0;
    for (const Index x : members_[at(block)]) {
      own_[at(x)] = sum(x, block);
      strength += graph_.strength(x);
    }
    block_strength_[at(block)] = static_cast<float>(strength);
    changed_at_[at(block)] = swaps_;
  }
}

void BlockSums::descend(std::int64_t& steps) {
  const auto n = static_cast<Index>(size());
  // Below this an exchange changes the order and not the result, and could go on for ever.
  const double smallest_gain = 1e-9 * graph_.total_weight() / n;
  for (bool fresh = true;;) {
    bool improved = false;
    for (Index u = 0; u < n; ++u) {
      if (steps-- <= 0) return;
      const Index v = best_partner(u);
      if (v < 0 || exact_gain(u, v) <= smallest_gain) continue;
      exchange(u, v);
      improved = true;
    }
    // Rounded sums may hide a gain: the last word is a sweep over exact ones.
    if (!improved && fresh) return;
    fresh = !improved;
    if (fresh) refresh();
  }
}

void BlockSums::kick(Random& random, Index pairs) {
  for (Index pair = 0; pair < pairs; ++pair) {
    const auto u = static_cast<Index>(random.below(size()));
    const auto v = static_cast<Index>(random.below(size()));
    if (block_of(u) != block_of(v)) exchange(u, v);
  }
}

Permutation BlockSums::order() const {
  std::vector<std::vector<Index>> blocks = members_;
  for (auto& block : blocks) std::sort(block.begin(), block.end());
  std::sort(blocks.begin(), blocks.end(), [](const auto& one, const auto& other) {
    return one.size() != other.size() ? one.size() > other.size() : one.front() < other.front();
  });
  std::vector<Index> order;
  order.reserve(size());
  for (const auto& block : blocks) order.insert(order.end(), block.begin(), block.end());
  return Permutation::from_gather(std::move(order));
}

}  // namespace icd
