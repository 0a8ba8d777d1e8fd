#pragma once

#include <mma.h>

#include <cstdint>
#include <type_traits>

#include "kernels/block_sparse_gemm.h"
#include "kernels/element.cuh"

namespace icd {

namespace wmma = nvcuda::wmma;

// Blocks of b rows and columns; a thread block takes kTileTokens tokens times one row of blocks.
// Grid: 1-D, rows of blocks times tiles of tokens, rows of blocks first: neighbours share x in L2.
// Block: kTileThreads.

constexpr int kTileTokens = 64;
constexpr int kBlockThreads = 128;

// A tile of `kTileRows` rows of b elements on its way from memory to shared memory, in words of 16
// bytes of which a thread holds its share.
template <typename T, int kTileRows, int b>
struct TileInFlight {
  static constexpr int kElements = 16 / sizeof(T);
  static constexpr int kRowWords = b / kElements;
  static constexpr int kWords = kTileRows * kRowWords;
  static constexpr int kHeld = (kWords + kBlockThreads - 1) / kBlockThreads;
  uint4 held[kHeld];

  // Rows from `rows` on are 0. `is_wide`: from and row are multiples of 16 bytes.
  __device__ __forceinline__ void load(const T* from, std::int64_t row, int rows, bool is_wide) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int word = threadIdx.x + i * kBlockThreads;
      const int r = word / kRowWords;
      held[i] = make_uint4(0, 0, 0, 0);
      if (word >= kWords || r >= rows) continue;
      const T* at = from + r * row + word % kRowWords * kElements;
      if (is_wide) {
        held[i] = __ldg(reinterpret_cast<const uint4*>(at));
      } else {
        T some[kElements];
#pragma unroll
        for (int k = 0; k < kElements; ++k) some[k] = at[k];
        memcpy(&held[i], some, sizeof some);
      }
    }
  }

  template <int kStride>
  __device__ __forceinline__ void store(T* to) const {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int word = threadIdx.x + i * kBlockThreads;
      if (word >= kWords) continue;
      *reinterpret_cast<uint4*>(to + word / kRowWords * kStride + word % kRowWords * kElements) =
          held[i];
    }
  }
};

// Whether this compilation has fragments of T: those of bf16 came with 8.0.
template <typename T>
constexpr bool kHasFragments =
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    sizeof(T) == 2 && !std::is_same_v<T, __nv_bfloat16>;
#else
    sizeof(T) == 2;
#endif

// Tensor cores. A warp takes 16 tokens and all b rows. The next
// block is on its way while this one is multiplied.
template <typename T, int b>
__global__ void __launch_bounds__(kBlockThreads)
    block_sparse_mma_kernel(const BlockSparseGemm args, std::int64_t block_rows, bool is_wide) {
  if constexpr (kHasFragments<T>) {
    constexpr int kStride = b + 8;  // 16 bytes more: rows of 16 fall into different banks
    constexpr int kTiles = b / 16;
    constexpr int kStage = (kTileTokens + b) * kStride;
    constexpr int kSumStride = b + 4;
    constexpr int kStageBytes = 2 * kStage * static_cast<int>(sizeof(T));
    constexpr int kSumBytes = kTileTokens * kSumStride * static_cast<int>(sizeof(float));
    __shared__ __align__(
        128) unsigned char shared[kStageBytes > kSumBytes ? kStageBytes : kSumBytes];
    T* staged = reinterpret_cast<T*>(shared);  // (2, kTileTokens + b, kStride)

    const std::int64_t block_row = blockIdx.x % block_rows;
    const std::int64_t t0 = blockIdx.x / block_rows * kTileTokens;
    const int tokens =
        static_cast<int>(args.tokens - t0 < kTileTokens ? args.tokens - t0 : kTileTokens);
    const T* x = static_cast<const T*>(args.x) + t0 * args.x_row;
    const T* values = static_cast<const T*>(args.values);
    const int first = args.starts[block_row];
    const int last = args.starts[block_row + 1];
    const int warp = threadIdx.x / 32;

    wmma::fragment<wmma::accumulator, 16, 16, 16, float> sum[kTiles];
#pragma unroll
    for (auto& s : sum) wmma::fill_fragment(s, 0.0F);

    TileInFlight<T, kTileTokens, b> x_tile;
    TileInFlight<T, b, b> w_tile;
    const auto fetch = [&](int k) {
      x_tile.load(x + std::int64_t{args.columns_of[k]} * b, args.x_row, tokens, is_wide);
      w_tile.load(values + std::int64_t{k} * b * b, b, b, is_wide);
    };
    if (first < last) fetch(first);
    for (int k = first; k < last; ++k) {
      // Two stages, so that one barrier is enough: who writes this stage again has passed the next.
      T* stage = staged + (k - first) % 2 * kStage;
      x_tile.template store<kStride>(stage);
      w_tile.template store<kStride>(stage + kTileTokens * kStride);
      __syncthreads();
      if (k + 1 < last) fetch(k + 1);
      const T* stage_x = stage + warp * 16 * kStride;
      const T* stage_w = stage + kTileTokens * kStride;
#pragma unroll
      for (int c = 0; c < b; c += 16) {
        wmma::fragment<wmma::matrix_a, 16, 16, 16, T, wmma::row_major> some_x;
        wmma::load_matrix_sync(some_x, stage_x + c, kStride);
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          wmma::fragment<wmma::matrix_b, 16, 16, 16, T, wmma::col_major> some_w;
          wmma::load_matrix_sync(some_w, stage_w + j * 16 * kStride + c, kStride);
          wmma::mma_sync(sum[j], some_x, some_w, sum[j]);
        }
      }
    }
    __syncthreads();  // the sums take the place of the stages

    float* sums = reinterpret_cast<float*>(shared);  // (kTileTokens, kSumStride)
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
      wmma::store_matrix_sync(sums + warp * 16 * kSumStride + j * 16, sum[j], kSumStride,
                              wmma::mem_row_major);
    }
    __syncthreads();
    T* y = static_cast<T*>(args.y) + t0 * args.y_row + block_row * b;
    for (int i = threadIdx.x; i < tokens * b; i += kBlockThreads) {
      y[i / b * args.y_row + i % b] = from_float<T>(sums[i / b * kSumStride + i % b]);
    }
  }
}

