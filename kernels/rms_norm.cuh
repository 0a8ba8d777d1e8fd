#pragma once

#include <cstdint>

#include "kernels/team_sum.cuh"
#include "kernels/vector.cuh"

namespace icd {

// R rows, C columns, G columns in a group. A segment is one group of one row.

// What a thread of rms_norm_kernel holds of a segment in registers.
constexpr int kNormValues = 32;
constexpr int kNormMaxThreads = 512;

// The sum over a team of `lanes` threads, which is a power of two up to 32, or whole warps.
// Called by all threads of a block; `partial` is shared, a float for each warp. Every lane gets the
// same bits.
__device__ __forceinline__ float team_sum(float value, int lanes, int team, float* partial) {
  value = sum_over_team(value, lanes < 32 ? lanes : 32);
  if (lanes <= 32) return value;
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0F;
  for (int warp = 0; warp < lanes / 32; ++warp) sum += partial[team * (lanes / 32) + warp];
  return sum;
}

// values[k] += elements of vector lane + k * lanes of a segment of the residual.
template <typename R, int kVectors, int kElements>
__device__ __forceinline__ void add_residual(const void* residual, std::int64_t first, int vectors,
                                             int lane, int lanes,
                                             float (&values)[kVectors][kElements]) {
  const auto* from =
      reinterpret_cast<const Vector<R, kElements>*>(static_cast<const R*>(residual) + first);
  Vector<R, kElements> held[kVectors];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int v = lane + k * lanes;
    if (v < vectors) held[k] = load_streaming(from + v);
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    if (lane + k * lanes >= vectors) continue;
    float terms[kElements];
    to_floats(held[k], terms);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[k][e] += terms[e];
  }
}

template <typename R, int kVectors, int kElements>
__device__ __forceinline__ void store_residual(void* residual, std::int64_t first, int vectors,
                                               int lane, int lanes,
                                               const float (&values)[kVectors][kElements]) {
  auto* to = reinterpret_cast<Vector<R, kElements>*>(static_cast<R*>(residual) + first);
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int v = lane + k * lanes;
    if (v < vectors) to[v] = from_floats<R>(values[k]);
  }
}

// Grid: 1-D, a block for `teams` segments. Block: teams * lanes threads, rounded up to whole warps,
// kNormMaxThreads at most. Shared: with an order teams * G elements, and then `teams` is a multiple
// of the groups of a row.
//
// Everything is read once, 16 bytes at a time, all loads of a thread under way before the first is
// used, and stays in registers until it is written. With an order a row goes through shared memory,
// so that reads and writes of global memory still coalesce. What a call does without, its gate or
// its residuals, is left out at compile time: 126 registers otherwise, which halves the loads under
// way.
template <typename T, bool kGates, bool kAdds>
__global__ void __launch_bounds__(kNormMaxThreads)
    rms_norm_kernel(RmsNorm p, int group, int lanes, int teams) {
  constexpr int kElements = kElementsOf16Bytes<T>;
  constexpr int kVectors = kNormValues / kElements;
  using Word = Vector<T, kElements>;
  extern __shared__ __align__(16) unsigned char shared_bytes[];
  __shared__ float partial[kNormMaxThreads / 32];
  const int team = static_cast<int>(threadIdx.x) / lanes;
  const int lane = static_cast<int>(threadIdx.x) - team * lanes;
  const std::int64_t groups = p.columns / group;
  const std::int64_t segment = std::int64_t{blockIdx.x} * teams + team;
  const bool is_in = team < teams && segment < p.rows * groups;
  const int vectors = is_in ? group / kElements : 0;  // threads without work keep the barriers
  const std::int64_t row = segment / groups;
  const std::int64_t column = (segment - row * groups) * group;
  const auto at = [&](const void* data, std::int64_t row_stride) {
    return reinterpret_cast<const Word*>(static_cast<const T*>(data) + row * row_stride + column);
  };

  Word x[kVectors] = {};
  Word z[kGates ? kVectors : 1] = {};
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int v = lane + k * lanes;
    if (v < vectors) x[k] = load_streaming(at(p.x, p.x_row) + v);
  }
  if constexpr (kGates) {
#pragma unroll
    for (int k = 0; k < kVectors; ++k) {
      const int v = lane + k * lanes;
      if (v < vectors) z[k] = load_streaming(at(p.z, p.z_row) + v);
    }
  }
  float values[kVectors][kElements];
