#include "icd/random.h"

#include <gtest/gtest.h>

#include <vector>

namespace icd {
namespace {

TEST(Random, HasTheStreamOfSplitMix64) {
  // The first outputs for seed 1234567, as the algorithm's authors publish them.
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, DrawsEveryPlaceAboutAsOften) {
  Random random(5);
  std::vector<int> counts(7);
  for (int i = 0; i < 70000; ++i) ++counts[random.below(7)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);
}

TEST(Random, NormalHasMeanZeroAndVarianceOne) {
  Random random(6);
  double sum = 0;
  double squares = 0;
  constexpr int kDraws = 100000;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.normal();
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / kDraws, 0, 0.02);
  EXPECT_NEAR(squares / kDraws, 1, 0.02);
}

TEST(RandomPermutation, IsAFunctionOfTheSeed) {
  Random a(9);
  Random b(9);
  Random c(10);
  const Permutation p = random_permutation(100, a);
  EXPECT_EQ(p, random_permutation(100, b));
  EXPECT_NE(p, random_permutation(100, c));
}

TEST(Random, DerivedStreamsDifferByKeyAndBySeed) {
  EXPECT_NE(Random::derived(1, 2).next(), Random::derived(1, 3).next());
  EXPECT_NE(Random::derived(1, 2).next(), Random::derived(2, 2).next());
  EXPECT_NE(Random::derived(1, 2).next(), Random::derived(2, 1).next());
}

}  // namespace
}  // namespace icd
