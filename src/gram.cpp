#include "gram.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>

namespace icd {
namespace {

constexpr Index kTile = 64;     // columns of a tile: a panel of kDepth rows is 32 KiB, an L1 cache
constexpr Index kDepth = 128;   // rows summed in float before they go into the double sum
constexpr Index kTileRows = 4;  // rows of outputs that are held in registers at a time
constexpr std::int64_t kTileArea = std::int64_t{kTile} * kTile;

using Float4 [[gnu::vector_size(16)]] = float;
using Float8 [[gnu::vector_size(32)]] = float;
using Float16 [[gnu::vector_size(64)]] = float;

/// sums[i][j] += a[k][i] * b[k][j] over the rows k of two panels (rows, kTile), with `Vectors`
/// registers across j. Forced inline, so that it is compiled for the instructions of its
/// caller.
template <typename Vector, int Vectors>
[[gnu::always_inline]] inline void add_products(const float* a, const float* b, Index rows,
                                                double* sums) {
  constexpr Index kLanes = sizeof(Vector) / sizeof(float);
  constexpr Index kWidth = kLanes * Vectors;
  for (Index i = 0; i < kTile; i += kTileRows) {
    for (Index j = 0; j < kTile; j += kWidth) {
      Vector sum[kTileRows][Vectors] = {};
      for (Index k = 0; k < rows; ++k) {
        const float* left = a + k * kTile + i;
        const float* right = b + k * kTile + j;
        for (Index v = 0; v < Vectors; ++v) {
          Vector lanes;
          std::memcpy(&lanes, right + v * kLanes, sizeof(lanes));
          for (Index r = 0; r < kTileRows; ++r) sum[r][v] += left[r] * lanes;
        }
      }
      for (Index r = 0; r < kTileRows; ++r) {
        double* out = sums + (i + r) * kTile + j;
        for (Index v = 0; v < Vectors; ++v) {
          const Vector lanes = sum[r][v];
          for (Index c = 0; c < kLanes; ++c) out[v * kLanes + c] += static_cast<double>(lanes[c]);
        }
      }
    }
  }
}

using AddProducts = void (*)(const float* a, const float* b, Index rows, double* sums);

// The shapes fill the registers of each: 16 of 16, 8 of 16 and 8 of 16 (more would spill).
[[gnu::target("avx512f")]] void add_products_avx512(const float* a, const float* b, Index rows,
                                                    double* sums) {
  add_products<Float16, 4>(a, b, rows, sums);
}

[[gnu::target("avx2")]] void add_products_avx2(const float* a, const float* b, Index rows,
                                               double* sums) {
  add_products<Float8, 2>(a, b, rows, sums);
}

void add_products_sse2(const float* a, const float* b, Index rows, double* sums) {
  add_products<Float4, 2>(a, b, rows, sums);
}

AddProducts kernel_of(VectorPath path) noexcept {
  switch (path) {
    case VectorPath::avx512:
      return add_products_avx512;
    case VectorPath::avx2:
      return add_products_avx2;
    case VectorPath::sse2:
      break;
  }
  return add_products_sse2;
}

struct TilePlace {
  Index row;
  Index column;
};

/// Tiles of the upper triangle before row `row` of tiles.
std::int64_t tiles_before(std::int64_t row, std::int64_t tiles) {
  return row * tiles - row * (row - 1) / 2;
}

/// In the order of GramMatrix::sums_.
std::vector<TilePlace> upper_triangle(Index tiles) {
  std::vector<TilePlace> places;
  places.reserve(static_cast<std::size_t>(tiles_before(tiles, tiles)));
  for (Index row = 0; row < tiles; ++row) {
    for (Index column = row; column < tiles; ++column) places.push_back({row, column});
  }
  return places;
}

/// The power of two that brings `largest` into [1, 2), within what a float can hold.
float scale_of(float largest) noexcept {
  if (largest == 0) return 1;
  const int exponent = std::ilogb(largest);
  return std::ldexp(1.0f, std::min(-exponent, std::numeric_limits<float>::max_exponent - 1));
}

/// A batch, cut into panels of kTile columns: (tiles, rows, kTile), zeros beyond column n.
struct Panels {
  Index rows;
  std::vector<float> values;
  std::vector<double> unit;  ///< (tiles * kTile): what a column was divided by

