#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "aligned.h"
#include "icd/problem.h"

namespace icd {

/// An order cut into blocks, while a search exchanges members.
class Seating {
 public:
  Seating(const Permutation& order, Blocks blocks);

  Index size() const noexcept { return static_cast<Index>(members_.size()); }
  Index blocks() const noexcept { return blocks_.count(size()); }
  Index block_of(Index member) const noexcept { return blocks_.of(positions_[at(member)]); }

  std::span<const Index> members(Index block) const noexcept {
    const Index begin = blocks_.begin(block);
    return std::span(members_).subspan(at(begin), at(blocks_.end(block, size()) - begin));
  }

  void exchange(Index u, Index v);

  /// Members ascending inside a block; blocks by their lowest member, except that a shorter
  /// one stays last.
  Permutation order() const;

 private:
  static std::size_t at(Index i) noexcept { return static_cast<std::size_t>(i); }

  Blocks blocks_;
  std::vector<Index> members_;    // by position
  std::vector<Index> positions_;  // by member
};

/// What everybody is worth on everybody's seat: row u, column v is what v would add to what the
/// other members of u's block score. Rows are padded with zeros. 4 n^2 bytes.
class WorthTable {
 public:
  explicit WorthTable(Index n);

  Index size() const noexcept { return n_; }
  std::int64_t stride() const noexcept { return stride_; }
  float* row(Index u) noexcept { return values_.data() + u * stride_; }
  const float* row(Index u) const noexcept { return values_.data() + u * stride_; }

 private:
  Index n_;
  std::int64_t stride_;
  FloatBuffer values_;
};

/// What an objective knows of seats: the part of RowSearch that differs between objectives.
class Seats {
 public:
  virtual ~Seats() = default;

  /// The members of `blocks` have changed: brings the rows of all of them up to date. A row may
  /// leave out what is the same for every v.
  virtual void update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) = 0;

  /// What the exchange of u and v, of different blocks, gains; in double: this decides. Only
  /// asked of blocks that are up to date.
  virtual double exact_gain(const Seating& seating, Index u, Index v) = 0;
};

/// Exchanges of pairs for scores that are sums over blocks. Exchanging u and v gains
///     worth(u, v) - worth(u, u) + worth(v, u) - worth(v, v),
/// so a table of worths gives the best partner of every member in one pass. A round finds them
/// all, takes the best pairs whose blocks nobody has touched in this round and whose exact gain
/// is above `least_gain`, and renews the rows of the blocks that changed. The bits of a table
/// do not depend on threads or the CPU, so neither do orders.
///
/// Ties go to the lower member, then to the lower partner. A step is one member whose partner
/// was looked for.
class RowSearch : public ExchangeSearch {
 public:
  RowSearch(std::unique_ptr<Seats> seats, Blocks blocks, const Permutation& from,
            double least_gain);

  void descend(std::int64_t& steps) override;
  void kick(Random& random, Index pairs) override;
  Permutation order() const override { return seating_.order(); }

 private:
  struct Proposal {
    float gain;
    Index u;
    Index v;
  };

  void find_partners(Index members);
  std::vector<Proposal> proposals(Index members) const;
  bool accept(const std::vector<Proposal>& proposals);
  void exchange(Index u, Index v);
  void renew();

  std::unique_ptr<Seats> seats_;
  Seating seating_;
  double least_gain_;
  WorthTable table_;
  FloatBuffer own_;               // (stride), worth on the own seat
  FloatBuffer block_;             // (stride), as a number that vectors compare
  FloatBuffer gain_;              // (stride), of the best partner
  std::vector<Index> partner_;    // (stride), -1: none
  std::vector<Index> changed_;    // blocks that are not up to date
  std::vector<bool> is_changed_;  // (blocks)

  // A pair that was refused is not asked about again while both blocks are as they were.
  std::int64_t round_ = 0;
  std::vector<std::int64_t> changed_at_;  // (blocks), the last round that changed it
  std::vector<std::int64_t> refused_at_;  // (n), -1: never
  std::vector<Index> refused_;            // (n), the partner
};

}  // namespace icd
