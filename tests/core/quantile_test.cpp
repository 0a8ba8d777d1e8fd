#include "quantile.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "icd/random.h"

namespace icd {
namespace {

/// Positive values over nine octaves, (rows, n).
std::vector<float> steps(std::size_t rows, std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(rows * n);
  for (float& value : values) {
    value =
        std::ldexp(static_cast<float>(1 + random.uniform()), -static_cast<int>(random.below(9)));
  }
  return values;
}

/// The value of rank ceil(q rows), by sorting.
float sorted_quantile(std::span<const float> values, std::size_t n, std::size_t channel,
                      std::size_t percent) {
  std::vector<float> column;
  for (std::size_t at = channel; at < values.size(); at += n) column.push_back(values[at]);
  std::sort(column.begin(), column.end());
  const std::size_t rank = (percent * column.size() + 99) / 100;
  return column[std::max<std::size_t>(rank, 1) - 1];
}

std::vector<float> quantiles_of(std::span<const float> values, Index n, std::int64_t exact_values) {
  const auto channels = static_cast<std::size_t>(n);
  const std::size_t rows = values.size() / channels;
  ChannelQuantiles quantiles(n, static_cast<std::int64_t>(rows), exact_values);
  const std::size_t first = rows / 3 * channels;  // two batches of unequal size
  quantiles.add(values.first(first));
  quantiles.add(values.subspan(first));
  return quantiles.finish();
}

TEST(ChannelQuantiles, AreThoseOfSortedValuesWhereTheyFit) {
  for (const std::size_t rows : {1, 2, 99, 100, 101, 1000}) {
    const std::vector<float> values = steps(rows, 3, rows);
    const std::vector<float> found = quantiles_of(values, 3, static_cast<std::int64_t>(rows) * 3);
    for (std::size_t q = 0; q < 5; ++q) {
      const auto percent = static_cast<std::size_t>(ChannelQuantiles::kPercents[q]);
      for (std::size_t c = 0; c < 3; ++c) {
        EXPECT_EQ(found[q * 3 + c], sorted_quantile(values, 3, c, percent))
            << rows << " rows, " << percent << " %";
      }
    }
  }
}

TEST(ChannelQuantiles, AreWithinHalfABinWhereTheyDoNotFit) {
  const std::vector<float> values = steps(2000, 3, 5);
  const std::vector<float> found = quantiles_of(values, 3, 2000 * 3 - 1);
  bool is_rounded = false;
  for (std::size_t q = 0; q < 5; ++q) {
    const auto percent = static_cast<std::size_t>(ChannelQuantiles::kPercents[q]);
    for (std::size_t c = 0; c < 3; ++c) {
      const float exact = sorted_quantile(values, 3, c, percent);
      EXPECT_NEAR(found[q * 3 + c], exact, exact / 128);
      is_rounded = is_rounded || found[q * 3 + c] != exact;
    }
  }
  EXPECT_TRUE(is_rounded);  // else this has tested the exact method again
}

TEST(ChannelQuantiles, CountValuesOutsideTheRangeInTheOutermostBins) {
  const std::vector<float> values = {0, 1e-30f, 1, 1000, 1e30f};
  const std::vector<float> found = quantiles_of(values, 1, 0);
  EXPECT_NEAR(found[0], 1e-6f, 1e-7f);
  EXPECT_NEAR(found[2], 1, 1.0 / 128);
  EXPECT_NEAR(found[4], 128, 1);
}

}  // namespace
}  // namespace icd
