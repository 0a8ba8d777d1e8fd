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

// How many tokens a thread of causal_conv1d_walk_kernel loads at a time; it has two such groups
// under way.
constexpr int kConvGroup = 4;
// Blocks of it that a multiprocessor has to hold: 128 registers a thread. Left alone the compiler
// takes 254 for overlaps that other warps provide.
constexpr int kConvBlocks = 4;

// The work of causal_conv1d_walk_kernel: vectors of channels times stretches of the tokens of a
// row.
struct ConvWalk {
  std::int64_t first_channel;
  std::int64_t vectors;
  std::int64_t stretches;
  int tokens;         // in a stretch
  int final_is_ours;  // else causal_conv1d_states_kernel writes the final states
};

// The past of token t, for the channels from c on. `from` is where their elements of token t would
// be. What a width has less than kPast tokens is 0.
template <typename T, int kElements, int kPast>
__device__ __forceinline__ void load_past(const CausalConv1d& p, const Sequence& s, std::int64_t t,
                                          std::int64_t c, const T* from,
                                          Vector<T, kElements> (&past)[kPast]) {
#pragma unroll
  for (int k = 0; k < kPast; ++k) {
    const int back = kPast - k;
    if (back >= p.width) {
      past[k] = {};
    } else if (t - back >= s.first) {
      past[k] = *reinterpret_cast<const Vector<T, kElements>*>(from - back * p.x.token);
    } else {
      T elements[kElements];
#pragma unroll
      for (int e = 0; e < kElements; ++e) elements[e] = conv_input<T>(p, s, t - back, c + e);
      past[k] = vector_of(elements);
    }
  }
}

