#include "icd/bench_statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

using Samples = std::vector<double>;

Samples noisy(double center, double deviation, std::uint64_t seed, int rounds = 41) {
  Random random(seed);
  Samples samples;
  for (int i = 0; i < rounds; ++i) samples.push_back(center * (1 + deviation * random.normal()));
  return samples;
}

TEST(Median, IsTheMiddleOrTheMeanOfTheMiddleTwo) {
  EXPECT_EQ(median(Samples{3}), 3);
  EXPECT_EQ(median(Samples{9, 1, 2}), 2);
  EXPECT_EQ(median(Samples{9, 1, 2, 4}), 3);
  EXPECT_TRUE(std::isnan(median(Samples{})));
}

TEST(PairedRatio, IsTheMedianOverRounds) {
  // ratios 0.5, 2 and 3: a slow round of both is no slow contender
  EXPECT_EQ(paired_ratio(Samples{2, 100, 1}, Samples{1, 200, 3}).median, 2);
  // the middle two of 1, 1, 4, 4 have the geometric mean 2, and the inverse 1/2
  EXPECT_EQ(paired_ratio(Samples{1, 1, 1, 1}, Samples{1, 4, 1, 4}).median, 2);
  EXPECT_EQ(paired_ratio(Samples{1, 4, 1, 4}, Samples{1, 1, 1, 1}).median, 0.5);
}

TEST(PairedRatio, OfOneRoundHasNoWidth) {
  const PairedRatio ratio = paired_ratio(Samples{2}, Samples{3});
  EXPECT_EQ(ratio.low, 1.5);
  EXPECT_EQ(ratio.median, 1.5);
  EXPECT_EQ(ratio.high, 1.5);
  EXPECT_EQ(ratio.p_equivalent, 1);
}

TEST(PairedRatio, OfTwoRoundsSpansBoth) {
  // resampled medians are 1 (1/4), 2 (1/2) and 4 (1/4): each end holds far more than 2.5 %
  const PairedRatio ratio = paired_ratio(Samples{1, 1}, Samples{1, 4});
  EXPECT_EQ(ratio.low, 1);
  EXPECT_EQ(ratio.median, 2);
  EXPECT_EQ(ratio.high, 4);
}

TEST(PairedRatio, OfThreeRoundsEndsAtItsExtremes) {
  // a resampled median is the smallest with probability 7/27, far more than 2.5 %; with a
  // confidence of 40 %, 30 % lie outside on either side, and both ends are the middle one
  EXPECT_EQ(paired_ratio(Samples{1, 1, 1}, Samples{1, 2, 4}).low, 1);
  EXPECT_EQ(paired_ratio(Samples{1, 1, 1}, Samples{1, 2, 4}).high, 4);
  const PairedRatio narrow = paired_ratio(Samples{1, 1, 1}, Samples{1, 2, 4}, {.confidence = 0.4});
  EXPECT_EQ(narrow.low, 2);
  EXPECT_EQ(narrow.high, 2);
}

TEST(PairedRatio, IsAFunctionOfItsArguments) {
  const Samples base = noisy(10, 0.01, 1);
  const Samples other = noisy(10, 0.01, 2);
  const PairedRatio first = paired_ratio(base, other, {.seed = 7});
  const PairedRatio second = paired_ratio(base, other, {.seed = 7});
  EXPECT_EQ(first.low, second.low);
  EXPECT_EQ(first.high, second.high);
  EXPECT_EQ(first.p_equivalent, second.p_equivalent);
}

TEST(PairedRatio, IsEquivalentWithinTheMargin) {
  const Samples base = noisy(10, 0.002, 1);
  const Samples same = noisy(10, 0.002, 2);
  const Samples off = noisy(10.3, 0.002, 3);
  EXPECT_LT(paired_ratio(base, same).p_equivalent, 0.001);
  EXPECT_GT(paired_ratio(base, off).p_equivalent, 0.99);
  EXPECT_LT(paired_ratio(base, off, {.margin = 0.05}).p_equivalent, 0.001);
  // exactly at the margin is outside of it
  EXPECT_EQ(paired_ratio(Samples{1, 1}, Samples{1.5, 1.5}, {.margin = 0.5}).p_equivalent, 1);
}

// 95 % intervals of 400 pairs without a difference: all but about 20 of them contain 1.
TEST(PairedRatio, CoversTheTruthAsOftenAsItSays) {
  int misses = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    const PairedRatio ratio = paired_ratio(noisy(10, 0.01, 2 * i), noisy(10, 0.01, 2 * i + 1),
                                           {.resamples = 500, .seed = i});
    misses += ratio.low > 1 || ratio.high < 1;
  }
  EXPECT_GE(misses, 5);
  EXPECT_LE(misses, 40);
}

