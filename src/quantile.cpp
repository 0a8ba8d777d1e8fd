#include "quantile.h"

#include <algorithm>
#include <bit>
#include <cassert>

namespace icd {
namespace {

constexpr Index kStrip = 16;  // channels counted together: a cache line of each row

constexpr int kShift = 23 - 6;  // leaves the exponent and the top 6 bits of the mantissa
constexpr std::uint32_t kLowest = std::bit_cast<std::uint32_t>(0x1p-20f) >> kShift;
constexpr std::uint32_t kBins = (std::bit_cast<std::uint32_t>(0x1p7f) >> kShift) - kLowest;

std::uint32_t bin_of(float value) noexcept {
  if (!(value > 0x1p-20f)) return 0;
  return std::min((std::bit_cast<std::uint32_t>(value) >> kShift) - kLowest, kBins - 1);
}

float middle_of(std::uint32_t bin) noexcept {
  return std::bit_cast<float>(((bin + kLowest) << kShift) | (1u << (kShift - 1)));
}

/// From 0: of ceil(percent / 100 * rows) - 1 values, the next.
std::int64_t rank_of(int percent, std::int64_t rows) noexcept {
  return std::max<std::int64_t>(0, (rows * percent + 99) / 100 - 1);
}

}  // namespace

ChannelQuantiles::ChannelQuantiles(Index n, std::int64_t rows, std::int64_t exact_values)
    : n_(n), is_exact_(rows <= exact_values / n) {
  if (is_exact_) {
    values_.reserve(static_cast<std::size_t>(rows * n));
  } else {
    counts_.resize(static_cast<std::size_t>(n) * kBins);
  }
}

void ChannelQuantiles::add(std::span<const float> values) {
  assert(values.size() % static_cast<std::size_t>(n_) == 0);
  const auto rows = static_cast<std::int64_t>(values.size()) / n_;
  rows_ += rows;
  if (is_exact_) {
    values_.insert(values_.end(), values.begin(), values.end());
    return;
  }
#pragma omp parallel for schedule(static)
  for (Index first = 0; first < n_; first += kStrip) {
    const Index last = std::min(n_, first + kStrip);
    for (std::int64_t row = 0; row < rows; ++row) {
      for (Index channel = first; channel < last; ++channel) {
        const std::uint32_t bin = bin_of(values[static_cast<std::size_t>(row * n_ + channel)]);
        ++counts_[static_cast<std::size_t>(std::int64_t{channel} * kBins + bin)];
      }
    }
  }
}

float ChannelQuantiles::quantile_of_bins(Index channel, std::int64_t rank) const {
  const std::uint32_t* counts = counts_.data() + std::int64_t{channel} * kBins;
  std::uint32_t bin = 0;
  for (std::int64_t below = counts[0]; below <= rank; below += counts[bin]) ++bin;
  return middle_of(bin);
}

std::vector<float> ChannelQuantiles::finish() const {
  assert(rows_ > 0);
  std::vector<float> quantiles(kPercents.size() * static_cast<std::size_t>(n_));
#pragma omp parallel
  {
    std::vector<float> column;
#pragma omp for schedule(static)
    for (Index channel = 0; channel < n_; ++channel) {
      if (is_exact_) {
        column.clear();
        for (std::int64_t row = 0; row < rows_; ++row) {
          column.push_back(values_[static_cast<std::size_t>(row * n_ + channel)]);
        }
        std::sort(column.begin(), column.end());
      }
      for (std::size_t q = 0; q < kPercents.size(); ++q) {
        const std::int64_t rank = rank_of(kPercents[q], rows_);
        quantiles[q * static_cast<std::size_t>(n_) + static_cast<std::size_t>(channel)] =
            is_exact_ ? column[static_cast<std::size_t>(rank)] : quantile_of_bins(channel, rank);
      }
    }
  }
  return quantiles;
}

}  // namespace icd