// Grid: 1-D, a thread for every vector and stretch, vectors side by side: for tensors whose
// channels are. kTaps is W, or 0: any.
//
// A thread holds its weights and a window of tokens in registers and walks along its stretch, so
// that a token is read once, but for the W - 1 ahead of each stretch, which the caches have. Two
// groups of tokens are under way: one is computed while the other arrives.
template <typename T, int kElements, int kTaps, bool kSilu>
__global__ void __launch_bounds__(kConvThreads, kConvBlocks)
    causal_conv1d_walk_kernel(CausalConv1d p, ConvWalk walk) {
  constexpr int kMost = kTaps == 0 ? kMaxTaps : kTaps;
  constexpr int kPast = kMost - 1;
  using Word = Vector<T, kElements>;
  const std::int64_t item = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  const std::int64_t stretch = item / walk.vectors;
  const std::int64_t c = walk.first_channel + (item - stretch * walk.vectors) * kElements;
  const std::int64_t row = stretch / walk.stretches;
  if (row >= (p.starts == nullptr ? p.batch : 1)) return;
  std::int64_t t = (stretch - row * walk.stretches) * walk.tokens;
  const std::int64_t end = t + walk.tokens < p.length ? t + walk.tokens : p.length;

  float weight[kMost][kElements];
  float bias[kElements] = {};
  if constexpr (kTaps == 0) {
    static_assert(kElements == 1, "any width: a channel a thread");
    const int none = kMaxTaps - static_cast<int>(p.width);
#pragma unroll
    for (int k = 0; k < kMost; ++k) {
      weight[k][0] =
          k < none ? 0.0F : to_float(static_cast<const T*>(p.weight)[c * p.width + k - none]);
    }
    if (p.bias != nullptr) bias[0] = to_float(static_cast<const T*>(p.bias)[c]);
  } else {
    Word words[kTaps];  // the weights of kElements channels, as they lie
#pragma unroll
    for (int k = 0; k < kTaps; ++k) {
      words[k] = reinterpret_cast<const Word*>(static_cast<const T*>(p.weight) + c * kTaps)[k];
    }
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        const int i = e * kTaps + k;
        weight[k][e] = to_float(element_of(words[i / kElements], i % kElements));
      }
    }
    if (p.bias != nullptr) {
      to_floats(load_shared_input(reinterpret_cast<const Word*>(static_cast<const T*>(p.bias) + c)),
                bias);
    }
  }

  while (t < end) {
    const Sequence s = sequence_of(p, row, t);
    const std::int64_t stop = s.end < end ? s.end : end;
    if (stop <= t) return;  // starts that do not reach to the length
    const int left = static_cast<int>(stop - t);
    const T* from =
        static_cast<const T*>(p.x.data) + row * p.x.batch + t * p.x.token + c * p.x.channel;
    T* to = static_cast<T*>(p.y.data) + row * p.y.batch + t * p.y.token + c * p.y.channel;

    const T* next = from;
    Word ahead[2][kConvGroup] = {};
    const auto load_group = [&](Word(&group)[kConvGroup], int first) {
#pragma unroll
      for (int u = 0; u < kConvGroup; ++u) {
        if (first + u < left) group[u] = *reinterpret_cast<const Word*>(next);
        next += p.x.token;
      }
    };
    load_group(ahead[0], 0);
    load_group(ahead[1], kConvGroup);

    float window[kPast][kElements];
    {
      Word past[kPast];
      load_past(p, s, t, c, from, past);
#pragma unroll
      for (int k = 0; k < kPast; ++k) to_floats(past[k], window[k]);
    }

    // Tokens behind the last are computed too, and not stored, which spares a branch for each.
    const auto convolve_group = [&](const Word(&group)[kConvGroup], int first) {
#pragma unroll
      for (int u = 0; u < kConvGroup; ++u) {
        float x[kElements];
        to_floats(group[u], x);
        float sum[kElements];
#pragma unroll
        for (int e = 0; e < kElements; ++e) sum[e] = bias[e];
#pragma unroll
        for (int k = 0; k < kPast; ++k) {
          // A tap that a width has not must not meet an infinity.
          if (kTaps == 0 && k < kMaxTaps - static_cast<int>(p.width)) continue;
#pragma unroll
          for (int e = 0; e < kElements; ++e) {
            sum[e] = fmaf(weight[k][e], window[k][e], sum[e]);
          }
        }
#pragma unroll
        for (int e = 0; e < kElements; ++e) {
          sum[e] = fmaf(weight[kPast][e], x[e], sum[e]);
          if (kSilu) sum[e] = silu(sum[e]);
#pragma unroll
          for (int k = 0; k + 1 < kPast; ++k) window[k][e] = window[k + 1][e];
          window[kPast - 1][e] = x[e];
        }
        if (first + u < left) *reinterpret_cast<Word*>(to) = from_floats<T>(sum);
        to += p.y.token;
      }
    };
    for (int first = 0; first < left; first += 2 * kConvGroup) {
      convolve_group(ahead[0], first);
      load_group(ahead[0], first + 2 * kConvGroup);
      convolve_group(ahead[1], first + kConvGroup);
      load_group(ahead[1], first + 3 * kConvGroup);
    }

    if constexpr (kTaps > 1) {
      if (walk.final_is_ours != 0 && stop == s.end) {
        Word past[kPast];
        load_past(p, s, stop, c, from + left * p.x.token, past);
        T state[kElements * kPast];  // (kElements, kPast)
#pragma unroll
        for (int i = 0; i < kElements * kPast; ++i) {
          state[i] = element_of(past[i % kPast], i / kPast);
        }
        auto* final_state = reinterpret_cast<Word*>(static_cast<T*>(p.final_state) +
                                                    (s.index * p.channels + c) * kPast);
#pragma unroll
        for (int k = 0; k < kPast; ++k) {
          T part[kElements];
#pragma unroll
          for (int e = 0; e < kElements; ++e) part[e] = state[k * kElements + e];
          final_state[k] = vector_of(part);
        }
      }
    }
    t = stop;
  }
}

// What a thread of causal_conv1d_tokens_kernel has under way.
constexpr int kConvVectors = 4;

