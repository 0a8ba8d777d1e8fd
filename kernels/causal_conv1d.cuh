#pragma once

#include <cstdint>

#include "kernels/vector.cuh"

namespace icd {

// W taps; the W - 1 tokens ahead of a token are its past.

constexpr int kConvThreads = 128;
constexpr int kMaxTaps = 8;

// The tokens of a sequence: [first, end) of batch row `row`.
struct Sequence {
  std::int64_t index;  // into states
  std::int64_t row;
  std::int64_t first;
  std::int64_t end;
};

// The sequence that token t of a row belongs to. With starts, sequences may be empty.
__device__ __forceinline__ Sequence sequence_of(const CausalConv1d& p, std::int64_t row,
                                                std::int64_t t) {
  if (p.starts == nullptr) return {row, row, 0, p.length};
  std::int64_t low = 0;  // starts[low] <= t < starts[high]
  std::int64_t high = p.batch;
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    if (p.starts[middle] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return {low, 0, p.starts[low], p.starts[low + 1]};
}

// Element at (t, c) of a sequence, or of what is ahead of it. t >= first - (W - 1).
template <typename T>
__device__ __forceinline__ T conv_input(const CausalConv1d& p, const Sequence& s, std::int64_t t,
                                        std::int64_t c) {
  if (t >= s.first) {
    return static_cast<const T*>(p.x.data)[s.row * p.x.batch + t * p.x.token + c * p.x.channel];
  }
  if (p.initial_state == nullptr) return from_float<T>(0.0F);
  const std::int64_t past = p.width - 1;
  return static_cast<const T*>(
      p.initial_state)[(s.index * p.channels + c) * past + past + t - s.first];
}

// Any strides, alignment, width and starts. Grid: 1-D, a thread for every output, tokens of a
// channel side by side: for tensors whose tokens are.
template <typename T>
__global__ void __launch_bounds__(kConvThreads)
    causal_conv1d_any_kernel(CausalConv1d p, std::int64_t outputs) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  if (i >= outputs) return;
  const std::int64_t r = i / p.length;
  const std::int64_t t = i - r * p.length;
  const std::int64_t row = r / p.channels;
  const std::int64_t c = r - row * p.channels;
  const Sequence s = sequence_of(p, row, t);
  const T* weight = static_cast<const T*>(p.weight) + c * p.width;
  float sum = p.bias == nullptr ? 0.0F : to_float(static_cast<const T*>(p.bias)[c]);
  for (int k = 0; k < static_cast<int>(p.width); ++k) {
    sum = fmaf(to_float(weight[k]), to_float(conv_input<T>(p, s, t - p.width + 1 + k, c)), sum);
  }
  static_cast<T*>(p.y.data)[s.row * p.y.batch + t * p.y.token + c * p.y.channel] =
      from_float<T>(p.silu != 0 ? silu(sum) : sum);
}

// The past of the token behind a sequence, of one channel. All of it is read before the first is
// written, as the states may be the same.
template <typename T>
__device__ __forceinline__ void store_final_state(const CausalConv1d& p, const Sequence& s,
                                                  std::int64_t c) {
  const int past = static_cast<int>(p.width) - 1;
  T held[kMaxTaps - 1];
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k) {
    if (k < past) held[k] = conv_input<T>(p, s, s.end - past + k, c);
  }
  T* to = static_cast<T*>(p.final_state) + (s.index * p.channels + c) * past;
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k) {
    if (k < past) to[k] = held[k];
  }
}

// Grid: 1-D, a thread for every sequence and channel. In a launch of its own, behind the one that
// reads the initial states: other blocks may want them.
template <typename T>
__global__ void __launch_bounds__(kConvThreads)
    causal_conv1d_states_kernel(CausalConv1d p, std::int64_t states) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  if (i >= states) return;
  const std::int64_t b = i / p.channels;
  const Sequence s = p.starts == nullptr ? Sequence{b, b, 0, p.length}
                                         : Sequence{b, 0, p.starts[b], p.starts[b + 1]};
  store_final_state<T>(p, s, i - b * p.channels);
}

// Grid: 1-D, a thread for every sequence and channel.
template <typename T>
__global__ void __launch_bounds__(kConvThreads)
    causal_conv1d_update_kernel(CausalConv1dUpdate p, std::int64_t rows) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  if (i >= rows) return;
  const std::int64_t b = i / p.channels;
  const std::int64_t c = i - b * p.channels;
  const std::int64_t slot = p.slots == nullptr ? b : p.slots[b];
  if (slot < 0) return;
  const int past = static_cast<int>(p.width) - 1;
  T* state = static_cast<T*>(p.state) + slot * p.state_slot + c * p.state_channel;
  T* used = state + p.kept - past;
  const T x = static_cast<const T*>(p.x.data)[b * p.x.batch + c * p.x.channel];
  const T* weight = static_cast<const T*>(p.weight) + c * p.width;

  float sum = p.bias == nullptr ? 0.0F : to_float(static_cast<const T*>(p.bias)[c]);
  T held[kMaxTaps - 1];
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k) {
    if (k < past) held[k] = used[k];
  }
#pragma unroll
  for (int k = 0; k < kMaxTaps - 1; ++k) {
    if (k < past) sum = fmaf(to_float(weight[k]), to_float(held[k]), sum);
  }
  sum = fmaf(to_float(weight[past]), to_float(x), sum);

  // What is older than the past moves too. With W = 1 there is no `used` to move in.
  const std::int64_t older = past > 0 ? p.kept - past : p.kept - 1;
  for (std::int64_t k = 0; k < older; ++k) state[k] = state[k + 1];
#pragma unroll
  for (int k = 0; k < kMaxTaps - 2; ++k) {
    if (k + 1 < past) used[k] = held[k + 1];
  }
  if (p.kept > 0) state[p.kept - 1] = x;
  static_cast<T*>(p.y.data)[b * p.y.batch + c * p.y.channel] =
      from_float<T>(p.silu != 0 ? silu(sum) : sum);
}

}  // namespace icd
