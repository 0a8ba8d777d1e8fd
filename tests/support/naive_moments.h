#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "icd/calibration.h"

namespace icd::testing {

/// Moments of rows (rows, n) in two passes of plain loops in double.
inline Moments naive_moments(std::span<const float> values, std::size_t n) {
  const std::size_t rows = values.size() / n;
  const auto count = static_cast<double>(rows);
  Moments result{.rows = static_cast<std::int64_t>(rows),
                 .mean = std::vector<double>(n),
                 .variance = std::vector<double>(n),
                 .correlation = std::vector<float>(n * n)};
  const auto value = [&](std::size_t row, std::size_t c) {
    return static_cast<double>(values[row * n + c]);
  };
  const auto covariance = [&](std::size_t i, std::size_t j) {
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) {
      sum += (value(row, i) - result.mean[i]) * (value(row, j) - result.mean[j]);
    }
    return sum / count;
  };
  for (std::size_t c = 0; c < n; ++c) {
    result.minimum.push_back(values[c]);
    result.maximum.push_back(values[c]);
    for (std::size_t row = 0; row < rows; ++row) {
      result.minimum[c] = std::min(result.minimum[c], values[row * n + c]);
      result.maximum[c] = std::max(result.maximum[c], values[row * n + c]);
    }
    double sum = 0;
    for (std::size_t row = 0; row < rows; ++row) sum += value(row, c);
    result.mean[c] = sum / count;
    result.variance[c] = covariance(c, c);
  }
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      const double square = result.variance[i] * result.variance[j];
      result.correlation[i * n + j] =
          square == 0 ? std::numeric_limits<float>::quiet_NaN()
                      : static_cast<float>(covariance(i, j) / std::sqrt(square));
    }
  }
  return result;
}

/// Means within 1e-9 standard deviations, variances within 1e-9 of themselves, correlations
/// within 2e-6: those are sums of float products over 128 rows.
inline void expect_near(const Moments& found, const Moments& expected) {
  ASSERT_EQ(found.rows, expected.rows);
  const std::size_t n = expected.mean.size();
  ASSERT_EQ(found.mean.size(), n);
  ASSERT_EQ(found.variance.size(), n);
  ASSERT_EQ(found.correlation.size(), n * n);
  EXPECT_EQ(found.minimum, expected.minimum);
  EXPECT_EQ(found.maximum, expected.maximum);
  for (std::size_t i = 0; i < n; ++i) {
    const double deviation = std::sqrt(expected.variance[i]);
    EXPECT_NEAR(found.mean[i], expected.mean[i],
                1e-9 * deviation + 1e-15 * std::abs(expected.mean[i]))
        << "channel " << i;
    EXPECT_NEAR(found.variance[i], expected.variance[i], 1e-9 * expected.variance[i])
        << "channel " << i;
    for (std::size_t j = 0; j < n; ++j) {
      const float r = expected.correlation[i * n + j];
      if (std::isnan(r)) {
        EXPECT_TRUE(std::isnan(found.correlation[i * n + j])) << "pair " << i << ", " << j;
      } else {
        EXPECT_NEAR(found.correlation[i * n + j], r, 2e-6) << "pair " << i << ", " << j;
      }
    }
  }
}

}  // namespace icd::testing
