#include "moments.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

namespace icd {
namespace {

constexpr Index kStrip = 64;  // columns that one thread sums: whole cache lines, fixed edges

// Below it, no difference overflows when it becomes a float again.
constexpr double kLargestSquare = static_cast<double>(std::numeric_limits<float>::max()) *
                                  static_cast<double>(std::numeric_limits<float>::max());

/// Calls visit(first, last) for strips of columns, in parallel.
template <typename Visit>
void for_strips(Index n, const Visit& visit) {
#pragma omp parallel for schedule(static)
  for (Index first = 0; first < n; first += kStrip) visit(first, std::min(n, first + kStrip));
}

}  // namespace

MomentsAccumulator::MomentsAccumulator(Index n, bool has_correlation)
    : n_(n),
      sums_(static_cast<std::size_t>(n)),
      squares_(static_cast<std::size_t>(n)),
      minimum_(static_cast<std::size_t>(n), std::numeric_limits<float>::infinity()),
      maximum_(static_cast<std::size_t>(n), -std::numeric_limits<float>::infinity()) {
  if (has_correlation) products_.emplace(n);
}

std::vector<double> MomentsAccumulator::first_mean(std::span<const float> values) const {
  const auto rows = static_cast<std::int64_t>(values.size()) / n_;
  std::vector<double> mean(static_cast<std::size_t>(n_));
  for_strips(n_, [&](Index first, Index last) {
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* from = values.data() + row * n_;
      for (Index c = first; c < last; ++c) {
        mean[static_cast<std::size_t>(c)] += static_cast<double>(from[c]);
      }
    }
    // Rounded to float, so that the mean of a channel that never moves is its value and
    // every difference from it 0.
    for (Index c = first; c < last; ++c) {
      double& m = mean[static_cast<std::size_t>(c)];
      m = static_cast<double>(static_cast<float>(m / static_cast<double>(rows)));
    }
  });
  return mean;
}

void MomentsAccumulator::add(std::span<float> values) {
  if (values.empty() || first_fault_) return;
  assert(values.size() % static_cast<std::size_t>(n_) == 0);
  const auto rows = static_cast<std::int64_t>(values.size()) / n_;
  if (shift_.empty()) shift_ = first_mean(values);
  for_strips(n_, [&](Index first, Index last) {
    for (std::int64_t row = 0; row < rows; ++row) {
      float* value = values.data() + row * n_;
      for (Index c = first; c < last; ++c) {
        const auto channel = static_cast<std::size_t>(c);
        minimum_[channel] = std::min(minimum_[channel], value[c]);
        maximum_[channel] = std::max(maximum_[channel], value[c]);
        const double centred = static_cast<double>(value[c]) - shift_[channel];
        sums_[channel] += centred;
        squares_[channel] += centred * centred;
        value[c] = static_cast<float>(centred);
      }
    }
  });
  rows_ += rows;
  find_fault();
  if (products_ && !first_fault_) products_->add(values);
}

void MomentsAccumulator::add(const ChannelSums& sums) {
  assert(rows_ == 0 && sums.products.empty() != products_.has_value());
  rows_ = sums.rows;
  if (rows_ == 0) return;
  shift_ = sums.shift;
  sums_ = sums.sums;
  squares_ = sums.squares;
  minimum_ = sums.minimum;
  maximum_ = sums.maximum;
  find_fault();
  if (products_ && !first_fault_) products_->add_products(sums.products);
}

void MomentsAccumulator::find_fault() {
  const auto fault = std::find_if_not(squares_.begin(), squares_.end(),
                                      [](double square) { return square <= kLargestSquare; });
  if (fault != squares_.end()) first_fault_ = static_cast<Index>(fault - squares_.begin());
}

Moments MomentsAccumulator::finish() const {
  assert(rows_ > 0 && !first_fault_);
  const auto n = static_cast<std::size_t>(n_);
  const auto rows = static_cast<double>(rows_);
  Moments moments{.rows = rows_,
                  .mean = std::vector<double>(n),
                  .variance = std::vector<double>(n),
                  .minimum = minimum_,
                  .maximum = maximum_};
  std::vector<double> offset(n);
  std::vector<double> square(n);
  for (std::size_t c = 0; c < n; ++c) {
    const double mean = sums_[c] / rows;
    moments.mean[c] = shift_[c] + mean;
    square[c] = std::max(0.0, squares_[c] - sums_[c] * mean);
    moments.variance[c] = square[c] / rows;
    offset[c] = sums_[c] / std::sqrt(rows);
  }
  if (products_) moments.correlation = products_->cosines(offset, square);
  return moments;
}

}  // namespace icd
