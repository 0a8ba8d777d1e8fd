#pragma once

#include "kernels/selective_scan_tile.cuh"

// The design for many channels: every warp does all the work for its channels, from a ring of
// tiles. Two lanes share two neighbouring channels: each holds 8 states of both, and prepares every
// other token (softplus) and finishes it (sum, skip, gate) for both lanes. B and C are widened to
// f32 once for the block. What it costs is instructions, 7.5 for a token and state: 115 for a
// token of a lane, 80 of them the recurrence itself (experiments/scan).
namespace icd {

constexpr int kRingThreads = 128;
constexpr int kRingChannels = kRingThreads;
constexpr int kRingLaneStates = kScanStates / 2;
constexpr int kRingTile = 16;  // tokens
constexpr int kRingStages = 4;
// The two tokens that the lanes of a warp read at a time lie in different banks.
constexpr int kRingRowBytes = kRingChannels * 2 + 64;
constexpr int kRingTensorBytes = kRingTile * kRingRowBytes;  // u, dt and z have one each
constexpr int kRingStageBytes = 3 * kRingTensorBytes + kRingTile * kRawStatesBytes;
constexpr int kRingWideBytes = kRingTile * kWideStates * 4;
constexpr int kRingSharedBytes = kRingStages * kRingStageBytes + 2 * kRingWideBytes;

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
  float2 bias;  // in log2
  float2 skip;
  ScanForm form;
  int half;             // which of the two lanes
  int outputs;          // channels of the two that exist, or less
  int offset;           // bytes of the pair within a row
  T* y;                 // of this lane's next token
  std::int64_t y_pair;  // elements from a pair of tokens to the next
};

// `rows` is the tile's u, at this lane's first token.
template <int kPairs, typename T>
__device__ __forceinline__ RingPrepared<kPairs> prepare(const RingLane<T>& lane,
                                                        const unsigned char* rows) {
  RingPrepared<kPairs> ready;
#pragma unroll
  for (int k = 0; k < kPairs; ++k) {
    const unsigned char* at = rows + 2 * k * kRingRowBytes;
    const auto u = *reinterpret_cast<const unsigned int*>(at);
    const float2 dt = unpack<T>(*reinterpret_cast<const unsigned int*>(at + kRingTensorBytes));
    const float2 u_wide = unpack<T>(u);
    ready.d[k].x = step_log2(fmaf(dt.x, kLog2E, lane.bias.x), lane.form);
    ready.d[k].y = step_log2(fmaf(dt.y, kLog2E, lane.bias.y), lane.form);
    ready.x[k].x = ready.d[k].x * u_wide.x;
    ready.x[k].y = ready.d[k].y * u_wide.y;
    ready.u[k] = u & lane.form.skip_bits;
  }
  return ready;
}

// The recurrence over kPairs pairs of tokens, of which `tokens` exist if not kIsWhole.
// `rows` as in prepare(); `wide` is the first token's B at this lane's states.
template <bool kIsWhole, int kPairs, typename T>
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
    // Each lane keeps its own token's half of the sum and gives away the other's.
    const bool is_second = lane.half != 0;
    float y[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const float kept = is_second ? sum[1][m] : sum[0][m];
      const float given = is_second ? sum[0][m] : sum[1][m];
      y[m] = kept + __shfl_xor_sync(~0U, given, 1);
    }
    const float2 u = unpack<T>(ready.u[k]);
    const float2 z = unpack<T>(*reinterpret_cast<const unsigned int*>(rows + 2 * k * kRingRowBytes +
                                                                      2 * kRingTensorBytes));
    const int outputs = kIsWhole || 2 * k + lane.half < tokens ? lane.outputs : 0;
    store_pair(lane.y, fmaf(y[0], kLn2, lane.skip.x * u.x) * gate(z.x, lane.form),
               fmaf(y[1], kLn2, lane.skip.y * u.y) * gate(z.y, lane.form), outputs);
    lane.y += lane.y_pair;
  }
}

