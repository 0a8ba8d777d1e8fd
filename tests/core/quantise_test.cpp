#include "icd/quantise.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "icd/random.h"

namespace icd {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::vector<float> round_trip(std::string_view format, std::vector<float> group, float scale = 1) {
  std::vector<float> out(group.size());
  quantise(*find_group_format(format), group, out, scale);
  return out;
}

TEST(Quantise, Int4IsWholeStepsOfASeventhOfTheLargest) {
  // Scale 0.5: 1.25 is between 2 and 3 steps and goes to the even one.
  EXPECT_THAT(round_trip("int4", {3.5F, -3.5F, 1.25F, 1.75F, -0.2F, 0.26F}),
              ElementsAre(3.5F, -3.5F, 1.0F, 2.0F, 0.0F, 0.5F));
}

TEST(Quantise, Int8IsWholeStepsOfA127thOfTheLargest) {
  EXPECT_THAT(round_trip("int8", {-127.0F, 1.5F, 2.5F, 0.49F}), ElementsAre(-127.0F, 2, 2, 0));
}

TEST(Quantise, Int4AsymIsAFifteenthOfTheRangeWithZeroInIt) {
  // From -5 to 10: scale 1, zero at 5.
  EXPECT_THAT(round_trip("int4-asym", {-5.0F, 10.0F, 0.4F, -0.6F, 7.5F}),
              ElementsAre(-5, 10, 0, -1, 8));
  // All positive: from 0 to 30, scale 2.
  EXPECT_THAT(round_trip("int4-asym", {30.0F, 29.0F, 27.0F, 2.5F}), ElementsAre(30, 28, 28, 2));
}

TEST(Quantise, Int8AsymIsA255thOfTheRange) {
  EXPECT_THAT(round_trip("int8-asym", {-55.0F, 200.0F, 0.5F, 1.5F}), ElementsAre(-55, 200, 0, 2));
}

TEST(Quantise, Q80RoundsTiesAwayAndItsScaleToHalf) {
  // d = 1 exactly.
  EXPECT_THAT(round_trip("q8_0", {127.0F, 0.5F, 1.5F, -0.5F, -2.5F, 0.49F}),
              ElementsAre(127, 1, 2, -1, -3, 0));
  // d = 1 / 127 = 0.00787401...; the nearest half is 4128 * 2^-19 = 0.00787353515625.
  EXPECT_THAT(round_trip("q8_0", {1.0F, 0.0F}), ElementsAre(127 * 0.00787353515625F, 0));
}

TEST(Quantise, Q40PutsTheExtremeAtMinusEight) {
  // d = 8 / -8 = -1: the extreme itself, and 7 steps the other way at most.
  EXPECT_THAT(round_trip("q4_0", {8.0F, 7.4F, -6.0F, -7.9F, 0.4F}), ElementsAre(8, 7, -6, -7, 0));
  // The first of two extremes decides: d = 1, then -8 ... 7.
  EXPECT_THAT(round_trip("q4_0", {-8.0F, 8.0F}), ElementsAre(-8, 7));
  EXPECT_THAT(round_trip("q4_0", {8.0F, -8.0F}), ElementsAre(8, -7));
  // x / d + 8.5, cut: halves go up in steps, so with d = -1 down in value.
  EXPECT_THAT(round_trip("q4_0", {8.0F, 0.5F, -0.5F}), ElementsAre(8, 0, -1));
}

TEST(Quantise, Mxfp4HasTheEightMagnitudesTimesAPowerOfTwo) {
  // The largest is in [4, 8): scale 1. 2.5, 3.5, 5 are ties, and 7 is above the largest element.
  EXPECT_THAT(round_trip("mxfp4", {7.0F, 0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F, -5.1F}),
              ElementsAre(6, 0, 1, 1, 2, 2, 4, 4, -6));
  // 0.3 has the exponent -2: scale 2^-4, and 0.3 is 4.8 of it.
  EXPECT_THAT(round_trip("mxfp4", {0.3F, -0.1F}), ElementsAre(0.25F, -0.09375F));
}

TEST(Quantise, Nvfp4ScalesByE4m3AndByTheTensor) {
  // 12 / 6 = 2 is an E4M3 number.
  EXPECT_THAT(round_trip("nvfp4", {12.0F, 5.1F, -3.0F, 0.4F}), ElementsAre(12, 6, -3, 0));
  // 6.6 / 6 = 1.1: steps of 1/8 above 1 give 1.125; 6.6 / 1.125 = 5.87 is 6.
  EXPECT_THAT(round_trip("nvfp4", {6.6F, 1.0F}), ElementsAre(6.75F, 1.125F));
  // The tensor's largest weight is the format's: 448 * 6 * its scale.
  const GroupFormat& format = *find_group_format("nvfp4");
  EXPECT_EQ(tensor_scale(format, 2688.0F), 1.0F);
  EXPECT_EQ(tensor_scale(*find_group_format("int4"), 2688.0F), 1.0F);
  EXPECT_THAT(round_trip("nvfp4", {2688.0F, -1344.0F}), ElementsAre(2688, -1344));
  // Next to it a group of small weights has no scale left: 0.001 / 6 is below half of 2^-9.
  EXPECT_THAT(round_trip("nvfp4", {0.001F, -0.001F}), ElementsAre(0, 0));
}

TEST(Quantise, MinifloatsRoundTiesToEvenAndHaveSubnormals) {
  EXPECT_EQ(rounded_to_minifloat(65519.0F, 10, -14), 65504.0F);
  EXPECT_EQ(rounded_to_minifloat(2049.0F, 10, -14), 2048.0F);
  EXPECT_EQ(rounded_to_minifloat(2051.0F, 10, -14), 2052.0F);
  EXPECT_EQ(rounded_to_minifloat(std::ldexp(1.5F, -24), 10, -14), std::ldexp(2.0F, -24));
  EXPECT_EQ(rounded_to_minifloat(std::ldexp(-1.0F, -25), 10, -14), 0.0F);
  EXPECT_EQ(rounded_to_minifloat(std::ldexp(2.5F, -9), 3, -6), std::ldexp(2.0F, -9));
}

TEST(Quantise, WeightsBeyondEveryScaleDoNotTrapAndDoNotLie) {
  EXPECT_FALSE(std::isfinite(round_trip("q8_0", {1e37F})[0]));
  EXPECT_FALSE(std::isfinite(round_trip("q4_0", {1e37F})[0]));
  for (const GroupFormat& format : all_group_formats()) {
    const float tiny = std::numeric_limits<float>::denorm_min();
    EXPECT_LE(std::fabs(round_trip(format.name, {tiny, -tiny})[0]), 2 * tiny) << format.name;
    EXPECT_THAT(round_trip(format.name, {0.0F, 0.0F}), Each(0.0F)) << format.name;
    EXPECT_TRUE(round_trip(format.name, {}).empty());
  }
}

TEST(Quantise, CountsTheBitsOfScales) {
  EXPECT_DOUBLE_EQ(find_group_format("q4_0")->bits(32), 4.5);
  EXPECT_DOUBLE_EQ(find_group_format("q8_0")->bits(32), 8.5);
  EXPECT_DOUBLE_EQ(find_group_format("mxfp4")->bits(32), 4.25);
  EXPECT_DOUBLE_EQ(find_group_format("nvfp4")->bits(16), 4.5);
  EXPECT_DOUBLE_EQ(find_group_format("int4")->bits(128), 4.25);
  EXPECT_EQ(find_group_format("int3"), nullptr);
}

// What a format can say, it says again.
RC_GTEST_PROP(Quantise, OfWhatWasReadBackIsTheSame, ()) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  for (const GroupFormat& format : all_group_formats()) {
    std::vector<float> group(static_cast<std::size_t>(*rc::gen::inRange<Index>(1, 129)));
    for (float& w : group) w = static_cast<float>(random.normal());
    float largest = 0;
    for (const float w : group) largest = std::max(largest, std::fabs(w));
    // As a tensor of its own: below a larger tensor's scales, a group of one may have no scale.
    const float of_tensor = tensor_scale(format, largest);
    const std::vector<float> once = round_trip(format.name, group, of_tensor);
    const std::vector<float> twice = round_trip(format.name, once, of_tensor);
    for (std::size_t i = 0; i < group.size(); ++i) {
      // A step of the coarsest format is a third of the largest weight's power of two.
      RC_ASSERT(std::fabs(once[i] - group[i]) <= 0.27F * largest);
      // Scales that are rounded to half change once more in the last place.
      RC_ASSERT(std::fabs(twice[i] - once[i]) <= 1e-3F * largest);
    }
    // In place.
    quantise(format, group, group, of_tensor);
    RC_ASSERT(group == once);
  }
}

}  // namespace
}  // namespace icd
