#include "block_sums.h"

#include <algorithm>
#include <limits>
#include <span>
#include <utility>

#include "plain_search.h"

namespace icd {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Sixteen maxima side by side: a single one would be a chain that no compiler may vectorise.
constexpr Index kLanes = 16;

}  // namespace

BlockSums::BlockSums(const Graph& graph, double gamma, Blocks blocks, const Permutation& order)
    : graph_(graph),
      blocks_(blocks),
      kappa_(gamma / (2 * graph.total_weight())),
      place_(at(graph.size())),
      member_(order.gather().begin(), order.gather().end()),
      sums_(at(blocks.count(graph.size())) * member_.size()),
      strength_(member_.size()),
      charge_(member_.size()),
      away_(member_.size()),
      block_strength_(at(blocks.count(graph.size()))),
      bounds_(block_strength_.size() * block_strength_.size()),
      bounded_at_(bounds_.size()),
      changed_at_(block_strength_.size()),
      alone_at_(member_.size()),
      promise_(block_strength_.size()),
      offer_(at(std::min(blocks.size, graph.size()))) {
  for (Index p = 0; p < size(); ++p) {
    const Index v = member_[at(p)];
    place_[at(v)] = p;
    strength_[at(p)] = static_cast<float>(graph.strength(v));
    charge_[at(p)] = static_cast<float>(kappa_ * graph.strength(v));
  }
  heaviest_ = *std::max_element(strength_.begin(), strength_.end());
  refresh();
}

void BlockSums::refresh() {
  std::vector<double> row(at(count()));
  std::vector<Index> block(member_.size());
  for (Index v = 0; v < size(); ++v) block[at(v)] = block_of(v);
  for (Index p = 0; p < size(); ++p) {  // by place, so that sums are written side by side
    std::fill(row.begin(), row.end(), 0.0);
    for (const Neighbour& next : graph_.neighbours(member_[at(p)])) {
      row[at(block[at(next.vertex)])] += double{next.weight};
    }
    for (Index b = 0; b < count(); ++b) sums_of(b)[p] = static_cast<float>(row[at(b)]);
  }
  for (Index b = 0; b < count(); ++b) settle(b);
  std::fill(bounded_at_.begin(), bounded_at_.end(), -1);
  std::fill(alone_at_.begin(), alone_at_.end(), -1);
}

/// Brings up to date what follows from the sums of a block with its own members.
void BlockSums::settle(Index block) {
  double strength = 0;
  for (Index p = blocks_.begin(block); p < end(block); ++p) {
    strength += graph_.strength(member_[at(p)]);
  }
  block_strength_[at(block)] = static_cast<float>(strength);
  const float* own = sums_of(block);
  for (Index p = blocks_.begin(block); p < end(block); ++p) {
    away_[at(p)] = own[p] - charge_[at(p)] * (block_strength_[at(block)] - strength_[at(p)]);
  }
  changed_at_[at(block)] = swaps_;
}

// What the member at `place` alone gains by going to `block`, the two blocks' others staying.
float BlockSums::pull(Index place, Index block) const noexcept {
  const float chance = charge_[at(place)] * block_strength_[at(block)];
  return sums_of(block)[place] - (away_[at(place)] + chance);
}

float BlockSums::bound(Index from, Index to) {
  const std::size_t entry = at(from) * at(count()) + at(to);
  if (bounded_at_[entry] >= std::max(changed_at_[at(from)], changed_at_[at(to)])) {
    return bounds_[entry];
  }
  float most[kLanes];
  std::fill(std::begin(most), std::end(most), kNever);
  const float* sums = sums_of(from);
  const float* away = away_.data();
  const float* charge = charge_.data();
  const float strength = block_strength_[at(from)];
  Index p = blocks_.begin(to);
  for (; end(to) - p >= kLanes; p += kLanes) {
    for (Index lane = 0; lane < kLanes; ++lane) {
      const float here = sums[p + lane] - (away[p + lane] + charge[p + lane] * strength);
      most[lane] = here > most[lane] ? here : most[lane];
    }
  }
  for (; p < end(to); ++p) most[0] = std::max(most[0], pull(p, from));
  bounds_[entry] = *std::max_element(std::begin(most), std::end(most));
  bounded_at_[entry] = swaps_;
  return bounds_[entry];
}