// Where the next tile is copied from: a thread copies 16 bytes of two tokens of u, dt and z, and
// half of them 16 bytes of B or C.
template <typename T>
struct RingSource {
  const T* u;
  const T* dt;
  const T* z;
  const T* states;
  int bytes;  // of the 16 that exist
  int token;  // within the tile
};

template <typename T>
__device__ __forceinline__ RingSource<T> source_of(const SelectiveScan& args, std::int64_t row,
                                                   std::int64_t token, std::int64_t channel) {
  constexpr int kChunks = kRingChannels / 8;
  const int chunk = threadIdx.x % kChunks;
  const std::int64_t first = channel + chunk * 8;
  const std::int64_t left = (args.channels - first) * 2;
  RingSource<T> from;
  from.bytes = left < 0 ? 0 : left < 16 ? static_cast<int>(left) : 16;
  from.token = threadIdx.x / kChunks;
  from.u = element<const T>(args.u, row, token + from.token, first);
  from.dt = element<const T>(args.dt, row, token + from.token, first);
  from.z = element<const T>(args.z, row, token + from.token, first);
  const int part = threadIdx.x % 4;
  from.states =
      element<const T>(part < 2 ? args.B : args.C, row, token + threadIdx.x / 4, part % 2 * 8);
  return from;
}

// Copies the next tile, of which `tokens` exist, and moves on.
template <typename T>
__device__ __forceinline__ void copy_tile(const SelectiveScan& args, RingSource<T>& from,
                                          unsigned char* stage, std::int64_t tokens) {
  constexpr int kChunks = kRingChannels / 8;
  constexpr int kRows = kRingThreads / kChunks;  // at a time
  if (tokens > 0) {
    unsigned char* to = stage + from.token * kRingRowBytes + threadIdx.x % kChunks * 16;
#pragma unroll
    for (int t = 0; t < kRingTile; t += kRows) {
      const int bytes = from.token + t < tokens ? from.bytes : 0;
      unsigned char* row = to + t * kRingRowBytes;
      copy_16(row, from.u + t * args.u.token, bytes);
      copy_16(row + kRingTensorBytes, from.dt + t * args.dt.token, bytes);
      if (args.z.data != nullptr) {
        copy_16(row + 2 * kRingTensorBytes, from.z + t * args.z.token, bytes);
      }
    }
    if (threadIdx.x < kRingTile * 4) {
      copy_16(stage + 3 * kRingTensorBytes + threadIdx.x * 16, from.states,
              threadIdx.x / 4 < tokens ? 16 : 0);
    }
    from.u += kRingTile * args.u.token;
    from.dt += kRingTile * args.dt.token;
    from.z += kRingTile * args.z.token;
    from.states += kRingTile * (threadIdx.x % 4 < 2 ? args.B.token : args.C.token);
  }
  end_copies();
}

template <typename T>
__device__ __forceinline__ void widen_states(const unsigned char* stage, float* wide) {
  static_assert(kRingTile * 8 == kRingThreads, "one piece of four elements for a thread");
  const uint2 raw = *reinterpret_cast<const uint2*>(stage + 3 * kRingTensorBytes + threadIdx.x * 8);
  const float2 low = unpack<T>(raw.x);
  const float2 high = unpack<T>(raw.y);
  *reinterpret_cast<float4*>(wide + threadIdx.x * 4) = make_float4(low.x, low.y, high.x, high.y);
}