TEST(PairedRatio, RefusesWhatAreNoPairs) {
  EXPECT_THROW(paired_ratio(Samples{}, Samples{}), Error);
  EXPECT_THROW(paired_ratio(Samples{1}, Samples{1, 2}), Error);
  EXPECT_THROW(paired_ratio(Samples{0}, Samples{1}), Error);
  EXPECT_THROW(paired_ratio(Samples{1}, Samples{NAN}), Error);
}

TEST(RatioOfRuns, NeedsNoPairs) {
  const PairedRatio ratio = ratio_of_runs(Samples{2, 2, 2, 2}, Samples{3, 3});
  EXPECT_EQ(ratio.median, 1.5);
  EXPECT_EQ(ratio.low, 1.5);
  EXPECT_EQ(ratio.high, 1.5);
  // medians of resamples of {1, 4} are 1 (1/4), 2 (1/2) and 4 (1/4)
  EXPECT_EQ(ratio_of_runs(Samples{1}, Samples{1, 4}).low, 1);
  EXPECT_EQ(ratio_of_runs(Samples{1}, Samples{1, 4}).high, 4);
  EXPECT_THROW(ratio_of_runs(Samples{}, Samples{1}), Error);
  EXPECT_THROW(ratio_of_runs(Samples{1}, Samples{-1}), Error);
}

TEST(NoiseBar, IsHowFarThePlaceboReaches) {
  EXPECT_EQ(noise_of({.low = 0.75, .high = 1.125}), 0.25);
  EXPECT_EQ(noise_of({.low = 1.125, .high = 1.5}), 0.5);
}

TEST(NoiseBar, IsNoLowerThanWhatCountsAsNoEffect) {
  EXPECT_EQ(bar_of(0.0006), 0.005);
  EXPECT_EQ(bar_of(0.02), 0.02);
}

TEST(Verdict, OfFasterNeedsMoreThanTheBar) {
  EXPECT_EQ(verdict_of({.median = 0.95, .low = 0.94, .high = 0.96}, 0.03), Verdict::faster);
  EXPECT_EQ(verdict_of({.median = 0.95, .low = 0.94, .high = 0.96}, 0.05), Verdict::inconclusive);
  EXPECT_EQ(verdict_of({.median = 1.05, .low = 1.04, .high = 1.06}, 0.03), Verdict::slower);
  EXPECT_EQ(verdict_of({.median = 1.05, .low = 1.04, .high = 1.06}, 0.05), Verdict::inconclusive);
}

TEST(Verdict, OfNoEffectNeedsEvidenceToo) {
  EXPECT_EQ(verdict_of({.low = 0.997, .high = 1.003, .p_equivalent = 0.01}, 0.005),
            Verdict::no_effect);
  // a noisy machine is no evidence, however high its bar
  EXPECT_EQ(verdict_of({.low = 0.99, .high = 1.01, .p_equivalent = 0.3}, 0.02),
            Verdict::inconclusive);
  EXPECT_EQ(to_string(Verdict::no_effect), "no effect");
}

// The first run on an H200: 3.7 us, an A/A interval of 0.06 % and an order 0.2 % away, all of it.
TEST(Verdict, OfATinyShiftIsNoEffect) {
  const Samples base = noisy(3.71, 1e-4, 1, 11);
  const Samples shifted = noisy(3.71 * 0.998, 1e-4, 2, 11);
  const PairedRatio ratio = paired_ratio(base, shifted);
  EXPECT_LT(ratio.high, 1 - 0.0006);
  EXPECT_EQ(verdict_of(ratio, bar_of(0.0006)), Verdict::no_effect);
  // and half a percent more is an effect
  const Samples moved = noisy(3.71 * 0.993, 1e-4, 3, 11);
  EXPECT_EQ(verdict_of(paired_ratio(base, moved), bar_of(0.0006)), Verdict::faster);
}

// Orders without an effect on a quiet machine: 2000 pairs of 11 rounds, and not one is said to
// have moved.
TEST(Verdict, GivesNoFalseAlarms) {
  int moved = 0;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    const PairedRatio ratio =
        paired_ratio(noisy(3.7, 0.001, 3 * i, 11), noisy(3.7, 0.001, 3 * i + 1, 11),
                     {.resamples = 200, .seed = i});
    const PairedRatio placebo =
        paired_ratio(noisy(3.7, 0.001, 3 * i, 11), noisy(3.7, 0.001, 3 * i + 2, 11),
                     {.resamples = 200, .seed = i});
    const Verdict verdict = verdict_of(ratio, bar_of(noise_of(placebo)));
    moved += verdict == Verdict::faster || verdict == Verdict::slower;
  }
  EXPECT_EQ(moved, 0);
}

}  // namespace
}  // namespace icd
