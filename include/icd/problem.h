#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "icd/graph.h"
#include "icd/permutation.h"
#include "icd/random.h"

namespace icd {

/// Equal contiguous blocks of an order; the last one may be shorter.
struct Blocks {
  Index size = 64;  ///< positions in a block, >= 1

  Index of(Index position) const noexcept { return position / size; }
  Index count(Index n) const noexcept { return n / size + (n % size != 0 ? 1 : 0); }
  Index begin(Index block) const noexcept { return block * size; }
  Index end(Index block, Index n) const noexcept {
    return n - begin(block) < size ? n : begin(block) + size;
  }
};

/// Which of two scores is the better one.
enum class Direction { higher, lower };

/// A search by exchanges on its way: an order cut into blocks, and what is cached of them. What
/// it accepts is decided in double, on the problem itself.
class ExchangeSearch {
 public:
  virtual ~ExchangeSearch() = default;

  /// Exchanges members of different blocks as long as one gains, or until `steps` are used up.
  /// A step is the search of one member for its best partner; takes what it used from `steps`.
  virtual void descend(std::int64_t& steps) = 0;

  /// Exchanges `pairs` pairs at random, whatever they cost: the way out of a local optimum.
  virtual void kick(Random& random, Index pairs) = 0;

  /// The order now; members ascending inside a block where that does not change the score.
  virtual Permutation order() const = 0;
};

/// One axis, one objective, and the facts it needs: what every order of n members scores.
/// `order` is in gather form: order[i] is the member at position i; its size is size().
/// A problem is immutable and may be scored from several threads.
class Problem {
 public:
  virtual ~Problem() = default;
  virtual Index size() const noexcept = 0;
  virtual Direction direction() const noexcept = 0;

  /// The stretches that the score takes as wholes, in which the order does not count. Problems
  /// that know no such blocks say where a search by blocks may start.
  virtual Blocks blocks() const noexcept = 0;

  /// The score, computed plainly.
  virtual double score(const Permutation& order) const = 0;

  /// score() with the members at positions i and j exchanged, less score() now. Faster than
  /// two scores.
  virtual double swap_delta(const Permutation& order, Index i, Index j) const = 0;

  /// An order by a simple construction, where a search may start; the identity unless the
  /// problem knows better.
  virtual Permutation greedy() const;

  /// One number a member: the order by falling keys is what a sort gives; empty if the
  /// problem has none.
  virtual std::vector<double> keys() const { return {}; }

  /// How alike the members are: what solvers for graphs walk over. Without edges if nothing
  /// is known. Every problem has one, also those whose score does not read it.
  virtual const Graph& graph() const noexcept = 0;

  /// The weight of the null model in solvers for graphs (Newman's gamma); 0: none.
  virtual double gamma() const noexcept { return 0; }

  /// A search that starts at `from`. The problem has to outlive it. Unless the problem has a
  /// faster one: every pair by swap_delta().
  virtual std::unique_ptr<ExchangeSearch> search(const Permutation& from) const;

  /// How much better `after` is than `before`: > 0 if it is better.
  double gain(double before, double after) const noexcept {
    return direction() == Direction::higher ? after - before : before - after;
  }
};

}  // namespace icd