#pragma unroll
  for (int k = 0; k < kVectors; ++k) to_floats(x[k], values[k]);

  if constexpr (kAdds) {
    const std::int64_t first = row * p.columns + column;
    if (p.residual != nullptr) {
      if (p.residual_type == ICD_F32) {
        add_residual<float>(p.residual, first, vectors, lane, lanes, values);
      } else if (p.residual_type == ICD_F16) {
        add_residual<__half>(p.residual, first, vectors, lane, lanes, values);
      } else {
        add_residual<__nv_bfloat16>(p.residual, first, vectors, lane, lanes, values);
      }
    }
    if (p.residual_out != nullptr) {
      if (p.residual_type == ICD_F32) {
        store_residual<float>(p.residual_out, first, vectors, lane, lanes, values);
      } else if (p.residual_type == ICD_F16) {
        store_residual<__half>(p.residual_out, first, vectors, lane, lanes, values);
      } else {
        store_residual<__nv_bfloat16>(p.residual_out, first, vectors, lane, lanes, values);
      }
    }
  }

  const auto gate = [&](int k) {
    float gates[kElements];
    to_floats(z[k], gates);
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[k][e] *= silu(gates[e]);
  };
  float squares = 0.0F;
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    if constexpr (kGates) {
      if (p.norm_before_gate == 0) gate(k);
    }
#pragma unroll
    for (int e = 0; e < kElements; ++e) squares = fmaf(values[k][e], values[k][e], squares);
  }
  const float scale =
      rsqrtf(team_sum(squares, lanes, team, partial) / static_cast<float>(group) + p.eps);

  auto* staged = reinterpret_cast<Word*>(shared_bytes) + team * (group / kElements);
  auto* y = reinterpret_cast<Word*>(static_cast<T*>(p.y) + row * p.y_row + column);
  const auto* weights = reinterpret_cast<const Vector<float, kElements>*>(p.weight + column);
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    const int v = lane + k * lanes;
    if (v >= vectors) continue;
#pragma unroll
    for (int e = 0; e < kElements; ++e) values[k][e] *= scale;
    if (p.weight != nullptr) {
      float weight[kElements];
      to_floats(load_shared_input(weights + v), weight);
#pragma unroll
      for (int e = 0; e < kElements; ++e) values[k][e] *= weight[e];
    }
    if constexpr (kGates) {
      if (p.norm_before_gate != 0) gate(k);
    }
    if (p.order != nullptr) {
      staged[v] = from_floats<T>(values[k]);
    } else {
      y[v] = from_floats<T>(values[k]);
    }
  }
  if (p.order == nullptr) return;

  __syncthreads();
  const auto* normed = reinterpret_cast<const T*>(shared_bytes);
  const auto* orders = reinterpret_cast<const Vector<std::int32_t, kElements>*>(p.order);
  const int row_words = static_cast<int>(p.columns) / kElements;
  const int rows_of_block = teams / static_cast<int>(groups);
  const std::int64_t first_row = std::int64_t{blockIdx.x} * rows_of_block;
  const int rows_left =
      static_cast<int>(p.rows - first_row < rows_of_block ? p.rows - first_row : rows_of_block);
  for (int i = threadIdx.x; i < rows_left * row_words; i += blockDim.x) {
    const int r = i / row_words;
    const int w = i - r * row_words;
    const Vector<std::int32_t, kElements> order = orders[w];
    T picked[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      picked[e] = normed[r * static_cast<int>(p.columns) + element_of(order, e)];
    }
    reinterpret_cast<Word*>(static_cast<T*>(p.y) + (first_row + r) * p.y_row)[w] =
        vector_of(picked);
  }
}

