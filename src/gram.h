#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "icd/permutation.h"

namespace icd {

/// Instructions that GramMatrix may use. All give the same bits: an element is one chain of
/// sums, whichever lane it lies in, and multiply and add round apart on each of them.
enum class VectorPath { sse2, avx2, avx512 };

/// The widest that this CPU has.
VectorPath widest_vector_path() noexcept;

/// The Gram matrix X^T X of rows that come a batch at a time, as the upper triangle of
/// square tiles: 4 n (n + 64) bytes. Products and sums are float over 128 rows, double
/// beyond, in the order of the rows; threads share out tiles, never sums, so neither their
/// number nor the CPU shows in the bits. A batch is taken as cut where add() is called.
class GramMatrix {
 public:
  explicit GramMatrix(Index n);

  Index size() const noexcept { return n_; }

  /// Adds rows (values.size() / n, n), row-major and packed, every one of them finite. Each
  /// column is scaled by a power of two for the products, so that they neither overflow nor
  /// vanish whatever its unit. O(rows n^2); a copy of the rows while it runs.
  void add(std::span<const float> values) { add(values, widest_vector_path()); }
  void add(std::span<const float> values, VectorPath path);

  /// Adds a whole matrix, (n, n), of which the upper triangle is read.
  void add_products(std::span<const double> products);

  double operator()(Index i, Index j) const noexcept;

  /// (n, n), symmetric: (G[i][j] - offset[i] offset[j]) / sqrt(square[i] square[j]) within
  /// [-1, 1], 1 on the diagonal, NaN where a square is 0. O(n^2).
  std::vector<float> cosines(std::span<const double> offset, std::span<const double> square) const;

 private:
  Index n_;
  Index tiles_;               // along one side
  std::vector<double> sums_;  // tile after tile of the upper triangle, rows of tiles first
};

}  // namespace icd
