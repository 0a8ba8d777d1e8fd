#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "facts_problem.h"
#include "icd/error.h"
#include "icd/objective.h"
#include "plain_search.h"

// A static scale for a block of channels has to hold the largest of them, and all are rounded in
// its steps. Rounding in steps of s has the mean square s^2 / 12, and a symmetric scale is in
// proportion to the largest magnitude: with a_c that of channel c over the calibration text, the
// noise of an order is
//     sum over blocks of members * (largest a_c)^2, as a multiple of sum over channels of a_c^2,
// which a scale for every channel would have.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

std::vector<double> largest_magnitudes(const AxisFacts& facts) {
  if (facts.minimum.size() != at(facts.size) || facts.maximum.size() != at(facts.size)) {
    throw Error(ErrorCode::input,
                "axis: nobody measured the ranges of its signal, expected a calibration");
  }
  std::vector<double> magnitudes;
  for (std::size_t c = 0; c < facts.minimum.size(); ++c) {
    magnitudes.push_back(
        std::max(std::fabs(double{facts.minimum[c]}), std::fabs(double{facts.maximum[c]})));
    if (!std::isfinite(facts.minimum[c]) || !std::isfinite(facts.maximum[c])) {
      throw Error(ErrorCode::input,
                  fmt::format("axis: the range of member {} is {} to {}, expected numbers", c,
                              facts.minimum[c], facts.maximum[c]));
    }
  }
  return magnitudes;
}

class RangesProblem final : public FactsProblem {
 public:
  RangesProblem(const AxisFacts& facts, Blocks blocks)
      : FactsProblem(facts), blocks_(blocks), magnitudes_(largest_magnitudes(facts)) {
    for (const double a : magnitudes_) own_ += a * a;
  }

  Direction direction() const noexcept override { return Direction::lower; }
  Blocks blocks() const noexcept override { return blocks_; }

  double score(const Permutation& order) const override {
    if (own_ == 0) return 1;
    double sum = 0;
    for (Index block = 0; block < blocks_.count(size()); ++block) sum += noise(order, block, -1, 0);
    return sum / own_;
  }

  double swap_delta(const Permutation& order, Index i, Index j) const override {
    const Index a = blocks_.of(i);
    const Index b = blocks_.of(j);
    if (own_ == 0 || a == b) return 0;
    return (noise(order, a, i, order[j]) - noise(order, a, -1, 0) + noise(order, b, j, order[i]) -
            noise(order, b, -1, 0)) /
           own_;
  }

  Permutation greedy() const override;
  std::vector<double> keys() const override { return magnitudes_; }

 private:
  /// Of one block, with `member` at `position` instead of who is there (-1: as it is).
  double noise(const Permutation& order, Index block, Index position, Index member) const {
    double largest = 0;
    const Index begin = blocks_.begin(block);
    const Index end = blocks_.end(block, size());
    for (Index i = begin; i < end; ++i) {
      largest = std::max(largest, magnitudes_[at(i == position ? member : order[i])]);
    }
    return (end - begin) * (largest * largest);
  }

  Blocks blocks_;
  std::vector<double> magnitudes_;  // (n)
  double own_ = 0;                  // the noise with a scale for every member
};

/// The best order there is: blocks of neighbours in a sort by falling magnitudes. A last block
/// that is shorter takes the run of neighbours that it serves best.
Permutation RangesProblem::greedy() const {
  const Permutation falling = sorted_by_falling(magnitudes_);
  const Index tail = size() % blocks_.size;
  if (tail == 0) return falling;
  const Index whole = size() / blocks_.size;
  const auto square = [&](Index place) {
    const double a = magnitudes_[at(falling[place])];
    return a * a;
  };
  // The tail first; then it moves behind one whole block after the other.
  double noise = tail * square(0);
  for (Index b = 0; b < whole; ++b) noise += blocks_.size * square(tail + b * blocks_.size);
  double least = noise;
  Index before = 0;
  for (Index b = 0; b < whole; ++b) {
    const Index begin = b * blocks_.size;
    noise += blocks_.size * (square(begin) - square(begin + tail)) +
             tail * (square(begin + blocks_.size) - square(begin));
    if (noise < least) {
      least = noise;
      before = b + 1;
    }
  }
  std::vector<Index> order(falling.gather().begin(), falling.gather().end());
  const auto run = order.begin() + std::ptrdiff_t{before} * blocks_.size;
  std::rotate(run, run + tail, order.end());
  return Permutation::from_gather(std::move(order));
}

}  // namespace

// Source  Z. Yuan et al., RPTQ, arXiv 2304.01089 (2023): channels of like ranges share a scale;
//         H.-Y. Chiang et al., Quamba2, arXiv 2503.22879 (2025), for the scan's inputs.
// Cost    O(n) a score, O(block) an exchange.
std::unique_ptr<Problem> ranges_problem(const AxisFacts& facts, const ObjectiveOptions& options) {
  if (options.block < 1) {
    throw Error(ErrorCode::usage, fmt::format("--block {}: expected 1 or more", options.block));
  }
  return std::make_unique<RangesProblem>(facts, Blocks{options.block});
}

}  // namespace icd
