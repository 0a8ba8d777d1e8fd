#pragma once

#include <cstdint>

#include "kernels/element.cuh"
#include "kernels/team_sum.cuh"

namespace icd {

// P head_dim, N states, R ranks, G lanes of a row of the state, K tokens of a stage.

/// How a launch is cut. Powers of two: lanes, rows, width.
struct Mamba3Plan {
  int lanes;           ///< G, within a warp
  int rows;            ///< threads / G: rows of a state that a block holds
  int width;           ///< of the threads that prepare k and q: from N and 4 upwards
  int padded;          ///< N, rounded up to 4
  int tokens;          ///< K
  std::int64_t tiles;  ///< blocks of a head, each with `rows` of its rows
};

/// Floats of shared memory: k of K tokens and the one before, q, v as k, brackets, scales, and
/// three factors a token.
inline std::int64_t mamba3_floats(const Mamba3Plan& plan, std::int64_t ranks, std::int64_t tokens) {
  return ranks * ((2 * tokens + 1) * plan.padded + (2 * tokens + 1) * plan.rows + tokens) +
         3 * tokens;
}

/// An angle in -pi to pi, and what its f32 lacks. Without that rest a sequence of 4096 tokens would
/// add up an error of 1e-5, as large as what the sums of the state leave.
struct Mamba3Phase {
  float angle;
  float rest;

  __device__ __forceinline__ void advance(float turn, float dt) {
    constexpr float kTwoPi = 6.2831854820251465F;
    constexpr float kTwoPiRest = -1.7484555e-7F;  // 2 pi less its f32
    const float step = fmaf(turn, dt, rest);
    const float sum = angle + step;
    rest = step - (sum - angle);
    const float turns = rintf(sum * 0.15915494309189535F);
    angle = fmaf(-turns, kTwoPi, sum);
    rest = fmaf(-turns, kTwoPiRest, rest);
  }
};

/// Which states turn together.
struct Mamba3Pair {
  int angle;  ///< negative: the state does not turn
  int partner;
  bool is_first;

