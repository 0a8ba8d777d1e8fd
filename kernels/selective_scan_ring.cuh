#pragma once

#include "kernels/selective_scan_tile.cuh"

// The design for many channels: every warp does all the work for its channels, from a ring of
// tiles. Two lanes share two neighbouring channels: each holds 8 states of both, and prepares every
// other token (softplus) and finishes it (sum, skip, gate) for both lanes. B and C are widened to
// f32 once for the block. What it costs is instructions: 119 in SASS for a token of a lane,
// 80 of them the recurrence itself (experiments/scan).
namespace icd {

constexpr int kRingThreads = 128;
constexpr int kRingChannels = kRingThreads;
constexpr int kRingLaneStates = kScanStates / 2;
// The two tokens that the lanes of a warp read at a time lie in different banks.
constexpr int kRingRowBytes = kRingChannels * 2 + 64;

// Three tiles are held at least: one scanned, the next, whose first steps are prepared, and one
// under way.
template <int kBlocks_, int kTile_, int kStages_>
struct Ring {
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor
  static constexpr int kTile = kTile_;      // tokens
  static constexpr int kStages = kStages_;
  template <typename T>
  using Copies = TileCopies<T, kRingThreads, kTile, kRingChannels, kRingRowBytes>;
  static constexpr int kTensorBytes = Copies<__half>::kTensorBytes;
  static constexpr int kStageBytes = Copies<__half>::kStageBytes;
  static constexpr int kWideFloats = kTile * kWideStates;
  static constexpr int kSharedBytes = kStages * kStageBytes + 2 * kWideFloats * 4;
  static_assert(kStages >= 3 && kTile % 16 == 0, "two groups of tokens at a time");
};

// How blocks share the work. Without slots, a block scans a sequence of 128 channels, from its
// first token to its last.
//
// With slots (McNaughton's wrap-around rule), all sequences lie behind each other on a line, in
// tiles, which is cut into `slots` equal pieces, each at least as long as a sequence. A sequence
// that is cut lies at the end of slot s and at the beginning of slot s + 1. Slot s + 1 scans its
// first tokens, and does so first; slot s scans the rest, and does so last, from the state that it
// finds in the workspace. Both halves together are no longer than a slot, so there is time
// enough between them and nobody waits in practice.
//
// Blocks draw their slots from the last to the first. So the one that a block may wait for was
// drawn earlier, by a block that runs, and begins with what is waited for: no grid can hang.
struct RingShare {
  int slots;
  std::int64_t slot_tiles;
  int* drawn;     // 0 at the start
  int* is_ready;  // (slots), 0 at the start
  float* states;  // (slots, 16, threads)
};

// What a lane has ready of its token of kPairs pairs of tokens: steps and their products with u, of
// both channels, and u again for the skip.
template <int kPairs>
struct RingPrepared {
  float2 d[kPairs];
  float2 x[kPairs];
  unsigned int u[kPairs];
};

template <typename T>
struct RingLane {
  float a[2][kRingLaneStates];
  float h[2][kRingLaneStates];
  float2 bias;  // times log2(e)
  float2 skip;  // the same: see gate_ln2()
  ScanForm form;
  int half;  // which of the two lanes
  PairOutputs outputs;
  int offset;           // bytes of the pair within a row
  T* y;                 // of this lane's next token
  std::int64_t y_pair;  // elements from a pair of tokens to the next
};

// `rows` is the tile's u, at this lane's first token.
template <typename R, int kPairs, typename T>
__device__ __forceinline__ RingPrepared<kPairs> prepare(const RingLane<T>& lane,
                                                        const unsigned char* rows) {
  RingPrepared<kPairs> ready;
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    const unsigned char* at = rows + 2 * k * kRingRowBytes;
    const auto u = *reinterpret_cast<const unsigned int*>(at);
    const float2 dt = unpack<T>(*reinterpret_cast<const unsigned int*>(at + R::kTensorBytes));
    const float2 u_wide = unpack<T>(u);
    ready.d[k].x = step_log2(fmaf(dt.x, kLog2E, lane.bias.x), lane.form);
    ready.d[k].y = step_log2(fmaf(dt.y, kLog2E, lane.bias.y), lane.form);
    ready.x[k].x = ready.d[k].x * u_wide.x;
    ready.x[k].y = ready.d[k].y * u_wide.y;
    ready.u[k] = u & lane.form.skip_bits;
  }
  return ready;
}

