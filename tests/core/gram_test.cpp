#include "gram.h"

#include <gtest/gtest.h>

#include <cmath>

#include "gemm.h"
#include "icd/random.h"

namespace icd {
namespace {

std::vector<float> random_rows(Index rows, Index n, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<std::size_t>(rows) * static_cast<std::size_t>(n));
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

/// Every entry, both triangles.
std::vector<double> entries(const GramMatrix& gram) {
  std::vector<double> all;
  for (Index i = 0; i < gram.size(); ++i) {
    for (Index j = 0; j < gram.size(); ++j) all.push_back(gram(i, j));
  }
  return all;
}

TEST(GramMatrix, IsTheSumOfProductsOfColumns) {
  for (const Index n : {1, 3, 64, 65, 130}) {
    for (const Index rows : {1, 127, 128, 300}) {
      const std::vector<float> values = random_rows(rows, n, 7);
      GramMatrix gram(n);
      gram.add(values);
      for (Index i = 0; i < n; ++i) {
        for (Index j = 0; j < n; ++j) {
          double sum = 0;
          for (std::int64_t row = 0; row < rows; ++row) {
            sum += static_cast<double>(values[static_cast<std::size_t>(row * n + i)]) *
                   static_cast<double>(values[static_cast<std::size_t>(row * n + j)]);
          }
          ASSERT_NEAR(gram(i, j), sum, 1e-6 * rows) << n << " columns, entry " << i << ", " << j;
        }
      }
    }
  }
}

TEST(GramMatrix, IsExactOnWholeNumbers) {
  GramMatrix gram(2);
  gram.add(std::vector<float>{1, 2, 3, 4});
  gram.add(std::vector<float>{-5, 6});
  EXPECT_EQ(entries(gram), (std::vector<double>{35, -16, -16, 56}));
}

TEST(GramMatrix, HasTheSameBitsOnEveryVectorPath) {
  const std::vector<float> values = random_rows(300, 130, 3);
  GramMatrix plain(130);
  plain.add(values, VectorPath::sse2);
  int compared = 0;
  for (const VectorPath path : {VectorPath::avx2, VectorPath::avx512}) {
    if (path > widest_vector_path()) continue;
    GramMatrix wide(130);
    wide.add(values, path);
    EXPECT_EQ(entries(wide), entries(plain));
    ++compared;
  }
  if (compared == 0) GTEST_SKIP() << "this CPU has SSE2 only";
}

TEST(GramMatrix, HasTheSameBitsOnAnyNumberOfThreads) {
  const std::vector<float> values = random_rows(300, 200, 4);
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 2, 5}) {
    const ThreadScope scope(threads);
    GramMatrix gram(200);
    gram.add(values);
    results.push_back(entries(gram));
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(GramMatrix, NeitherOverflowsNorVanishesInAnyUnit) {
  // Squares of these are beyond a float on either side.
  GramMatrix gram(3);
  gram.add(std::vector<float>{1e30f, 1e-30f, 0x1p-149f});
  gram.add(std::vector<float>{-1e30f, 1e30f, 0x1p-149f});
  EXPECT_NEAR(gram(0, 0), 2e60, 1e54);
  EXPECT_NEAR(gram(0, 1), -1e60, 1e54);
  EXPECT_NEAR(gram(1, 1), 1e60, 1e54);
  EXPECT_EQ(gram(2, 2), 0x1p-297);
}

TEST(GramMatrix, GivesCosinesAndNaNForAZeroColumn) {
  GramMatrix gram(3);
  gram.add(std::vector<float>{3, 4, 0, 4, -3, 0, 0, 5, 0});
  const std::vector<float> r = gram.cosines(std::vector<double>(3), std::vector<double>{25, 50, 0});
  EXPECT_EQ(r[0], 1);
  EXPECT_EQ(r[4], 1);
  EXPECT_EQ(r[1], 0);
  EXPECT_EQ(r[3], 0);
  for (const std::size_t at : {2, 5, 6, 7, 8}) EXPECT_TRUE(std::isnan(r[at])) << at;
}

}  // namespace
}  // namespace icd
