#pragma once

#include <cstdint>

#include "kernels/args.h"
#include "kernels/element.cuh"
#include "kernels/team_sum.cuh"

namespace icd {

// B sequences of L tokens, H heads of P channels, G groups, N states.

// The tokens of a sequence: [first, first + count) of batch row `row`.
struct SsdTokens {
  std::int64_t row;
  std::int64_t first;
  std::int64_t count;
};

__device__ __forceinline__ SsdTokens ssd_tokens(const Ssd& args, std::int64_t b) {
  if (args.starts == nullptr) return {b, 0, args.length};
  return {0, args.starts[b], std::int64_t{args.starts[b + 1]} - args.starts[b]};
}

// Where token t of a sequence starts in a tensor.
template <typename T>
__device__ __forceinline__ T* ssd_row(const Strided& tensor, const SsdTokens& tokens,
                                      std::int64_t t) {
  return static_cast<T*>(tensor.data) + tokens.row * tensor.batch +
         (tokens.first + t) * tensor.token;
}

__device__ __forceinline__ float ssd_step(const Ssd& args, float dt, float bias) {
  dt += bias;
  if (args.softplus != 0) dt = softplus(dt);
  if (args.dt_max == 0.0F) return dt;
  return dt < args.dt_min ? args.dt_min : dt > args.dt_max ? args.dt_max : dt;  // NaN stays one
}

constexpr int kSsdPlainLanes = 8;  // that share the states of a channel
constexpr int kSsdPlainRows = 16;  // channels of a block
constexpr int kSsdPlainThreads = kSsdPlainLanes * kSsdPlainRows;
constexpr int kSsdPlainTokens = 16;  // of a tile in shared memory

// Grid: any 1-D; blocks stride over (sequence, head, tile of 16 channels). Block: kSsdPlainThreads.
//
// Token by token, for any sizes, strides and types, with the states in registers: lane l of a
// channel has the states 32 q + 4 l to 32 q + 4 l + 3 for q < kQuads, so that a warp reads B and C
// in words of 16 bytes without bank conflicts. N <= 32 kQuads.
template <typename T, int kQuads>
__global__ void __launch_bounds__(kSsdPlainThreads)
    ssd_plain_kernel(const __grid_constant__ Ssd args) {
  constexpr int kWidth = 32 * kQuads;
  __shared__ alignas(16) float B[kSsdPlainTokens][kWidth];
  __shared__ alignas(16) float C[kSsdPlainTokens][kWidth];
  __shared__ float x[kSsdPlainTokens][kSsdPlainRows];
  __shared__ float gate[kSsdPlainTokens][kSsdPlainRows];
  __shared__ float steps[kSsdPlainTokens];
  __shared__ float decays[kSsdPlainTokens];

  const int lane = threadIdx.x % kSsdPlainLanes;
  const int row = threadIdx.x / kSsdPlainLanes;
  const int states = static_cast<int>(args.states);
  const int head_dim = static_cast<int>(args.head_dim);
  const int tiles = (head_dim + kSsdPlainRows - 1) / kSsdPlainRows;
  const std::int64_t items = args.batch * args.heads * tiles;

  for (std::int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int first_p = static_cast<int>(item % tiles) * kSsdPlainRows;
    const std::int64_t head = item / tiles % args.heads;
    const std::int64_t b = item / tiles / args.heads;
    const std::int64_t group = head / (args.heads / args.groups);
    const SsdTokens tokens = ssd_tokens(args, b);
    const int p = first_p + row;
    const std::int64_t channel = head * head_dim + p;
    const std::int64_t state_at = ((b * args.heads + head) * head_dim + p) * states;
    const float A = args.A[head] * kLog2E;
    const float bias = args.dt_bias == nullptr ? 0.0F : args.dt_bias[head];
    const float D = args.D == nullptr ? 0.0F : args.D[head];

    float h[kQuads][4];
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int n = 32 * q + 4 * lane + i;
        const bool is_read = args.initial_state != nullptr && p < head_dim && n < states;
        h[q][i] = is_read ? args.initial_state[state_at + n] : 0.0F;
      }
    }

    for (std::int64_t t0 = 0; t0 < tokens.count; t0 += kSsdPlainTokens) {
      const int here = static_cast<int>(tokens.count - t0 < kSsdPlainTokens ? tokens.count - t0
                                                                            : kSsdPlainTokens);
      for (int i = threadIdx.x; i < here * kWidth; i += kSsdPlainThreads) {
        const int t = i / kWidth;
        const int n = i % kWidth;
        if (n >= states) continue;
        const std::int64_t state = group * states + n;
        B[t][n] = to_float(ssd_row<const T>(args.B, tokens, t0 + t)[state * args.B.channel]);
        C[t][n] = to_float(ssd_row<const T>(args.C, tokens, t0 + t)[state * args.C.channel]);
      }
      for (int i = threadIdx.x; i < here * kSsdPlainRows; i += kSsdPlainThreads) {
        const int t = i / kSsdPlainRows;
        const int r = i % kSsdPlainRows;
        if (first_p + r >= head_dim) continue;
        const std::int64_t c = head * head_dim + first_p + r;
        x[t][r] = to_float(ssd_row<const T>(args.x, tokens, t0 + t)[c * args.x.channel]);
        if (args.z.data != nullptr) {
          gate[t][r] = silu(to_float(ssd_row<const T>(args.z, tokens, t0 + t)[c * args.z.channel]));
        }
      }
      if (static_cast<int>(threadIdx.x) < here) {
        const float dt =
            to_float(ssd_row<const T>(args.dt, tokens, t0 + threadIdx.x)[head * args.dt.channel]);
        const float step = ssd_step(args, dt, bias);
        steps[threadIdx.x] = step;
        decays[threadIdx.x] = fast_exp2(step * A);
      }
      __syncthreads();

      for (int t = 0; t < here; ++t) {
        const float input = steps[t] * x[t][row];
        const float decay = decays[t];
        float y = 0.0F;
#pragma unroll
        for (int q = 0; q < kQuads; ++q) {
          const int n = 32 * q + 4 * lane;
          const float4 b4 = *reinterpret_cast<const float4*>(&B[t][n]);
          const float4 c4 = *reinterpret_cast<const float4*>(&C[t][n]);
          const float bs[4] = {b4.x, b4.y, b4.z, b4.w};
          const float cs[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            if (n + i >= states) continue;  // 0 of padding times infinity would be NaN
            h[q][i] = fmaf(decay, h[q][i], input * bs[i]);
            y = fmaf(cs[i], h[q][i], y);
          }
        }
        y = sum_over_team(y, kSsdPlainLanes);
        if (lane == 0 && p < head_dim) {
          if (args.D != nullptr) y = fmaf(D, x[t][row], y);
          if (args.z.data != nullptr) y *= gate[t][row];
          ssd_row<T>(args.y, tokens, t0 + t)[channel * args.y.channel] = from_float<T>(y);
        }
      }
      __syncthreads();  // the next tile overwrites what a slower warp still reads
    }

    if (args.final_state == nullptr || p >= head_dim) continue;
#pragma unroll
    for (int q = 0; q < kQuads; ++q) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int n = 32 * q + 4 * lane + i;
        if (n < states) args.final_state[state_at + n] = h[q][i];
      }
    }
  }
}

}  // namespace icd