  __device__ __forceinline__ Mamba3Pair(const Mamba3Scan& args, int n) {
    const int states = static_cast<int>(args.states);
    const int half = states / 2;
    if (args.is_mimo != 0) {
      is_first = n < half;
      angle = is_first ? n : n - half;
      partner = is_first ? n + half : n - half;
    } else {
      is_first = n % 2 == 0;
      angle = n / 2;
      partner = n ^ 1;
    }
    if (angle >= args.angles || n >= states) angle = -1;
  }
};

template <typename T>
__device__ __forceinline__ float mamba3_load(const Strided& tensor, std::int64_t b, std::int64_t t,
                                             std::int64_t c) {
  return to_float(__ldg(static_cast<const T*>(tensor.data) + b * tensor.batch + t * tensor.token +
                        c * tensor.channel));
}

/// Element n of rank r of k or q: B or C and its bias, turned.
template <typename T>
__device__ __forceinline__ float mamba3_turned(const Mamba3Scan& args, const Strided& tensor,
                                               const float* __restrict__ bias,  // (heads, R, N)
                                               std::int64_t b, std::int64_t t, std::int64_t h,
                                               std::int64_t r, int n, const Mamba3Pair& pair,
                                               float cosine, float sine) {
  const std::int64_t group = h / (args.heads / args.groups);
  const std::int64_t first = (r * args.groups + group) * args.states;
  const float* row = bias + (h * args.rank + r) * args.states;
  const float own = mamba3_load<T>(tensor, b, t, first + n) + __ldg(row + n);
  if (pair.angle < 0) return own;
  const float other =
      mamba3_load<T>(tensor, b, t, first + pair.partner) + __ldg(row + pair.partner);
  return pair.is_first ? own * cosine - other * sine : other * sine + own * cosine;
}

// Grid: any 1-D; blocks stride over (sequence, head, tile). Block: kThreads.
// Shared: mamba3_floats().
//
// A block holds `rows` rows of a head's state in registers, G lanes a row; lane g has the states
// 4 (j G + g) to 4 (j G + g) + 3 for j < kChunks. Tokens go through in stages of K, so that the
// latency of memory is paid once a stage, and between two barriers every thread works on its own
// rows: prepare k, q, v of the stage; | step through its tokens; | gate and write. With a norm a
// block holds all rows, as the norm needs them all.
template <typename T, int kThreads, int kChunks>
__global__ void __launch_bounds__(kThreads, kThreads <= 256 ? 2 : 1)
    mamba3_kernel(const Mamba3Scan args, const Mamba3Plan plan) {
  extern __shared__ __align__(16) float shared[];
  const int ranks = static_cast<int>(args.rank);
  const int states = static_cast<int>(args.states);
  const int k_token = ranks * plan.padded;  // floats of a token
  const int v_token = ranks * plan.rows;
  float* const k = shared;                                 // (K + 1, R, padded); 0: token before
  float* const q = k + (plan.tokens + 1) * k_token;        // (K, R, padded)
  float* const v = q + plan.tokens * k_token;              // (K + 1, R, rows)
  float* const bracket = v + (plan.tokens + 1) * v_token;  // (K, R, rows)
  float* const scale = bracket + plan.tokens * v_token;    // (K, R)
  float* const factor = scale + plan.tokens * ranks;       // (K, 3)

  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread & (plan.lanes - 1);
  const int row = thread / plan.lanes;
  const int n = thread & (plan.width - 1);
  const int first_rank = thread / plan.width;
  const int rank_step = kThreads / plan.width;
  const bool prepares = n < plan.padded && first_rank < ranks;
  const Mamba3Pair pair(args, n);
  const bool is_wide =
      states % 4 == 0 && reinterpret_cast<std::uintptr_t>(args.state) % sizeof(float4) == 0;

  const std::int64_t all = args.batch * args.heads * plan.tiles;
  for (std::int64_t item = blockIdx.x; item < all; item += gridDim.x) {
    const std::int64_t head = item / plan.tiles;  // of all sequences
    const std::int64_t b = head / args.heads;
    const std::int64_t h = head % args.heads;
    const std::int64_t first_row = (item % plan.tiles) * plan.rows;
    const std::int64_t p = first_row + row;
    const bool has_row = p < args.head_dim;
    float* const kept = args.state + (head * args.head_dim + p) * args.states;  // (N)

    float4 state[kChunks];
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int at = 4 * (j * plan.lanes + lane);
      state[j] = make_float4(0, 0, 0, 0);
      if (args.state == nullptr || !has_row || at >= states) continue;
      if (is_wide) {
        state[j] = *reinterpret_cast<const float4*>(kept + at);
      } else {
        state[j].x = kept[at];
        if (at + 1 < states) state[j].y = kept[at + 1];
        if (at + 2 < states) state[j].z = kept[at + 2];
        if (at + 3 < states) state[j].w = kept[at + 3];
      }
    }
    Mamba3Phase phase = {0, 0};
    if (prepares) {
      if (args.state != nullptr && pair.angle >= 0) {
        phase.angle = args.phase[head * args.angles + pair.angle];
      }
      for (int r = first_rank; r < ranks; r += rank_step) {
        const bool has = args.state != nullptr && n < states;
        k[r * plan.padded + n] = has ? args.last_k[(head * ranks + r) * args.states + n] : 0.0F;
      }
    }
    for (int i = thread; i < v_token; i += kThreads) {
      const std::int64_t channel = first_row + (i & (plan.rows - 1));
      const bool has = args.state != nullptr && channel < args.head_dim;
      v[i] = has ? args.last_v[(head * ranks + i / plan.rows) * args.head_dim + channel] : 0.0F;
    }

    for (std::int64_t first = 0; first < args.length; first += plan.tokens) {
      const int count =
          static_cast<int>(args.length - first < plan.tokens ? args.length - first : plan.tokens);

      if (prepares) {
#pragma unroll 2
        for (int t = 0; t < count; ++t) {
          float cosine = 1;
          float sine = 0;
          if (pair.angle >= 0) {
            phase.advance(mamba3_load<float>(args.turn, b, first + t, pair.angle),
                          mamba3_load<float>(args.dt, b, first + t, h));
            sincospif(phase.angle * 0.31830988618379067F, &sine, &cosine);
          }
#pragma unroll 1  // the state takes the registers
          for (int r = first_rank; r < ranks; r += rank_step) {
            float own_k = 0;
            float own_q = 0;
            if (n < states) {
              own_k = mamba3_turned<T>(args, args.B, args.B_bias, b, first + t, h, r, n, pair,
                                       cosine, sine);
              own_q = mamba3_turned<T>(args, args.C, args.C_bias, b, first + t, h, r, n, pair,
                                       cosine, sine);
            }
            k[(t + 1) * k_token + r * plan.padded + n] = own_k;
            q[t * k_token + r * plan.padded + n] = own_q;
          }
        }
      }
      for (int i = thread; i < v_token; i += kThreads) {
        const std::int64_t r = i / plan.rows;
        const std::int64_t channel = first_row + (i & (plan.rows - 1));
        const bool has = channel < args.head_dim;
        const float spread = has && args.mimo_x != nullptr
                                 ? args.mimo_x[(h * ranks + r) * args.head_dim + channel]
                                 : 1.0F;
#pragma unroll 4
        for (int t = 0; t < count; ++t) {
          v[(t + 1) * v_token + i] =
              has ? mamba3_load<T>(args.x, b, first + t, h * args.head_dim + channel) * spread
                  : 0.0F;
        }
      }
      if (thread < count) {
        const float dt = mamba3_load<float>(args.dt, b, first + thread, h);
        const float trap = mamba3_load<float>(args.trap, b, first + thread, h);
        const float alpha = expf(mamba3_load<float>(args.decay, b, first + thread, h));
        factor[3 * thread] = alpha;
        factor[3 * thread + 1] = (1 - trap) * dt * alpha;
        factor[3 * thread + 2] = trap * dt;
      }
      __syncthreads();

      const float D = args.D != nullptr ? args.D[h] : 0.0F;
      for (int t = 0; t < count; ++t) {
        const float alpha = factor[3 * t];
#pragma unroll
        for (int j = 0; j < kChunks; ++j) {
          state[j].x *= alpha;
          state[j].y *= alpha;
          state[j].z *= alpha;
          state[j].w *= alpha;
        }
        for (int term = 0; term < 2 * ranks; ++term) {  // of the token before, then of this one
          const int slot = term < ranks ? t : t + 1;
          const int r = term < ranks ? term : term - ranks;
          const float s =
              factor[3 * t + (term < ranks ? 1 : 2)] * v[slot * v_token + r * plan.rows + row];
          const float* const k_row = k + slot * k_token + r * plan.padded;
#pragma unroll
          for (int j = 0; j < kChunks; ++j) {
            const int at = 4 * (j * plan.lanes + lane);
            if (at >= states) continue;
            const float4 key = *reinterpret_cast<const float4*>(k_row + at);
            state[j].x = fmaf(s, key.x, state[j].x);
            state[j].y = fmaf(s, key.y, state[j].y);
            state[j].z = fmaf(s, key.z, state[j].z);
            state[j].w = fmaf(s, key.w, state[j].w);
          }
        }
        if (states % 4 != 0) {  // infinity times the zeros that pad k is not zero
#pragma unroll
          for (int j = 0; j < kChunks; ++j) {
            const int at = 4 * (j * plan.lanes + lane);
            if (at + 1 >= states) state[j].y = 0;
            if (at + 2 >= states) state[j].z = 0;
            if (at + 3 >= states) state[j].w = 0;
          }
        }
        for (int r = 0; r < ranks; ++r) {
          const float* const q_row = q + t * k_token + r * plan.padded;
          float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
          for (int j = 0; j < kChunks; ++j) {
            const int at = 4 * (j * plan.lanes + lane);
            if (at >= states) continue;
            const float4 query = *reinterpret_cast<const float4*>(q_row + at);
            sum.x = fmaf(query.x, state[j].x, sum.x);
            sum.y = fmaf(query.y, state[j].y, sum.y);
            sum.z = fmaf(query.z, state[j].z, sum.z);
            sum.w = fmaf(query.w, state[j].w, sum.w);
          }
          float y = (sum.x + sum.y) + (sum.z + sum.w);
          y = sum_over_team(y, plan.lanes);
          if (lane == 0) {
            const int place = t * v_token + r * plan.rows + row;
            bracket[place] = args.D != nullptr ? fmaf(D, v[place + v_token], y) : y;
          }
        }
      }
      __syncthreads();

      if (args.norm != nullptr) {  // a warp for each rank of each token
        const int head_dim = static_cast<int>(args.head_dim);
        for (int i = thread / 32; i < count * ranks; i += kThreads / 32) {
          float squares = 0;
          for (int at = thread % 32; at < head_dim; at += 32) {
            squares = fmaf(bracket[i * plan.rows + at], bracket[i * plan.rows + at], squares);
          }
          squares = sum_over_team(squares, 32);
          if (thread % 32 == 0) {
            scale[i] = rsqrtf(squares / static_cast<float>(head_dim) + args.norm_eps);
          }
        }
        __syncthreads();
      }

      for (int i = thread; i < count * plan.rows; i += kThreads) {
        const int t = i / plan.rows;
        const int own_row = i & (plan.rows - 1);
        const std::int64_t channel = first_row + own_row;
        if (channel >= args.head_dim) continue;
        const std::int64_t c = h * args.head_dim + channel;
        const float z = args.z.data != nullptr ? mamba3_load<T>(args.z, b, first + t, c) : 0.0F;
        const float weight = args.norm != nullptr ? args.norm[c] : 1.0F;
        float y = 0;
        for (int r = 0; r < ranks; ++r) {
          const std::int64_t m = (h * ranks + r) * args.head_dim + channel;
          float value = bracket[t * v_token + r * plan.rows + own_row];
          if (args.norm != nullptr) value *= scale[t * ranks + r] * weight;
          if (args.z.data != nullptr) {
            value *= silu(args.mimo_z != nullptr ? z * args.mimo_z[m] : z);
          }
          y = args.mimo_o != nullptr ? fmaf(value, args.mimo_o[m], y) : value;
        }
        static_cast<T*>(
            args.y.data)[b * args.y.batch + (first + t) * args.y.token + c * args.y.channel] =
            from_float<T>(y);
      }
      // The last token is the one before the next. Who copies an element also writes it in the next
      // stage, so nobody has to wait for it.
      if (prepares) {
        for (int r = first_rank; r < ranks; r += rank_step) {
          k[r * plan.padded + n] = k[count * k_token + r * plan.padded + n];
        }
      }
      for (int i = thread; i < v_token; i += kThreads) v[i] = v[count * v_token + i];
    }

    if (args.state == nullptr) continue;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int at = 4 * (j * plan.lanes + lane);
      if (!has_row || at >= states) continue;
      if (is_wide) {
        *reinterpret_cast<float4*>(kept + at) = state[j];
      } else {
        kept[at] = state[j].x;
        if (at + 1 < states) kept[at + 1] = state[j].y;
        if (at + 2 < states) kept[at + 2] = state[j].z;
        if (at + 3 < states) kept[at + 3] = state[j].w;
      }
    }
    for (int i = thread; i < v_token; i += kThreads) {
      const std::int64_t channel = first_row + (i & (plan.rows - 1));
      if (channel < args.head_dim) {
        args.last_v[(head * ranks + i / plan.rows) * args.head_dim + channel] = v[i];
      }
    }
  }
}