// Each lane keeps its own token's part of the sums and gives away the other's. One predicate for
// all four choices, in assembly: the compiler makes branches of them.
__device__ __forceinline__ float2 sum_of_lanes(const float (&sum)[2][2], int half) {
  float2 kept;
  float2 given;
  asm("{ .reg .pred p; setp.ne.s32 p, %4, 0; selp.f32 %0, %7, %5, p; selp.f32 %1, %8, %6, p; "
      "selp.f32 %2, %5, %7, p; selp.f32 %3, %6, %8, p; }"
      : "=f"(kept.x), "=f"(kept.y), "=f"(given.x), "=f"(given.y)
      : "r"(half), "f"(sum[0][0]), "f"(sum[0][1]), "f"(sum[1][0]), "f"(sum[1][1]));
  return {kept.x + __shfl_xor_sync(~0U, given.x, 1), kept.y + __shfl_xor_sync(~0U, given.y, 1)};
}

// The recurrence over kPairs pairs of tokens, of which `tokens` exist if not kIsWhole; if kIsWhole,
// channels exist in pairs.
// `rows` as in prepare(); `wide` is the first token's B at this lane's states.
template <typename R, bool kIsWhole, int kPairs, typename T>
__device__ __forceinline__ void scan_pairs(RingLane<T>& lane, const RingPrepared<kPairs>& ready,
                                           const unsigned char* rows, const float* wide,
                                           int tokens) {
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    float sum[2][2] = {};  // token, channel
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (!kIsWhole && 2 * k + t >= tokens) break;
      float B[kRingLaneStates];
      float C[kRingLaneStates];
#pragma unroll
      for (int n = 0; n < kRingLaneStates; n += 4) {
        const float* at = wide + (2 * k + t) * kWideStates + n;
        const float4 b = *reinterpret_cast<const float4*>(at);
        const float4 c = *reinterpret_cast<const float4*>(at + kScanStates);
        B[n] = b.x, B[n + 1] = b.y, B[n + 2] = b.z, B[n + 3] = b.w;
        C[n] = c.x, C[n + 1] = c.y, C[n + 2] = c.z, C[n + 3] = c.w;
      }
      const float d[2] = {__shfl_sync(~0U, ready.d[k].x, t, 2),
                          __shfl_sync(~0U, ready.d[k].y, t, 2)};
      const float x[2] = {__shfl_sync(~0U, ready.x[k].x, t, 2),
                          __shfl_sync(~0U, ready.x[k].y, t, 2)};
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int n = 0; n < kRingLaneStates; ++n) {
          lane.h[m][n] = fmaf(fast_exp2(d[m] * lane.a[m][n]), lane.h[m][n], x[m] * B[n]);
          sum[t][m] = n == 0 ? lane.h[m][n] * C[n] : fmaf(lane.h[m][n], C[n], sum[t][m]);
        }
      }
    }
    const float2 y = sum_of_lanes(sum, lane.half);
    const float2 u = unpack<T>(ready.u[k]);
    const float2 z = unpack<T>(
        *reinterpret_cast<const unsigned int*>(rows + 2 * k * kRingRowBytes + 2 * R::kTensorBytes));
    const bool is_token = kIsWhole || 2 * k + lane.half < tokens;
    store_pair(lane.y, fmaf(lane.skip.x, u.x, y.x) * gate_ln2(z.x, lane.form),
               fmaf(lane.skip.y, u.y, y.y) * gate_ln2(z.y, lane.form),
               is_token && lane.outputs.both, !kIsWhole && is_token && lane.outputs.first_only);
    lane.y += lane.y_pair;
  }
}

template <typename R, typename T>
__device__ __forceinline__ void widen_states(const unsigned char* stage, float* wide) {
#pragma unroll
  for (int first = 0; first < R::kTile * 8; first += kRingThreads) {
    const int k = first + threadIdx.x;
    const uint2 raw = *reinterpret_cast<const uint2*>(stage + 3 * R::kTensorBytes + k * 8);
    const float2 low = unpack<T>(raw.x);
    const float2 high = unpack<T>(raw.y);
    *reinterpret_cast<float4*>(wide + k * 4) = make_float4(low.x, low.y, high.x, high.y);
  }
}

