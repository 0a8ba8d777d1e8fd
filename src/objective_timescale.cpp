#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <vector>

#include "facts_problem.h"
#include "icd/error.h"
#include "icd/objective.h"
#include "plain_search.h"

// How long a channel remembers: dt |A|, averaged over tokens and states, is the reciprocal of its
// memory in tokens. The score is the share of the variance of log2(dt |A|) that lies within
// tiles: 0 where every tile has one timescale, about 1 in a random order.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// log2 by repeated squaring, 40 bits: the same on every machine, which libm's is not.
double log2_of(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // [0.5, 1)
  double log = exponent;
  for (double bit = 0.5; bit > 1e-12; bit /= 2) {
    mantissa *= mantissa;
    if (mantissa < 0.5) {
      mantissa *= 2;
      log -= bit;
    }
  }
  return log;
}

class Timescale final : public FactsProblem {
 public:
  Timescale(const AxisFacts& facts, Blocks tiles) : FactsProblem(facts), tiles_(tiles) {
    double sum = 0;
    for (const double decay : facts.decay) {
      logs_.push_back(log2_of(decay));
      sum += logs_.back();
    }
    const double mean = logs_.empty() ? 0 : sum / static_cast<double>(logs_.size());
    for (double& log : logs_) {
      log -= mean;
      total_ += log * log;
    }
  }

  Direction direction() const noexcept override { return Direction::lower; }
  Blocks blocks() const noexcept override { return tiles_; }

  double score(const Permutation& order) const override {
    if (total_ == 0) return 0;
    double within = 0;
    for (Index tile = 0; tile < tiles_.count(size()); ++tile) {
      const double mean = sum_of(order, tile) / members(tile);
      for (Index k = tiles_.begin(tile); k < tiles_.end(tile, size()); ++k) {
        const double off = logs_[at(order[k])] - mean;
        within += off * off;
      }
    }
    return within / total_;
  }

  // The squares stay, whoever holds them: only the tiles' (sum)^2 / members move.
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    const Index a = tiles_.of(i);
    const Index b = tiles_.of(j);
    if (total_ == 0 || a == b) return 0;
    const double moved = logs_[at(order[j])] - logs_[at(order[i])];
    const double sum_a = sum_of(order, a);
    const double sum_b = sum_of(order, b);
    return -(moved * (2 * sum_a + moved) / members(a) - moved * (2 * sum_b - moved) / members(b)) /
           total_;
  }

  Permutation greedy() const override { return sorted_by_falling(keys()); }

  /// The longest memory first.
  std::vector<double> keys() const override {
    std::vector<double> keys;
    for (const double log : logs_) keys.push_back(-log);
    return keys;
  }

 private:
  double members(Index tile) const { return tiles_.end(tile, size()) - tiles_.begin(tile); }

  double sum_of(const Permutation& order, Index tile) const {
    double sum = 0;
    for (Index k = tiles_.begin(tile); k < tiles_.end(tile, size()); ++k) {
      sum += logs_[at(order[k])];
    }
    return sum;
  }

  Blocks tiles_;
  std::vector<double> logs_;  // (n), of the decay, less their mean
  double total_ = 0;          // their sum of squares
};

}  // namespace

std::unique_ptr<Problem> timescale_problem(const AxisFacts& facts,
                                           const ObjectiveOptions& options) {
  if (facts.decay.size() != at(facts.size)) {
    throw Error(ErrorCode::input,
                "timescale: the step sizes of the axis are not known, expected a calibration");
  }
  for (std::size_t i = 0; i < facts.decay.size(); ++i) {
    if (!(facts.decay[i] > 0) || std::isinf(facts.decay[i])) {
      throw Error(ErrorCode::input,
                  fmt::format("timescale: dt * |A| of member {} is {}, expected a number above 0",
                              i, facts.decay[i]));
    }
  }
  return std::make_unique<Timescale>(facts, Blocks{options.block});
}

}  // namespace icd