// Tokens side by side, without starts. Grid: 1-D; a team of `lanes` threads, a power of two up to
// 32, has a piece of kConvVectors * lanes vectors of the tokens of a channel. A vector's past is
// the end of the vector ahead of it, which a neighbour loads too: the caches see to that.
template <typename T, int kTaps, bool kSilu>
__global__ void __launch_bounds__(kConvThreads)
    causal_conv1d_tokens_kernel(CausalConv1d p, std::int64_t pieces, int lanes) {
  constexpr int kElements = kElementsOf16Bytes<T>;
  constexpr int kPast = kTaps - 1;
  static_assert(kPast <= kElements, "the past of a vector is in the one ahead of it");
  using Word = Vector<T, kElements>;
  const int lane = static_cast<int>(threadIdx.x) & (lanes - 1);
  const std::int64_t team =
      std::int64_t{blockIdx.x} * (kConvThreads / lanes) + static_cast<int>(threadIdx.x) / lanes;
  const std::int64_t r = team / pieces;
  const std::int64_t row = r / p.channels;
  const std::int64_t c = r - row * p.channels;
  if (row >= p.batch) return;
  const Sequence s{row, row, 0, p.length};
  const T* from = static_cast<const T*>(p.x.data) + row * p.x.batch + c * p.x.channel;
  T* to = static_cast<T*>(p.y.data) + row * p.y.batch + c * p.y.channel;
  const std::int64_t first = ((team - r * pieces) * lanes * kConvVectors + lane) * kElements;

  Word here[kConvVectors] = {};
  Word ahead_of[kConvVectors] = {};
#pragma unroll
  for (int k = 0; k < kConvVectors; ++k) {
    const std::int64_t t = first + std::int64_t{k} * lanes * kElements;
    if (t >= p.length) continue;
    T elements[kElements] = {};
    if (t + kElements <= p.length) {
      here[k] = *reinterpret_cast<const Word*>(from + t);
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (t + e < p.length) elements[e] = from[t + e];
      }
      here[k] = vector_of(elements);
    }
    if (t > 0) {
      ahead_of[k] = *reinterpret_cast<const Word*>(from + t - kElements);
    } else {
#pragma unroll
      for (int e = kElements - kPast; e < kElements; ++e) {
        elements[e] = conv_input<T>(p, s, e - kElements, c);
      }
      ahead_of[k] = vector_of(elements);
    }
  }
  float weight[kTaps];
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    weight[k] = to_float(static_cast<const T*>(p.weight)[c * kTaps + k]);
  }
  const float bias = p.bias == nullptr ? 0.0F : to_float(static_cast<const T*>(p.bias)[c]);

#pragma unroll
  for (int k = 0; k < kConvVectors; ++k) {
    const std::int64_t t = first + std::int64_t{k} * lanes * kElements;
    if (t >= p.length) continue;
    float past[kElements];
    float x[kElements];
    to_floats(ahead_of[k], past);
    to_floats(here[k], x);
    const auto tap = [&](int i) { return i < 0 ? past[kElements + i] : x[i]; };
    float sum[kElements];
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      sum[e] = bias;
#pragma unroll
      for (int i = 0; i < kTaps; ++i) sum[e] = fmaf(weight[i], tap(e - kPast + i), sum[e]);
      if (kSilu) sum[e] = silu(sum[e]);
    }
    const Word y = from_floats<T>(sum);
    if (t + kElements <= p.length) {
      *reinterpret_cast<Word*>(to + t) = y;
    } else {
#pragma unroll
      for (int e = 0; e < kElements; ++e) {
        if (t + e < p.length) to[t + e] = element_of(y, e);
      }
    }
  }
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

// As causal_conv1d_update_kernel for W = 4 and states of 4, as mamba-ssm keeps them: the state and
// the weights of a channel are one load each.
template <typename T>
__global__ void __launch_bounds__(kConvThreads)
    causal_conv1d_update4_kernel(CausalConv1dUpdate p, std::int64_t rows) {
  constexpr int kTaps = 4;
  using Word = Vector<T, kTaps>;
  const std::int64_t i = std::int64_t{blockIdx.x} * kConvThreads + threadIdx.x;
  if (i >= rows) return;
  const std::int64_t b = i / p.channels;
  const std::int64_t c = i - b * p.channels;
  const std::int64_t slot = p.slots == nullptr ? b : p.slots[b];
  if (slot < 0) return;
  auto* state =
      reinterpret_cast<Word*>(static_cast<T*>(p.state) + slot * p.state_slot + c * p.state_channel);
  const Word old = *state;
  const Word weights = static_cast<const Word*>(p.weight)[c];
  const T x = static_cast<const T*>(p.x.data)[b * p.x.batch + c * p.x.channel];
  const T shifted[kTaps] = {element_of(old, 1), element_of(old, 2), element_of(old, 3), x};
  float sum = p.bias == nullptr ? 0.0F : to_float(static_cast<const T*>(p.bias)[c]);
#pragma unroll
  for (int k = 0; k < kTaps; ++k) {
    sum = fmaf(to_float(element_of(weights, k)), to_float(shifted[k]), sum);
  }
  *state = vector_of(shifted);
  static_cast<T*>(p.y.data)[b * p.y.batch + c * p.y.channel] =
      from_float<T>(p.silu != 0 ? silu(sum) : sum);
}

}  // namespace icd
