#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace icd {

/// A position along one axis. Counts of elements and bytes are std::int64_t.
using Index = std::int32_t;

/// A bijection of {0, ..., n-1} in gather form: applying p to x gives
/// y[i] = x[p[i]], so p[i] is the old position of what now stands at i.
///
/// METIS calls this `perm`; Scotch's direct permutation and any "old -> new"
/// table are its inverse(). A Permutation is a bijection by construction:
/// whoever holds one may apply it without checking it again.
class Permutation {
 public:
  /// The identity on no points.
  Permutation() = default;

  /// The identity on n >= 0 points.
  static Permutation identity(Index n);

  /// Takes `source` as the gather form. O(n).
  /// Throws Error{usage} that names the first entry out of range or repeated.
  static Permutation from_gather(std::vector<Index> source);

  Index size() const noexcept { return static_cast<Index>(source_.size()); }
  Index operator[](Index i) const { return source_[static_cast<std::size_t>(i)]; }
  std::span<const Index> gather() const noexcept { return source_; }
  bool is_identity() const noexcept;

  /// The bijection that undoes this one; its entries are new positions. O(n).
  Permutation inverse() const;

  /// This one first, `next` after it: (p.then(q))[i] = p[q[i]]. Sizes must agree. O(n).
  /// Throws Error{usage} if they do not.
  Permutation then(const Permutation& next) const;

  friend bool operator==(const Permutation&, const Permutation&) = default;

 private:
  explicit Permutation(std::vector<Index> source) : source_(std::move(source)) {}
  friend Permutation direct_sum(std::span<const Permutation> parts);
  friend Permutation inflate(const Permutation& p, Index block);
  friend Permutation deal(const Permutation& p, Index copies);

  std::vector<Index> source_;
};

/// The parts side by side, each on its own stretch.
/// The rows of Mamba-1's in_proj are [x; z], both in the inner order:
/// direct_sum({inner, inner}).
Permutation direct_sum(std::span<const Permutation> parts);

/// Moves runs of `block` >= 1 points as wholes and keeps the order inside each:
/// [2, 0, 1] and 2 give [4, 5, 0, 1, 2, 3].
/// Throws Error{usage} if block < 1 or the result does not fit Index.
Permutation inflate(const Permutation& p, Index block);

/// Takes the first of every run of `copies` >= 1 points in the order of p, then the
/// second of every run, and so on: [2, 0, 1] and 2 give [4, 0, 2, 5, 1, 3].
/// Throws Error{usage} if copies < 1 or the result does not fit Index.
Permutation deal(const Permutation& p, Index copies);

}  // namespace icd