// Everything else. A thread takes 8 tokens and every 16th row.
template <typename T, int b>
__global__ void __launch_bounds__(kBlockThreads)
    block_sparse_plain_kernel(const BlockSparseGemm args, std::int64_t block_rows) {
  constexpr int kColumns = b / 16;
  constexpr int kTokens = 8;
  constexpr int kStride = b + 1;
  __shared__ float staged_x[kTileTokens * kStride];
  __shared__ float staged_w[b * kStride];

  const std::int64_t block_row = blockIdx.x % block_rows;
  const std::int64_t t0 = blockIdx.x / block_rows * kTileTokens;
  const int tokens =
      static_cast<int>(args.tokens - t0 < kTileTokens ? args.tokens - t0 : kTileTokens);
  const T* x = static_cast<const T*>(args.x) + t0 * args.x_row;
  const T* values = static_cast<const T*>(args.values);
  const int r0 = threadIdx.x % 16;
  const int own_token = threadIdx.x / 16 * kTokens;

  float sum[kTokens][kColumns] = {};
  for (int k = args.starts[block_row]; k < args.starts[block_row + 1]; ++k) {
    const T* from = x + std::int64_t{args.columns_of[k]} * b;
    for (int i = threadIdx.x; i < kTileTokens * b; i += kBlockThreads) {
      staged_x[i / b * kStride + i % b] =
          i / b < tokens ? to_float(from[i / b * args.x_row + i % b]) : 0.0F;
    }
    for (int i = threadIdx.x; i < b * b; i += kBlockThreads) {
      staged_w[i / b * kStride + i % b] = to_float(values[std::int64_t{k} * b * b + i]);
    }
    __syncthreads();
#pragma unroll 4
    for (int c = 0; c < b; ++c) {
      float w[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) w[j] = staged_w[(r0 + j * 16) * kStride + c];
#pragma unroll
      for (int t = 0; t < kTokens; ++t) {
        const float some_x = staged_x[(own_token + t) * kStride + c];
#pragma unroll
        for (int j = 0; j < kColumns; ++j) sum[t][j] = fmaf(some_x, w[j], sum[t][j]);
      }
    }
    __syncthreads();
  }
  T* y = static_cast<T*>(args.y) + t0 * args.y_row + block_row * b;
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (own_token + t >= tokens) continue;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      y[(own_token + t) * args.y_row + r0 + j * 16] = from_float<T>(sum[t][j]);
    }
  }
}

}  // namespace icd