  Panels(std::span<const float> batch, Index n, Index tiles);
  const float* at(Index tile, Index row) const noexcept {
    return values.data() + (std::int64_t{tile} * rows + row) * kTile;
  }
};

Panels::Panels(std::span<const float> batch, Index n, Index tiles)
    : rows(static_cast<Index>(batch.size() / static_cast<std::size_t>(n))),
      values(static_cast<std::size_t>(tiles) * static_cast<std::size_t>(rows) * kTile),
      unit(static_cast<std::size_t>(tiles) * kTile, 1.0) {
#pragma omp parallel for schedule(static)
  for (Index tile = 0; tile < tiles; ++tile) {
    const Index first = tile * kTile;
    const Index columns = std::min(kTile, n - first);
    const float* in = batch.data() + first;
    std::array<float, kTile> scale = {};
    for (Index row = 0; row < rows; ++row) {
      const float* from = in + std::int64_t{row} * n;
      for (Index c = 0; c < columns; ++c) {
        scale[static_cast<std::size_t>(c)] =
            std::max(scale[static_cast<std::size_t>(c)], std::abs(from[c]));
      }
    }
    for (Index c = 0; c < columns; ++c) {
      float& s = scale[static_cast<std::size_t>(c)];
      s = scale_of(s);
      unit[static_cast<std::size_t>(first + c)] = 1.0 / static_cast<double>(s);
    }
    float* out = values.data() + std::int64_t{tile} * rows * kTile;
    for (Index row = 0; row < rows; ++row, out += kTile) {
      const float* from = in + std::int64_t{row} * n;
      for (Index c = 0; c < columns; ++c) out[c] = from[c] * scale[static_cast<std::size_t>(c)];
    }
  }
}

}  // namespace

VectorPath widest_vector_path() noexcept {
  if (__builtin_cpu_supports("avx512f")) return VectorPath::avx512;
  if (__builtin_cpu_supports("avx2")) return VectorPath::avx2;
  return VectorPath::sse2;
}

GramMatrix::GramMatrix(Index n)
    : n_(n),
      tiles_((n + kTile - 1) / kTile),
      sums_(static_cast<std::size_t>(tiles_before(tiles_, tiles_) * kTileArea)) {}

void GramMatrix::add(std::span<const float> values, VectorPath path) {
  if (values.empty()) return;
  assert(values.size() % static_cast<std::size_t>(n_) == 0);
  const Panels panels(values, n_, tiles_);
  const std::vector<TilePlace> places = upper_triangle(tiles_);
  const AddProducts add_block = kernel_of(path);
#pragma omp parallel for schedule(dynamic)
  for (std::size_t place = 0; place < places.size(); ++place) {
    const auto [row, column] = places[place];
    std::array<double, kTileArea> sums = {};
    for (Index k = 0; k < panels.rows; k += kDepth) {
      add_block(panels.at(row, k), panels.at(column, k), std::min(kDepth, panels.rows - k),
                sums.data());
    }
    double* out = sums_.data() + static_cast<std::int64_t>(place) * kTileArea;
    const double* left = panels.unit.data() + std::int64_t{row} * kTile;
    const double* right = panels.unit.data() + std::int64_t{column} * kTile;
    for (Index i = 0; i < kTile; ++i) {
      for (Index j = 0; j < kTile; ++j) {
        out[i * kTile + j] += sums[static_cast<std::size_t>(i * kTile + j)] * (left[i] * right[j]);
      }
    }
  }
}

void GramMatrix::add_products(std::span<const double> products) {
  const auto n = static_cast<std::size_t>(n_);
  assert(products.size() == n * n);
  const std::vector<TilePlace> places = upper_triangle(tiles_);
#pragma omp parallel for schedule(dynamic)
  for (std::size_t place = 0; place < places.size(); ++place) {
    double* sums = sums_.data() + static_cast<std::int64_t>(place) * kTileArea;
    const auto top = static_cast<std::size_t>(places[place].row) * kTile;
    const auto left = static_cast<std::size_t>(places[place].column) * kTile;
    for (std::size_t i = top; i < std::min(n, top + kTile); ++i) {
      for (std::size_t j = std::max(i, left); j < std::min(n, left + kTile); ++j) {
        sums[(i - top) * kTile + (j - left)] += products[i * n + j];
      }
    }
  }
}

double GramMatrix::operator()(Index i, Index j) const noexcept {
  if (i > j) std::swap(i, j);
  const Index row = i / kTile;
  const std::int64_t tile = tiles_before(row, tiles_) + j / kTile - row;
  return sums_[static_cast<std::size_t>(tile * kTileArea + (i % kTile) * kTile + j % kTile)];
}

std::vector<float> GramMatrix::cosines(std::span<const double> offset,
                                       std::span<const double> square) const {
  const auto n = static_cast<std::size_t>(n_);
  assert(offset.size() == n && square.size() == n);
  std::vector<float> result(n * n);
  const std::vector<TilePlace> places = upper_triangle(tiles_);
  const auto cosine = [&](std::size_t i, std::size_t j, double product) {
    if (square[i] == 0 || square[j] == 0) return std::numeric_limits<float>::quiet_NaN();
    if (i == j) return 1.0f;
    const double r = (product - offset[i] * offset[j]) / std::sqrt(square[i] * square[j]);
    return static_cast<float>(std::clamp(r, -1.0, 1.0));
  };
#pragma omp parallel for schedule(dynamic)
  for (std::size_t place = 0; place < places.size(); ++place) {
    const double* sums = sums_.data() + static_cast<std::int64_t>(place) * kTileArea;
    const auto top = static_cast<std::size_t>(places[place].row) * kTile;
    const auto left = static_cast<std::size_t>(places[place].column) * kTile;
    for (std::size_t i = top; i < std::min(n, top + kTile); ++i) {
      for (std::size_t j = std::max(i, left); j < std::min(n, left + kTile); ++j) {
        const float r = cosine(i, j, sums[(i - top) * kTile + (j - left)]);
        result[i * n + j] = r;
        result[j * n + i] = r;
      }
    }
  }
  return result;
}

}  // namespace icd
