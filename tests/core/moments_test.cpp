#include "moments.h"

#include <gtest/gtest.h>

#include <limits>

#include "gemm.h"
#include "icd/random.h"
#include "support/naive_moments.h"

namespace icd {
namespace {

using testing::expect_near;
using testing::naive_moments;

/// Rows of n channels that share a few causes, so that correlations are of all sizes.
std::vector<float> correlated_rows(std::size_t rows, std::size_t n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values;
  for (std::size_t row = 0; row < rows; ++row) {
    const double causes[3] = {random.normal(), random.normal(), random.normal()};
    for (std::size_t c = 0; c < n; ++c) {
      values.push_back(
          static_cast<float>(causes[c % 3] + 0.1 * static_cast<double>(c % 7) * random.normal()));
    }
  }
  return values;
}

Moments moments_of(std::vector<float> values, Index n, std::size_t batch_rows) {
  MomentsAccumulator accumulator(n);
  const std::size_t step = batch_rows * static_cast<std::size_t>(n);
  for (std::size_t at = 0; at < values.size(); at += step) {
    accumulator.add(std::span(values).subspan(at, std::min(step, values.size() - at)));
  }
  EXPECT_FALSE(accumulator.first_fault());
  return accumulator.finish();
}

TEST(Moments, AgreeWithPlainLoopsInDouble) {
  for (const Index n : {1, 5, 64, 100}) {
    const auto channels = static_cast<std::size_t>(n);
    const std::vector<float> values = correlated_rows(500, channels, 11);
    expect_near(moments_of(values, n, 200), naive_moments(values, channels));
  }
}

TEST(Moments, KeepASmallVarianceBesideALargeMean) {
  // 1e4 +- 0.01: a sum of squares in float would have lost the variance, 1e-4 of 1e8.
  std::vector<float> values = correlated_rows(3000, 6, 12);
  for (float& value : values) value = 1e4f + 0.01f * value;
  expect_near(moments_of(values, 6, 1000), naive_moments(values, 6));
}

TEST(Moments, DoNotDependOnTheUnitOfAChannel) {
  std::vector<float> values = correlated_rows(400, 4, 13);
  const Moments before = moments_of(values, 4, 150);
  for (std::size_t at = 1; at < values.size(); at += 4) values[at] *= 0x1p-100f;
  for (std::size_t at = 2; at < values.size(); at += 4) values[at] *= 0x1p+60f;
  const Moments after = moments_of(values, 4, 150);
  EXPECT_EQ(after.correlation, before.correlation);
  EXPECT_EQ(after.variance[1], before.variance[1] * 0x1p-200);
}

TEST(Moments, OfAChannelThatWakesUpLateAreRight) {
  std::vector<float> values = correlated_rows(600, 3, 14);
  for (std::size_t row = 0; row < 300; ++row) values[row * 3] *= 1e-30f;
  expect_near(moments_of(values, 3, 200), naive_moments(values, 3));
}

TEST(Moments, OfAChannelThatNeverMovesHaveNoCorrelation) {
  std::vector<float> values = correlated_rows(333, 3, 15);
  for (std::size_t at = 1; at < values.size(); at += 3) values[at] = 0.1f;
  const Moments moments = moments_of(values, 3, 100);
  EXPECT_EQ(moments.variance[1], 0);
  EXPECT_EQ(moments.mean[1], static_cast<double>(0.1f));
  for (const std::size_t at : {1, 3, 4, 5, 7}) EXPECT_TRUE(std::isnan(moments.correlation[at]));
  EXPECT_EQ(moments.correlation[0], 1);
  EXPECT_FALSE(std::isnan(moments.correlation[2]));
}

TEST(Moments, HaveTheSameBitsOnAnyNumberOfThreads) {
  const std::vector<float> values = correlated_rows(500, 150, 16);
  std::vector<Moments> results;
  for (const int threads : {1, 2, 5}) {
    const ThreadScope scope(threads);
    results.push_back(moments_of(values, 150, 200));
  }
  for (const Moments& other : results) {
    EXPECT_EQ(other.mean, results[0].mean);
    EXPECT_EQ(other.variance, results[0].variance);
    EXPECT_EQ(other.correlation, results[0].correlation);
  }
}

TEST(Moments, NameTheFirstChannelThatIsNotFinite) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -3e38f}) {
    std::vector<float> values = correlated_rows(10, 4, 17);
    values[4 * 7 + 2] = bad;
    values[4 * 8 + 2] = -bad;
    values[4 * 9 + 3] = std::numeric_limits<float>::quiet_NaN();
    MomentsAccumulator accumulator(4);
    accumulator.add(values);
    EXPECT_EQ(accumulator.first_fault(), 2) << bad;
  }
}

}  // namespace
}  // namespace icd
