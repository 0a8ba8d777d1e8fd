#include "row_search.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "icd/random.h"
#include "plain_search.h"
#include "row_kernels.h"

namespace icd {
namespace {

// Fewer members are looked at faster by one thread than others are woken.
constexpr Index kManyMembers = 512;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

}  // namespace

Seating::Seating(const Permutation& order, Blocks blocks)
    : blocks_(blocks),
      members_(order.gather().begin(), order.gather().end()),
      positions_(members_.size()) {
  for (Index i = 0; i < size(); ++i) positions_[at(members_[at(i)])] = i;
}

void Seating::exchange(Index u, Index v) {
  std::swap(members_[at(positions_[at(u)])], members_[at(positions_[at(v)])]);
  std::swap(positions_[at(u)], positions_[at(v)]);
}

Permutation Seating::order() const { return sorted_within_blocks(members_, blocks_); }

WorthTable::WorthTable(Index n)
    : n_(n),
      stride_((std::int64_t{n} + kMemberGroup - 1) / kMemberGroup * kMemberGroup),
      values_(at(n) * static_cast<std::size_t>(stride_)) {}

RowSearch::RowSearch(std::unique_ptr<Seats> seats, Blocks blocks, const Permutation& from,
                     double least_gain)
    : seats_(std::move(seats)),
      seating_(from, blocks),
      least_gain_(least_gain),
      // In a single block no exchange changes anything.
      table_(seating_.blocks() < 2 ? 0 : from.size()),
      own_(static_cast<std::size_t>(table_.stride())),
      block_(own_.size()),
      gain_(own_.size()),
      partner_(own_.size()),
      is_changed_(at(seating_.blocks())),
      changed_at_(at(seating_.blocks())),
      refused_at_(at(table_.size()), -1),
      refused_(at(table_.size())) {
  if (table_.size() == 0) return;
  for (Index block = 0; block < seating_.blocks(); ++block) {
    changed_.push_back(block);
    for (const Index u : seating_.members(block)) block_[at(u)] = static_cast<float>(block);
  }
  renew();
}

void RowSearch::renew() {
  std::sort(changed_.begin(), changed_.end());
  seats_->update(seating_, changed_, table_);
  for (const Index block : changed_) {
    for (const Index u : seating_.members(block)) own_[at(u)] = table_.row(u)[u];
    changed_at_[at(block)] = round_;
    is_changed_[at(block)] = false;
  }
  changed_.clear();
}

void RowSearch::exchange(Index u, Index v) {
  for (const Index block : {seating_.block_of(u), seating_.block_of(v)}) {
    if (is_changed_[at(block)]) continue;
    is_changed_[at(block)] = true;
    changed_.push_back(block);
  }
  seating_.exchange(u, v);
  std::swap(block_[at(u)], block_[at(v)]);
}

void RowSearch::find_partners(Index members) {
  const RowKernels& kernels = row_kernels();
#pragma omp parallel for schedule(dynamic) if (members > kManyMembers)
  for (Index first = 0; first < members; first += kMemberGroup) {
    kernels.best_partners({.table = table_.row(0),
                           .ld = table_.stride(),
                           .n = table_.size(),
                           .own = own_.data(),
                           .block = block_.data(),
                           .first = first,
                           .gain = gain_.data() + first,
                           .partner = partner_.data() + first});
  }
}

std::vector<RowSearch::Proposal> RowSearch::proposals(Index members) const {
  std::vector<Proposal> found;
  for (Index u = 0; u < members; ++u) {
    const Index v = partner_[at(u)];
    if (v < 0) continue;
    if (v < u && partner_[at(v)] == u) continue;  // v has proposed it
    if (refused_[at(u)] == v && refused_at_[at(u)] >= changed_at_[at(seating_.block_of(u))] &&
        refused_at_[at(u)] >= changed_at_[at(seating_.block_of(v))]) {
      continue;
    }
    found.push_back({gain_[at(u)], u, v});
  }
  std::sort(found.begin(), found.end(), [](const Proposal& a, const Proposal& b) {
    return a.gain != b.gain ? a.gain > b.gain : std::tie(a.u, a.v) < std::tie(b.u, b.v);
  });
  return found;
}

bool RowSearch::accept(const std::vector<Proposal>& proposals) {
  for (const auto& [gain, u, v] : proposals) {
    if (is_changed_[at(seating_.block_of(u))] || is_changed_[at(seating_.block_of(v))]) continue;
    if (seats_->exact_gain(seating_, u, v) > least_gain_) {
      exchange(u, v);
    } else {
      refused_[at(u)] = v;
      refused_at_[at(u)] = round_;
    }
  }
  return !changed_.empty();
}

void RowSearch::descend(std::int64_t& steps) {
  while (table_.size() > 0 && steps > 0) {
    const auto members = static_cast<Index>(std::min<std::int64_t>(steps, table_.size()));
    steps -= members;
    find_partners(members);
    if (!accept(proposals(members))) return;
    ++round_;
    renew();
  }
}

void RowSearch::kick(Random& random, Index pairs) {
  if (table_.size() == 0) return;
  const auto n = static_cast<std::uint64_t>(table_.size());
  for (Index pair = 0; pair < pairs; ++pair) {
    const auto u = static_cast<Index>(random.below(n));
    const auto v = static_cast<Index>(random.below(n));
    if (seating_.block_of(u) != seating_.block_of(v)) exchange(u, v);
  }
  ++round_;
  renew();
}

}  // namespace icd