// Exchanging u of a and v of b gains pull(u, b) + pull(v, a) - 2 w(u, v) + 2 kappa s_u s_v:
// each is pulled by the other, who will not be there.
Index BlockSums::best_partner(Index u) {
  const Index place = place_[at(u)];
  const Index home = blocks_.of(place);
  const float twice_charge = 2 * charge_[at(place)];
  const std::int32_t since = changed_at_[at(home)] > alone_at_[at(u)] ? -1 : alone_at_[at(u)];
  for (Index b = 0; b < count(); ++b) {
    const bool looks = b != home && changed_at_[at(b)] > since;
    promise_[at(b)] = looks ? pull(place, b) + bound(home, b) + twice_charge * heaviest_ : kNever;
  }

  float best = 0;
  Index partner = -1;
  for (;;) {
    const auto next = std::max_element(promise_.begin(), promise_.end());
    if (*next < best || *next <= 0) {
      if (partner < 0) alone_at_[at(u)] = swaps_;
      return partner;
    }
    *next = kNever;
    const auto b = static_cast<Index>(next - promise_.begin());
    const Index begin = blocks_.begin(b);
    const Index members = end(b) - begin;
    const float u_pull = pull(place, b);
    const float* sums = sums_of(home) + begin;
    const float* away = away_.data() + begin;
    const float* charge = charge_.data() + begin;
    const float* strength = strength_.data() + begin;
    const float home_strength = block_strength_[at(home)];
    for (Index k = 0; k < members; ++k) {
      const float v_pull = sums[k] - (away[k] + charge[k] * home_strength);
      offer_[at(k)] = u_pull + v_pull + twice_charge * strength[k];
    }
    for (Index k = 0; k < members; ++k) {
      if (offer_[at(k)] < best) continue;  // the look-up of the weight can only lower it
      const Index v = member_[at(begin + k)];
      const float gain = offer_[at(k)] - 2 * graph_.weight(u, v);
      if (gain > best || (gain == best && v < partner)) {
        best = gain;
        partner = v;
      }
    }
  }
}

double BlockSums::exact_gain(Index u, Index v) const {
  const Index a = block_of(u);
  const Index b = block_of(v);
  double gain = 0;
  double strength_less = 0;  // of u's block, less that of v's
  for (Index p = blocks_.begin(a); p < end(a); ++p) {
    const Index x = member_[at(p)];
    if (x != u) gain += double{graph_.weight(v, x)} - double{graph_.weight(u, x)};
    strength_less += graph_.strength(x);
  }
  for (Index p = blocks_.begin(b); p < end(b); ++p) {
    const Index x = member_[at(p)];
    if (x != v) gain += double{graph_.weight(u, x)} - double{graph_.weight(v, x)};
    strength_less -= graph_.strength(x);
  }
  const double moved = graph_.strength(v) - graph_.strength(u);
  return gain - kappa_ * moved * (strength_less + moved);
}

/// The sums of everybody with blocks a and b, when u of a and v of b change places.
void BlockSums::move_sums(Index u, Index v, Index a, Index b) {
  float* with_a = sums_of(a);
  float* with_b = sums_of(b);
  const auto of_u = graph_.neighbours(u);
  const auto of_v = graph_.neighbours(v);
  if (std::ssize(of_u) < size() - 1 || std::ssize(of_v) < size() - 1) {
    for (const Neighbour& next : of_u) {
      with_a[place_[at(next.vertex)]] -= next.weight;
      with_b[place_[at(next.vertex)]] += next.weight;
    }
    for (const Neighbour& next : of_v) {
      with_a[place_[at(next.vertex)]] += next.weight;
      with_b[place_[at(next.vertex)]] -= next.weight;
    }
    return;
  }

  // Both have an edge to every other vertex x, at entry x or x - 1 of their rows: one pass.
  const auto pass = [&](Index first, Index last) {
    const Index u_skips = first > u ? 1 : 0;
    const Index v_skips = first > v ? 1 : 0;
    for (Index x = first; x < last; ++x) {
      const float more = of_v[at(x - v_skips)].weight - of_u[at(x - u_skips)].weight;
      with_a[place_[at(x)]] += more;
      with_b[place_[at(x)]] -= more;
    }
  };
  const float between = graph_.weight(u, v);
  pass(0, std::min(u, v));
  pass(std::min(u, v) + 1, std::max(u, v));
  pass(std::max(u, v) + 1, size());
  with_a[place_[at(v)]] -= between;
  with_b[place_[at(v)]] += between;
  with_a[place_[at(u)]] += between;
  with_b[place_[at(u)]] -= between;
}

void BlockSums::exchange(Index u, Index v) {
  const Index a = block_of(u);
  const Index b = block_of(v);
  move_sums(u, v, a, b);

  const Index from = place_[at(u)];
  const Index to = place_[at(v)];
  for (Index block = 0; block < count(); ++block) {
    std::swap(sums_of(block)[from], sums_of(block)[to]);
  }
  std::swap(member_[at(from)], member_[at(to)]);
  std::swap(strength_[at(from)], strength_[at(to)]);
  std::swap(charge_[at(from)], charge_[at(to)]);
  std::swap(place_[at(u)], place_[at(v)]);
  ++swaps_;
  settle(a);
  settle(b);
}

void BlockSums::descend(std::int64_t& steps) {
  // Below this an exchange changes the order and not the result, and could go on for ever.
  const double smallest_gain = 1e-9 * graph_.total_weight() / size();
  for (bool fresh = true;;) {
    bool improved = false;
    for (Index u = 0; u < size(); ++u) {
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
    const auto u = static_cast<Index>(random.below(member_.size()));
    const auto v = static_cast<Index>(random.below(member_.size()));
    if (block_of(u) != block_of(v)) exchange(u, v);
  }
}

Permutation BlockSums::order() const { return sorted_within_blocks(member_, blocks_); }

}  // namespace icd
