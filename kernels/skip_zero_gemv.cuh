#pragma once

#include <cstdint>

#include "kernels/team_sum.cuh"
#include "kernels/vector.cuh"

namespace icd {

// R rows, C columns. An item is V neighbouring columns; it is active if any of its x is not 0.

constexpr int kCompactThreads = 1024;
constexpr int kGemvRows = 4;       // rows of a row-major block
constexpr int kGemvThreads = 256;  // of it
constexpr int kTileBytes = 32;     // of a row of memory that an input-major block takes: a sector
constexpr int kTileThreads = 512;  // of it
constexpr int kTileLoads = 4;      // that one of its threads has under way

// What the first kernel leaves for the second, in the order of the columns.
template <typename T>
struct ActiveItems {
  std::int32_t* count;
  std::int32_t* item;  // (count)
  T* x;                // (count, V)
};

// kCount neighbouring elements as floats; one of them needs no alignment.
template <typename T, int kCount>
__device__ __forceinline__ void load_floats(const T* from, float (&to)[kCount]) {
  if constexpr (kCount == 1) {
    to[0] = to_float(from[0]);
  } else {
    to_floats(load_vector(vector_at<kCount>(from)), to);
  }
}

// The sum of the counts of all threads ahead of this one; `total` is that of the block.
__device__ __forceinline__ int sum_ahead(int count, int& total) {
  __shared__ int of_warps[kCompactThreads / 32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int sum = count;
  for (int offset = 1; offset < 32; offset *= 2) {
    const int below = __shfl_up_sync(0xFFFFFFFFU, sum, offset);
    if (lane >= offset) sum += below;
  }
  if (lane == 31) of_warps[warp] = sum;
  __syncthreads();
  int ahead = 0;
  total = 0;
  for (int w = 0; w < kCompactThreads / 32; ++w) {
    if (w < warp) ahead += of_warps[w];
    total += of_warps[w];
  }
  return ahead + sum - count;
}

// Grid: 1. Block: kCompactThreads, each with a stretch of neighbouring items.
template <typename T, int V>
__global__ void __launch_bounds__(kCompactThreads)
    compact_kernel(const T* x,  // (C)
                   int items, ActiveItems<T> active) {
  const int stretch = items / kCompactThreads + (items % kCompactThreads != 0 ? 1 : 0);
  const std::int64_t first = std::int64_t{static_cast<int>(threadIdx.x)} * stretch;
  const std::int64_t last = first + stretch < items ? first + stretch : items;
  const auto is_active = [&](std::int64_t i) {
    bool any = false;
    for (int v = 0; v < V; ++v) any = any || to_float(x[i * V + v]) != 0.0F;
    return any;
  };
  int count = 0;
  for (std::int64_t i = first; i < last; ++i) count += is_active(i) ? 1 : 0;
  int total;
  int at = sum_ahead(count, total);
  for (std::int64_t i = first; i < last; ++i) {
    if (!is_active(i)) continue;
    active.item[at] = static_cast<std::int32_t>(i);
    for (int v = 0; v < V; ++v) active.x[std::int64_t{at} * V + v] = x[i * V + v];
    ++at;
  }
  if (threadIdx.x == 0) *active.count = total;
}

// W (R, C). Grid: 1-D, kGemvRows rows a block. Block: kGemvThreads, which share the active items.
// With V columns an item, C is a multiple of V, and the 16 bytes of an item are aligned.
template <typename T, int V>
__global__ void __launch_bounds__(kGemvThreads)
    row_major_gemv_kernel(const T* W, ActiveItems<T> active, T* y, std::int64_t rows,
                          std::int64_t columns) {
  const std::int64_t r0 = std::int64_t{blockIdx.x} * kGemvRows;
  const int count = *active.count;
  float sum[kGemvRows] = {};
  for (int j = threadIdx.x; j < count; j += kGemvThreads) {
    const T* from = W + r0 * columns + std::int64_t{active.item[j]} * V;
    float w[kGemvRows][V];
#pragma unroll
    for (int r = 0; r < kGemvRows; ++r) {
      const std::int64_t row = r0 + r < rows ? r : rows - 1 - r0;  // beyond the end: not used
      load_floats<T, V>(from + row * columns, w[r]);
    }
    float x[V];
    load_floats<T, V>(active.x + std::int64_t{j} * V, x);
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int r = 0; r < kGemvRows; ++r) {
        // Not a product with 0: that of infinity would be NaN.
        sum[r] = fmaf(x[v] != 0.0F ? w[r][v] : 0.0F, x[v], sum[r]);
      }
    }
  }
  sum_over_team(sum, 32);
  __shared__ float of_warps[kGemvThreads / 32][kGemvRows];
#pragma unroll
  for (int r = 0; r < kGemvRows; ++r) {
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32][r] = sum[r];
  }
  __syncthreads();
  if (threadIdx.x >= kGemvRows || r0 + threadIdx.x >= rows) return;
  float all = 0;
  for (int w = 0; w < kGemvThreads / 32; ++w) all += of_warps[w][threadIdx.x];
  y[r0 + threadIdx.x] = from_float<T>(all);
}

// W (C, R), x one column an item. Grid: 1-D, kTileBytes of R a block. Block: kTileThreads: lanes
// over the tile, V rows each, times slots over the active columns. R is a multiple of V, and V
// elements of W are aligned.
template <typename T, int V>
__global__ void __launch_bounds__(kTileThreads)
    input_major_gemv_kernel(const T* W, ActiveItems<T> active, T* y, std::int64_t rows) {
  constexpr int kRows = kTileBytes / sizeof(T);
  constexpr int kLanes = kRows / V;
  constexpr int kSlots = kTileThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int slot = threadIdx.x / kLanes;
  const std::int64_t r = std::int64_t{blockIdx.x} * kRows + lane * V;
  const T* from = W + (r < rows ? r : 0);  // beyond the end: not used
  const int count = *active.count;

  float sum[V] = {};
  for (int j0 = slot; j0 < count; j0 += kSlots * kTileLoads) {
    float w[kTileLoads][V];
    float x[kTileLoads];
#pragma unroll
    for (int i = 0; i < kTileLoads; ++i) {
      const int j = min(j0 + i * kSlots, count - 1);
      load_floats<T, V>(from + active.item[j] * rows, w[i]);
      x[i] = to_float(active.x[j]);
    }
#pragma unroll
    for (int i = 0; i < kTileLoads; ++i) {
      if (j0 + i * kSlots >= count) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) sum[v] = fmaf(w[i][v], x[i], sum[v]);
    }
  }
  __shared__ float of_warps[kTileThreads / 32][kRows];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    for (int offset = 16; offset >= kLanes; offset /= 2) {
      sum[v] += __shfl_xor_sync(0xFFFFFFFFU, sum[v], offset);
    }
    if (threadIdx.x % 32 < kLanes) of_warps[threadIdx.x / 32][lane * V + v] = sum[v];
  }
  __syncthreads();
  const std::int64_t row = std::int64_t{blockIdx.x} * kRows + threadIdx.x;
  if (threadIdx.x >= kRows || row >= rows) return;
  float all = 0;
  for (int w = 0; w < kTileThreads / 32; ++w) all += of_warps[w][threadIdx.x];
  y[row] = from_float<T>(all);
}

}  // namespace icd
