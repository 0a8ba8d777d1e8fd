#include "vector_math.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "aligned.h"
#include "cpu_kernels.h"
#include "plain_isa.h"

namespace icd {
namespace {

using Float = PlainIsa::Float;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

float exp_of(float x) { return exp<PlainIsa>(Float{x, x, x, x})[0]; }
float exp2_of(float x) { return exp2_normal<PlainIsa>(Float{x, x, x, x})[0]; }
float silu_of(float x) { return silu<PlainIsa>(Float{x, x, x, x})[0]; }
float softplus_of(float x) { return softplus<PlainIsa>(Float{x, x, x, x})[0]; }

/// |found - exact| in units of the last place of `exact`.
double ulps(float found, long double exact) {
  const auto rounded = static_cast<float>(exact);
  const float above = std::nextafter(std::abs(rounded), kInfinity);
  const auto ulp = static_cast<long double>(above) - std::abs(rounded);
  return static_cast<double>(std::abs(found - exact) / ulp);
}

/// The largest error over [low, high], at about 400,000 points of every magnitude in it.
double max_ulps(float low, float high, const std::function<float(float)>& found,
                const std::function<long double(long double)>& exact) {
  constexpr int kPoints = 200'000;
  double worst = 0;
  for (int i = 0; i <= kPoints; ++i) {
    const float even = low + (high - low) * (static_cast<float>(i) / kPoints);
    const float fine = even * std::ldexp(1.0F, -(i % 40));
    for (const float x : {even, fine}) {
      if (x >= low && x <= high) worst = std::max(worst, ulps(found(x), exact(x)));
    }
  }
  return worst;
}

TEST(VectorMath, ExpIsWithinAnUlpAndAFifthWhereItIsNormal) {
  EXPECT_LE(max_ulps(-87.3F, 88.72F, exp_of, expl), 1.2);
}

TEST(VectorMath, ExpRoundsDenormalResults) {
  EXPECT_LE(max_ulps(-103.9F, -87.3F, exp_of, expl), 1.2);
}

TEST(VectorMath, ExpOfSpecialValues) {
  EXPECT_EQ(exp_of(0.0F), 1.0F);
  EXPECT_EQ(exp_of(-0.0F), 1.0F);
  EXPECT_EQ(exp_of(-kInfinity), 0.0F);
  EXPECT_EQ(exp_of(-1e30F), 0.0F);
  EXPECT_EQ(exp_of(88.8F), kInfinity);
  EXPECT_EQ(exp_of(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(exp_of(kNan)));
}

TEST(VectorMath, PowersOfTwoAreWithinAnUlpAndAFifthWhereTheyAreNormal) {
  EXPECT_LE(max_ulps(-125.9F, 127.0F, exp2_of, exp2l), 1.2);
}

TEST(VectorMath, PowersOfTwoAreExactAtWholeNumbersAndStopAtTheLeastNormal) {
  for (int n = -126; n <= 127; ++n) {
    EXPECT_EQ(exp2_of(static_cast<float>(n)), std::ldexp(1.0F, n)) << n;
  }
  EXPECT_EQ(exp2_of(-1000.0F), std::ldexp(1.0F, -126));
  EXPECT_EQ(exp2_of(-kInfinity), std::ldexp(1.0F, -126));
  EXPECT_TRUE(std::isnan(exp2_of(kNan)));
}

TEST(VectorMath, SoftplusIsWithinThreeUlps) {
  EXPECT_LE(max_ulps(-103.0F, 1000.0F, softplus_of,
                     [](long double x) { return x > 0 ? x + log1pl(expl(-x)) : log1pl(expl(x)); }),
            3.0);
}

TEST(VectorMath, SoftplusOfSpecialValues) {
  EXPECT_EQ(softplus_of(-kInfinity), 0.0F);
  EXPECT_EQ(softplus_of(kInfinity), kInfinity);
  EXPECT_EQ(softplus_of(1e30F), 1e30F);
  EXPECT_TRUE(std::isnan(softplus_of(kNan)));
}

TEST(VectorMath, SiluIsWithinThreeUlps) {
  EXPECT_LE(max_ulps(-87.0F, 1000.0F, silu_of, [](long double x) { return x / (1 + expl(-x)); }),
            3.0);
}

TEST(VectorMath, SiluOfLargeNegativeValuesIsNothing) {
  for (float x = -87.0F; x > -1000.0F; x *= 1.01F) {
    EXPECT_NEAR(silu_of(x), x * std::exp(static_cast<double>(x)), 4e-38) << x;
  }
}

TEST(VectorMath, SiluOfSpecialValues) {
  EXPECT_EQ(silu_of(0.0F), 0.0F);
  EXPECT_EQ(silu_of(-kInfinity), 0.0F);
  EXPECT_EQ(silu_of(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(silu_of(kNan)));
}

// Every power of two and what stands around it, both signs, and the special values.
FloatBuffer values_of_every_size() {
  FloatBuffer values = {0.0F, -0.0F, kInfinity, -kInfinity};
  for (int exponent = -149; exponent <= 127; ++exponent) {
    for (const float factor : {1.0F, 1.3F, 1.9F}) {
      const float value = std::ldexp(factor, exponent);
      values.push_back(value);
      values.push_back(-value);
    }
  }
  for (float x = -110.0F; x < 110.0F; x += 0.37F) values.push_back(x);
  values.resize(static_cast<std::size_t>(round_up(std::ssize(values), kChannelGroup)));
  return values;
}

/// The results of exp, softplus and (by a convolution of width 1) SiLU, one after the other.
std::vector<float> all_functions(const CpuKernels& kernels) {
  const FloatBuffer values = values_of_every_size();
  const std::int64_t count = std::ssize(values);
  const FloatBuffer zeros(values.size(), 0.0F);
  const FloatBuffer ones(values.size(), 1.0F);
  FloatBuffer exponentials = values;
  kernels.exp(exponentials.data(), count);
  FloatBuffer steps = values;
  kernels.softplus(steps.data(), zeros.data(), count);
  FloatBuffer gates(values.size());
  kernels.conv_silu({.length = 1,
                     .channels = count,
                     .width = 1,
                     .in = values.data(),
                     .ld_in = count,
                     .weight = ones.data(),
                     .ld_weight = count,
                     .bias = zeros.data(),
                     .out = gates.data(),
                     .ld_out = count});
  std::vector<float> all;
  for (const FloatBuffer* part : {&exponentials, &steps, &gates}) {
    all.insert(all.end(), part->begin(), part->end());
  }
  return all;
}

TEST(VectorMath, GivesTheSameBitsOnEveryCpuPath) {
  const std::vector<float> expected = all_functions(cpu_kernels(CpuPath::plain));
  for (const CpuPath path : kCpuPaths) {
    if (!is_supported(path)) continue;
    const std::vector<float> found = all_functions(cpu_kernels(path));
    EXPECT_EQ(std::memcmp(found.data(), expected.data(), found.size() * sizeof(float)), 0)
        << cpu_kernels(path).name;
  }
}

TEST(VectorMath, NormGivesTheSameBitsOnEveryCpuPath) {
  for (const std::int64_t channels : {1, 7, 16, 31, 100}) {
    std::vector<float> in;
    for (std::int64_t i = 0; i < channels; ++i) {
      in.push_back(static_cast<float>(i * 37 % 11) / 7.0F - 0.6F);
    }
    const std::vector<float> weight(in.rbegin(), in.rend());
    for (const bool is_centred : {false, true}) {
      const auto run = [&](CpuPath path) {
        std::vector<float> out(in.size());
        cpu_kernels(path).norm({.in = in.data(),
                                .weight = weight.data(),
                                .bias = in.data(),
                                .out = out.data(),
                                .channels = channels,
                                .epsilon = 1e-5F,
                                .is_centred = is_centred});
        return out;
      };
      for (const CpuPath path : kCpuPaths) {
        if (is_supported(path)) {
          EXPECT_EQ(run(path), run(CpuPath::plain)) << cpu_kernels(path).name << ' ' << channels;
        }
      }
    }
  }
}

}  // namespace
}  // namespace icd