// Grid: any 1-D; blocks stride over (sequence, head). Block: at least N threads.
//
// Writes phase and last_k. Every block of a head reads those of the token before, whenever it gets
// to run, so they are written when all have: by a kernel of its own, which turns the phases once
// more.
template <typename T>
__global__ void mamba3_keep_kernel(const Mamba3Scan args) {
  const int n = static_cast<int>(threadIdx.x);
  const Mamba3Pair pair(args, n);
  const std::int64_t last = args.length - 1;
  for (std::int64_t head = blockIdx.x; head < args.batch * args.heads; head += gridDim.x) {
    const std::int64_t b = head / args.heads;
    const std::int64_t h = head % args.heads;
    Mamba3Phase phase = {0, 0};
    if (pair.angle >= 0) phase.angle = args.phase[head * args.angles + pair.angle];
    __syncthreads();  // both of a pair have read it
    if (pair.angle >= 0) {
#pragma unroll 4
      for (std::int64_t t = 0; t <= last; ++t) {
        phase.advance(mamba3_load<float>(args.turn, b, t, pair.angle),
                      mamba3_load<float>(args.dt, b, t, h));
      }
      if (pair.is_first) args.phase[head * args.angles + pair.angle] = phase.angle + phase.rest;
    }
    if (n >= args.states) continue;
    float cosine = 1;
    float sine = 0;
    if (pair.angle >= 0) sincospif(phase.angle * 0.31830988618379067F, &sine, &cosine);
    for (std::int64_t r = 0; r < args.rank; ++r) {
      args.last_k[(head * args.rank + r) * args.states + n] =
          mamba3_turned<T>(args, args.B, args.B_bias, b, last, h, r, n, pair, cosine, sine);
    }
  }
}

}  // namespace icd