// Scans `count` tokens from `token` of batch row `row`.
template <typename R, typename T>
__device__ __forceinline__ void scan_tokens(const SelectiveScan& args, RingLane<T>& lane,
                                            unsigned char* shared, std::int64_t row,
                                            std::int64_t token, std::int64_t count,
                                            std::int64_t channel) {
  constexpr int kGroup = 4;  // pairs
  constexpr int kGroupTokens = 2 * kGroup;
  auto* const wide = reinterpret_cast<float*>(shared + R::kStages * R::kStageBytes);
  const auto stage_of = [&](int tile) { return shared + tile % R::kStages * R::kStageBytes; };
  const auto wide_of = [&](int tile) { return wide + tile % 2 * R::kWideFloats; };
  const int tiles = tiles_of(count, R::kTile);
  typename R::template Copies<T> copies(args, threadIdx.x, row, token, channel);
  lane.y = element<T>(args.y, row, token + lane.half, channel + lane.offset / 2);
  lane.y_pair = 2 * args.y.token;
  // A block that ends in half a pair of channels takes the slow loop throughout.
  const std::int64_t channels = args.channels - channel;
  const bool is_paired = channels >= kRingChannels || channels % 2 == 0;

#pragma unroll
  for (int i = 0; i < R::kStages - 1; ++i) copies.next(stage_of(i), count - i * R::kTile);
  wait_for_copies<R::kStages - 2>();
  __syncthreads();
  widen_states<R, T>(shared, wide);
  const int at = lane.half * kRingRowBytes + lane.offset;
  // The softplus of the next group runs inside the recurrence of this one.
  RingPrepared<kGroup> next = prepare<R, kGroup>(lane, shared + at);
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    wait_for_copies<R::kStages - 3>();
    __syncthreads();
    const std::int64_t left = count - std::int64_t{i} * R::kTile;
    copies.next(stage_of(i + R::kStages - 1), left - (R::kStages - 1) * R::kTile);
    if (i + 1 < tiles) widen_states<R, T>(stage_of(i + 1), wide_of(i + 1));
    const unsigned char* rows = stage_of(i) + at;
    const float* states = wide_of(i) + lane.half * kRingLaneStates;
    if (left >= R::kTile && is_paired) {
#pragma unroll 1
      for (int t = 0; t < R::kTile; t += 2 * kGroupTokens) {
        const unsigned char* second = rows + kGroupTokens * kRingRowBytes;
        const unsigned char* third = t + 2 * kGroupTokens < R::kTile
                                         ? second + kGroupTokens * kRingRowBytes
                                         : stage_of(i + 1) + at;
        RingPrepared<kGroup> now = next;
        next = prepare<R, kGroup>(lane, second);
        scan_pairs<R, true>(lane, now, rows, states, 0);
        now = next;
        next = prepare<R, kGroup>(lane, third);
        scan_pairs<R, true>(lane, now, second, states + kGroupTokens * kWideStates, 0);
        rows += 2 * kGroupTokens * kRingRowBytes;
        states += 2 * kGroupTokens * kWideStates;
      }
    } else {
      const int tokens = left < R::kTile ? static_cast<int>(left) : R::kTile;
#pragma unroll 1
      for (int t = 0; t < tokens; t += 2) {
        const unsigned char* pair = rows + t * kRingRowBytes;
        scan_pairs<R, false>(lane, prepare<R, 1>(lane, pair), pair, states + t * kWideStates,
                             tokens - t);
      }
      if (i + 1 < tiles) next = prepare<R, kGroup>(lane, stage_of(i + 1) + at);
    }
  }
  __syncthreads();  // the next call copies to where slower warps still read
}

// Waits for the state of the sequence that `slot` began. Gives up, loudly, after minutes.
__device__ __forceinline__ void wait_until_ready(const int* is_ready) {
  for (std::int64_t polls = 0; polls < (std::int64_t{1} << 28); ++polls) {
    int now;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(now) : "l"(is_ready) : "memory");
    if (now != 0) return;
    __nanosleep(200);
  }
  __trap();
}