// Groups whose scales a block of rms_norm_any_kernel holds at a time.
constexpr int kNormGroupsHeld = 1024;
constexpr int kNormThreads = 256;

// Any size, alignment and type. Grid: any 1-D; blocks stride over rows. Block: kNormThreads.
// Three passes over a row, of which the second and third find it in the caches.
template <typename T>
__global__ void __launch_bounds__(kNormThreads) rms_norm_any_kernel(RmsNorm p, std::int64_t group) {
  constexpr int kWarps = kNormThreads / 32;
  __shared__ float scales[kNormGroupsHeld];
  __shared__ float partial[kWarps];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t groups = p.columns / group;
  // A short group has a warp, a long one the block.
  const int lanes = group < 1024 ? 32 : kNormThreads;
  const int team = thread / lanes;
  const int lane = thread - team * lanes;

  for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    const T* x = static_cast<const T*>(p.x) + row * p.x_row;
    const T* z = static_cast<const T*>(p.z) + row * p.z_row;
    T* y = static_cast<T*>(p.y) + row * p.y_row;
    const auto sum_at = [&](std::int64_t c) {
      float value = to_float(x[c]);
      if (p.residual != nullptr) {
        value += load_any(p.residual_type, p.residual, row * p.columns + c);
      }
      return value;
    };
    const auto gate_at = [&](std::int64_t c) { return silu(to_float(z[c])); };
    const auto normed_at = [&](std::int64_t c, float scale) {
      float value = sum_at(c);
      if (p.z != nullptr && p.norm_before_gate == 0) value *= gate_at(c);
      value *= scale;
      if (p.weight != nullptr) value *= p.weight[c];
      if (p.z != nullptr && p.norm_before_gate != 0) value *= gate_at(c);
      return from_float<T>(value);
    };

    for (std::int64_t held = 0; held < groups; held += kNormGroupsHeld) {
      const int here =
          static_cast<int>(groups - held < kNormGroupsHeld ? groups - held : kNormGroupsHeld);
      for (int first = 0; first < here; first += kNormThreads / lanes) {
        const int g = first + team;
        float squares = 0.0F;
        if (g < here) {
          for (std::int64_t i = lane; i < group; i += lanes) {
            const std::int64_t c = (held + g) * group + i;
            float value = sum_at(c);
            if (p.z != nullptr && p.norm_before_gate == 0) value *= gate_at(c);
            squares = fmaf(value, value, squares);
          }
        }
        const float sum = team_sum(squares, lanes, team, partial);
        if (g < here && lane == 0) {
          scales[g] = rsqrtf(sum / static_cast<float>(group) + p.eps);
        }
        __syncthreads();  // the scales are there, and `partial` is free
      }
      if (p.order == nullptr) {
        const std::int64_t end = (held + here) * group;
        for (std::int64_t c = held * group + thread; c < end; c += kNormThreads) {
          y[c] = normed_at(c, scales[c / group - held]);
        }
      } else {
        for (std::int64_t c = thread; c < p.columns; c += kNormThreads) {
          const std::int64_t from = p.order[c];
          const std::int64_t g = from / group - held;
          if (g >= 0 && g < here) y[c] = normed_at(from, scales[g]);
        }
      }
      __syncthreads();  // the next groups overwrite the scales
    }
    // Last, as it may be the residual itself, which has been read by now.
    if (p.residual_out != nullptr) {
      for (std::int64_t c = thread; c < p.columns; c += kNormThreads) {
        store_any(p.residual_type, p.residual_out, row * p.columns + c, sum_at(c));
      }
    }
  }
}

}  // namespace icd