// Scans `count` tokens from `token` of batch row `row`.
template <typename T>
__device__ __forceinline__ void scan_tokens(const SelectiveScan& args, RingLane<T>& lane,
                                            unsigned char* shared, std::int64_t row,
                                            std::int64_t token, std::int64_t count,
                                            std::int64_t channel) {
  constexpr int kGroup = 4;  // pairs
  constexpr int kGroupBytes = 2 * kGroup * kRingRowBytes;
  auto* const wide = reinterpret_cast<float*>(shared + kRingStages * kRingStageBytes);
  const auto stage_of = [&](std::int64_t tile) {
    return shared + static_cast<int>(tile % kRingStages) * kRingStageBytes;
  };
  const auto wide_of = [&](std::int64_t tile) {
    return wide + static_cast<int>(tile % 2) * kRingTile * kWideStates;
  };
  const std::int64_t tiles = (count + kRingTile - 1) / kRingTile;
  RingSource<T> from = source_of<T>(args, row, token, channel);
  lane.y = element<T>(args.y, row, token + lane.half, channel + lane.offset / 2);
  lane.y_pair = 2 * args.y.token;

#pragma unroll
  for (int i = 0; i < kRingStages - 1; ++i) {
    copy_tile(args, from, stage_of(i), count - i * kRingTile);
  }
  wait_for_copies<kRingStages - 2>();
  __syncthreads();
  widen_states<T>(shared, wide);
  const int at = lane.half * kRingRowBytes + lane.offset;
  // The softplus of the next group runs inside the recurrence of this one.
  RingPrepared<kGroup> next = prepare<kGroup>(lane, shared + at);
#pragma unroll 1
  for (std::int64_t i = 0; i < tiles; ++i) {
    wait_for_copies<kRingStages - 3>();
    __syncthreads();
    copy_tile(args, from, stage_of(i + kRingStages - 1), count - (i + kRingStages - 1) * kRingTile);
    if (i + 1 < tiles) widen_states<T>(stage_of(i + 1), wide_of(i + 1));
    const unsigned char* rows = stage_of(i) + at;
    const float* states = wide_of(i) + lane.half * kRingLaneStates;
    const std::int64_t left = count - i * kRingTile;
    if (left >= kRingTile) {
#pragma unroll
      for (int t = 0; t < kRingTile; t += 2 * kGroup) {
        const RingPrepared<kGroup> now = next;
        next = prepare<kGroup>(
            lane, t + 2 * kGroup < kRingTile ? rows + kGroupBytes : stage_of(i + 1) + at);
        scan_pairs<true>(lane, now, rows + t * kRingRowBytes, states + t * kWideStates, 0);
      }
    } else {
#pragma unroll 1
      for (int t = 0; t < left; t += 2) {
        const unsigned char* pair = rows + t * kRingRowBytes;
        scan_pairs<false>(lane, prepare<1>(lane, pair), pair, states + t * kWideStates,
                          static_cast<int>(left) - t);
      }
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
// Shared: kRingSharedBytes.
template <typename T, int kBlocks>
__global__ void __launch_bounds__(kRingThreads, kBlocks)
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
    tiles = (args.length + kRingTile - 1) / kRingTile;
    at = slot * share.slot_tiles;
    end = min(at + share.slot_tiles, args.batch * blocks_of_row * tiles);
  }

  RingLane<T> lane;
  lane.half = threadIdx.x % 2;
  lane.offset = threadIdx.x / 2 * 4;
  lane.form = form_of(args);
  if (args.z.data == nullptr) {  // a z of 1 and form_of()'s scale are no gate
    for (int i = threadIdx.x; i < kRingStages * kRingTensorBytes / 2; i += kRingThreads) {
      unsigned char* z = ring + i / (kRingTensorBytes / 2) * kRingStageBytes + 2 * kRingTensorBytes;
      reinterpret_cast<T*>(z)[i % (kRingTensorBytes / 2)] = from_float<T>(1.0F);
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
    const std::int64_t first = (tiles - to) * kRingTile;
    const std::int64_t last = is_cut_behind ? (tiles - from) * kRingTile : tokens.count;

    const std::int64_t own = channel + lane.offset / 2;
    lane.outputs = own + 1 < args.channels ? 2 : own < args.channels ? 1 : 0;
    if (is_cut_ahead) {
      if (threadIdx.x == 0) wait_until_ready(share.is_ready + slot + 1);
      __syncthreads();
    }
    float bias[2];
    float skip[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const bool is_channel = m < lane.outputs;
      bias[m] = is_channel && args.dt_bias != nullptr ? args.dt_bias[own + m] * kLog2E : 0.0F;
      skip[m] = is_channel && args.D != nullptr ? args.D[own + m] : 0.0F;
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

    scan_tokens(args, lane, ring, tokens.row, tokens.first + first, last - first, channel);

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
        } else if (m < lane.outputs && args.final_state != nullptr) {
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
