#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>
#include <vector>

#include "facts_problem.h"
#include "icd/error.h"
#include "icd/objective.h"
#include "max_seats.h"

// A kernel that skips a tile of columns for a token skips it only if none of its members is
// active. Which members share a tile is free: an order is worth the share of tiles that nobody
// needs, over tokens.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// Tokens in which members are active, as bits.
class ActiveTokens {
 public:
  explicit ActiveTokens(const Activity& activity) : activity_(activity) {}

  std::int64_t tokens() const noexcept { return activity_.tokens; }

  std::span<const std::uint64_t> of(Index member) const noexcept {
    const auto words = static_cast<std::size_t>(activity_.words());
    return std::span(activity_.bits).subspan(at(member) * words, words);
  }

  /// (tokens, members): 1 where a member is active, else 0.
  MemberRows rows() const {
    MemberRows rows(static_cast<Index>(activity_.tokens), activity_.size);
    for (Index member = 0; member < activity_.size; ++member) {
      const auto bits = of(member);
      for (std::size_t word = 0; word < bits.size(); ++word) {
        for (std::uint64_t rest = bits[word]; rest != 0; rest &= rest - 1) {
          rows.row(static_cast<Index>(word) * 64 + std::countr_zero(rest))[member] = 1;
        }
      }
    }
    return rows;
  }

  /// Tokens in which none of the members is active.
  std::int64_t idle(std::span<const Index> members) const {
    std::vector<std::uint64_t> any(static_cast<std::size_t>(activity_.words()), 0);
    for (const Index member : members) {
      const auto bits = of(member);
      for (std::size_t word = 0; word < any.size(); ++word) any[word] |= bits[word];
    }
    std::int64_t active = 0;
    for (const std::uint64_t word : any) active += std::popcount(word);
    return activity_.tokens - active;
  }

 private:
  const Activity& activity_;
};

/// What exchanging u and v changes in the sum over tiles of idle tokens times members.
std::int64_t exchange_gain(const ActiveTokens& active, std::span<const Index> with_u, Index u,
                           std::span<const Index> with_v, Index v) {
  std::int64_t gain = 0;
  for (const auto& [tile, out, in] : {std::tuple(with_u, u, v), std::tuple(with_v, v, u)}) {
    std::vector<Index> members(tile.begin(), tile.end());
    gain -= std::ssize(tile) * active.idle(members);
    std::replace(members.begin(), members.end(), out, in);
    gain += std::ssize(tile) * active.idle(members);
  }
  return gain;
}

/// The largest of 0 and 1 over a tile says whether anybody is active: MaxSeats, in tokens.
class SkipSeats final : public MaxSeats {
 public:
  explicit SkipSeats(const ActiveTokens& active)
      : MaxSeats(std::make_shared<MemberRows>(active.rows())), active_(active) {}

  double exact_gain(const Seating& seating, Index u, Index v) override {
    return static_cast<double>(exchange_gain(active_, seating.members(seating.block_of(u)), u,
                                             seating.members(seating.block_of(v)), v));
  }

 private:
  const ActiveTokens& active_;
};

class BlockSkipProblem final : public FactsProblem {
 public:
  BlockSkipProblem(const AxisFacts& facts, Blocks blocks)
      : FactsProblem(facts), activity_(facts.activity), active_(*activity_), blocks_(blocks) {}

  Direction direction() const noexcept override { return Direction::higher; }
  Blocks blocks() const noexcept override { return blocks_; }
  double score(const Permutation& order) const override;
  double swap_delta(const Permutation& order, Index i, Index j) const override;
  Permutation greedy() const override;
  std::vector<double> keys() const override;
  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override;

 private:
  std::span<const Index> tile(const Permutation& order, Index block) const {
    const Index begin = blocks_.begin(block);
    return order.gather().subspan(at(begin), at(blocks_.end(block, size()) - begin));
  }
  double share(std::int64_t idle) const noexcept {
    return static_cast<double>(idle) /
           (static_cast<double>(active_.tokens()) * static_cast<double>(size()));
  }

