#include "gemm.h"

#include <gtest/gtest.h>
#include <omp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

constexpr float kUntouched = -12345.0F;

std::vector<float> random_floats(std::int64_t count, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

struct Problem {
  std::int64_t rows;
  Index outputs;
  Index inputs;
  std::int64_t ld_in;
  std::int64_t ld_out;
  std::vector<float> weight;  ///< (outputs, inputs)
  std::vector<float> in;      ///< (rows, ld_in)

  Problem(std::int64_t m, Index n, Index k, std::int64_t padding = 0)
      : rows(m),
        outputs(n),
        inputs(k),
        ld_in(k + padding),
        ld_out(n + padding),
        weight(random_floats(std::int64_t{n} * k, 1)),
        in(random_floats(m * ld_in, 2)) {}

  std::vector<float> product(const Linear& linear) const {
    std::vector<float> out(static_cast<std::size_t>(rows * ld_out), kUntouched);
    linear.apply(in.data(), ld_in, rows, out.data(), ld_out);
    return out;
  }

  std::vector<float> product(CpuPath path) const {
    return product(*fixed_order_linear(cpu_kernels(path), weight, outputs, inputs));
  }

  /// The promised chain, one element at a time.
  std::vector<float> chains() const {
    std::vector<float> out(static_cast<std::size_t>(rows * ld_out), kUntouched);
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t j = 0; j < outputs; ++j) {
        float sum = 0;
        for (std::int64_t k = 0; k < inputs; ++k) {
          sum = std::fma(in[static_cast<std::size_t>(r * ld_in + k)],
                         weight[static_cast<std::size_t>(j * inputs + k)], sum);
        }
        out[static_cast<std::size_t>(r * ld_out + j)] = sum;
      }
    }
    return out;
  }
};

RC_GTEST_PROP(Gemm, IsTheChainOfFusedMultiplyAddsOnEveryCpuPathAndTouchesNothingElse, ()) {
  const auto rows = *rc::gen::inRange<std::int64_t>(0, 50);
  const auto outputs = *rc::gen::inRange<Index>(1, 80);
  const auto inputs = *rc::gen::inRange<Index>(0, 70);
  const Problem problem(rows, outputs, inputs, *rc::gen::inRange<std::int64_t>(0, 5));
  const std::vector<float> expected = problem.chains();
  for (const CpuPath path : kCpuPaths) {
    if (is_supported(path)) RC_ASSERT(problem.product(path) == expected);
  }
}

TEST(Gemm, KeepsTheChainAcrossBlocksOfDepthAndOfRows) {
  const Problem problem(400, 37, 1100);
  const std::vector<float> expected = problem.chains();
  for (const CpuPath path : kCpuPaths) {
    if (is_supported(path)) {
      EXPECT_TRUE(problem.product(path) == expected) << cpu_kernels(path).name;
    }
  }
}

TEST(Gemm, GivesTheSameBitsForAnyNumberOfThreads) {
  for (const std::int64_t rows : {1, 3, 200, 401}) {
    const Problem problem(rows, 150, 300);
    const std::vector<float> expected = problem.chains();
    for (const int threads : {1, 2, 3, 7}) {
      const ThreadScope scope(threads);
      EXPECT_TRUE(problem.product(best_cpu_path()) == expected) << rows << " rows, " << threads;
    }
  }
}

TEST(Gemm, OfOneRowIsThatRowOfTheWholeProduct) {
  const Problem problem(60, 33, 40);
  const std::vector<float> whole = problem.product(best_cpu_path());
  const auto linear = fixed_order_linear(cpu_kernels(best_cpu_path()), problem.weight,
                                         problem.outputs, problem.inputs);
  for (std::int64_t r = 0; r < problem.rows; ++r) {
    std::vector<float> row(static_cast<std::size_t>(problem.outputs));
    linear->apply(problem.in.data() + r * problem.ld_in, problem.ld_in, 1, row.data(),
                  problem.ld_out);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), whole.begin() + r * problem.ld_out)) << r;
  }
}

TEST(Gemm, OfOneDnnAgreesWithinRounding) {
  if (!is_built_with_onednn()) GTEST_SKIP() << "built without oneDNN";
  for (const std::int64_t rows : {1, 5, 64, 5}) {  // 5 again: the arranged weights change back
    const Problem problem(rows, 45, 300, 3);
    const std::vector<float> expected = problem.chains();
    const std::vector<float> found =
        problem.product(*onednn_linear(problem.weight, problem.outputs, problem.inputs));
    for (std::size_t i = 0; i < expected.size(); ++i) {
      // Sums of 300 products of normal numbers: about 17, and 300 roundings of them at most.
      ASSERT_NEAR(found[i], expected[i], 2e-4) << rows << " rows, element " << i;
    }
  }
}

TEST(Gemm, OfOneDnnIsRefusedWhereItWasNotBuilt) {
  if (is_built_with_onednn()) GTEST_SKIP() << "built with oneDNN";
  try {
    onednn_linear({}, 0, 0);
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unavailable);
  }
}

TEST(ThreadScope, RestoresTheNumberOfThreads) {
  const int before = omp_get_max_threads();
  {
    const ThreadScope three(3);
    EXPECT_EQ(omp_get_max_threads(), 3);
    const ThreadScope same(0);
    EXPECT_EQ(omp_get_max_threads(), 3);
  }
  EXPECT_EQ(omp_get_max_threads(), before);
}

}  // namespace
}  // namespace icd