// Grid: share.slots, or a block for every sequence and 128 channels. Block: kRingThreads.
// Shared: R::kSharedBytes.
template <typename T, typename R>
__global__ void __launch_bounds__(kRingThreads, R::kBlocks)
    selective_scan_ring_kernel(const __grid_constant__ SelectiveScan args,
                               const __grid_constant__ RingShare share) {
  extern __shared__ __align__(16) unsigned char ring[];
  __shared__ int drawn;
  const bool is_shared = share.slots > 0;
  const std::int64_t blocks_of_row = (args.channels + kRingChannels - 1) / kRingChannels;

  // The line of all sequences: its unit is a tile, or a whole sequence where none is cut.
  int slot = 0;
  std::int64_t tiles = 1;
  std::int64_t at = blockIdx.x;
  std::int64_t end = at + 1;
  if (is_shared) {
    if (threadIdx.x == 0) drawn = atomicAdd(share.drawn, 1);
    __syncthreads();
    slot = share.slots - 1 - drawn;
    tiles = (args.length + R::kTile - 1) / R::kTile;
    at = slot * share.slot_tiles;
    end = min(at + share.slot_tiles, args.batch * blocks_of_row * tiles);
  }

  RingLane<T> lane;
  lane.half = threadIdx.x % 2;
  lane.offset = threadIdx.x / 2 * 4;
  lane.form = form_of(args);
  if (args.z.data == nullptr) {  // a z of 1 and form_of()'s scale are no gate
    for (int i = threadIdx.x; i < R::kStages * R::kTensorBytes / 2; i += kRingThreads) {
      unsigned char* z = ring + i / (R::kTensorBytes / 2) * R::kStageBytes + 2 * R::kTensorBytes;
      reinterpret_cast<T*>(z)[i % (R::kTensorBytes / 2)] = from_float<T>(1.0F);
    }
  }

#pragma unroll 1
  while (at < end) {
    const std::int64_t sequence = at / tiles;
    const std::int64_t from = at - sequence * tiles;
    const std::int64_t to = min(tiles, from + end - at);
    at += to - from;
    const bool is_cut_behind = from > 0;  // the beginning of a sequence, of which the rest is
                                          // scanned by the slot ahead of this
    const bool is_cut_ahead = to < tiles;
    const std::int64_t b = sequence / blocks_of_row;
    const std::int64_t channel = (sequence - b * blocks_of_row) * kRingChannels;
    const ScanTokens tokens = tokens_of(args, b);
    const std::int64_t first = (tiles - to) * R::kTile;
    const std::int64_t last = is_cut_behind ? (tiles - from) * R::kTile : tokens.count;

    const std::int64_t own = channel + lane.offset / 2;
    lane.outputs = outputs_of(args.channels - own);
    if (is_cut_ahead) {
      if (threadIdx.x == 0) wait_until_ready(share.is_ready + slot + 1);
      __syncthreads();
    }
    float bias[2];
    float skip[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const bool is_channel = own + m < args.channels;
      bias[m] = is_channel && args.dt_bias != nullptr ? args.dt_bias[own + m] * kLog2E : 0.0F;
      skip[m] = is_channel && args.D != nullptr ? args.D[own + m] * kLog2E : 0.0F;
#pragma unroll
      for (int n = 0; n < kRingLaneStates; ++n) {
        const int k = lane.half * kRingLaneStates + n;
        lane.a[m][n] = is_channel ? args.A[(own + m) * kScanStates + k] : 0.0F;
        const std::int64_t place = (b * args.channels + own + m) * kScanStates + k;
        if (is_cut_ahead) {
          lane.h[m][n] = __ldcg(share.states +
                                (std::int64_t{slot + 1} * kScanStates + m * kRingLaneStates + n) *
                                    kRingThreads +
                                threadIdx.x);
        } else {
          lane.h[m][n] = is_channel && args.initial_state != nullptr
                             ? args.initial_state[place] * kLog2E
                             : 0.0F;
        }
      }
    }
    lane.bias = make_float2(bias[0], bias[1]);
    lane.skip = make_float2(skip[0], skip[1]);

    scan_tokens<R>(args, lane, ring, tokens.row, tokens.first + first, last - first, channel);

#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < kRingLaneStates; ++n) {
        const std::int64_t place =
            (b * args.channels + own + m) * kScanStates + lane.half * kRingLaneStates + n;
        if (is_cut_behind) {
          __stcg(share.states +
                     (std::int64_t{slot} * kScanStates + m * kRingLaneStates + n) * kRingThreads +
                     threadIdx.x,
                 lane.h[m][n]);
        } else if (own + m < args.channels && args.final_state != nullptr) {
          args.final_state[place] = lane.h[m][n] * kLn2;
        }
      }
    }
    if (is_cut_behind) {
      __threadfence();
      __syncthreads();
      if (threadIdx.x == 0) {
        asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(share.is_ready + slot), "r"(1)
                     : "memory");
      }
    }
  }
}

}  // namespace icd