  std::shared_ptr<const Activity> activity_;
  ActiveTokens active_;
  Blocks blocks_;
};

double BlockSkipProblem::score(const Permutation& order) const {
  if (size() == 0) return 0;
  std::int64_t idle = 0;
  for (Index block = 0; block < blocks_.count(size()); ++block) {
    const auto members = tile(order, block);
    idle += std::ssize(members) * active_.idle(members);
  }
  return share(idle);
}

double BlockSkipProblem::swap_delta(const Permutation& order, Index i, Index j) const {
  if (blocks_.of(i) == blocks_.of(j)) return 0;
  return share(exchange_gain(active_, tile(order, blocks_.of(i)), order[i],
                             tile(order, blocks_.of(j)), order[j]));
}

/// How seldom a member is active: who is hardly ever needed shares tiles with the like.
std::vector<double> BlockSkipProblem::keys() const {
  std::vector<double> idle;
  for (Index member = 0; member < size(); ++member) {
    idle.push_back(static_cast<double>(active_.idle({&member, 1})));
  }
  return idle;
}

/// Tile after tile, each by the member that leaves it the most idle tokens.
Permutation BlockSkipProblem::greedy() const {
  std::vector<Index> left(at(size()));
  for (Index i = 0; i < size(); ++i) left[at(i)] = i;
  std::vector<std::uint64_t> any;
  std::vector<std::int64_t> added;
  std::vector<Index> order;
  order.reserve(left.size());
  while (!left.empty()) {
    if (order.size() % at(blocks_.size) == 0) {
      any.assign(static_cast<std::size_t>(activity_->words()), 0);
    }
    added.assign(left.size(), 0);
#pragma omp parallel for schedule(static) if (left.size() * any.size() > (1U << 16))
    for (std::size_t k = 0; k < left.size(); ++k) {
      const auto bits = active_.of(left[k]);
      for (std::size_t word = 0; word < any.size(); ++word) {
        added[k] += std::popcount(bits[word] & ~any[word]);
      }
    }
    const auto chosen = std::min_element(added.begin(), added.end()) - added.begin();
    const Index member = left[static_cast<std::size_t>(chosen)];
    left.erase(left.begin() + chosen);
    order.push_back(member);
    const auto bits = active_.of(member);
    for (std::size_t word = 0; word < any.size(); ++word) any[word] |= bits[word];
  }
  return Permutation::from_gather(std::move(order));
}

std::unique_ptr<ExchangeSearch> BlockSkipProblem::search(const Permutation& from) const {
  return std::make_unique<RowSearch>(std::make_unique<SkipSeats>(active_), blocks_, from, 0);
}

}  // namespace

// Source  T. Wang et al., Ripple, arXiv 2410.19274 (ASPLOS 2025), and Y. Song et al., PowerInfer,
//         SOSP 2024, place neurons by when they are active; here for tiles of equal size.
// Cost    of a search O(n tokens) a tile to begin with and after each exchange, O(n^2) a round;
//         4 n^2 + 4 n tokens bytes. The start is O(n^2 tokens / 64).
std::unique_ptr<Problem> block_skip_problem(const AxisFacts& facts,
                                            const ObjectiveOptions& options) {
  if (facts.activity == nullptr) {
    throw Error(ErrorCode::input,
                "axis: nobody measured which members are active, expected calibration by "
                "activations");
  }
  const Activity& activity = *facts.activity;
  if (activity.tokens < 1 || activity.size != facts.size ||
      std::ssize(activity.bits) != activity.size * activity.words()) {
    throw Error(ErrorCode::input,
                fmt::format("axis: its activity is of {} members and {} tokens, expected {} "
                            "members and a token or more",
                            activity.size, activity.tokens, facts.size));
  }
  if (options.block < 1) {
    throw Error(ErrorCode::usage, fmt::format("--block {}: expected 1 or more", options.block));
  }
  return std::make_unique<BlockSkipProblem>(facts, Blocks{options.block});
}

}  // namespace icd
