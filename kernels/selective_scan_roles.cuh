#pragma once

#include "kernels/selective_scan_tile.cuh"

// The design for few channels: warps with roles. Consumer warps run nothing but the recurrence,
// with a channel's 16 states over `lanes` lanes. Helper warps copy tiles ahead of them, prepare
// steps, widen B and C, and one tile behind them sum up, skip, gate and write.
//
// What it costs is shared memory: a load of 16 bytes a lane takes 4 wavefronts, and 2 where lanes
// i and i ^ 1, or all lanes i and i ^ 2, want the same (experiments/scan). So all is laid out in
// pieces of 16 bytes: steps of two tokens, four states of B or C of one token or two states of two.
namespace icd {

template <int kLanes_, int kConsumers, int kHelpers, int kTile_, int kBlocks_>
struct Roles {
  static constexpr int kLanes = kLanes_;
  static constexpr int kTile = kTile_;      // tokens
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor
  static constexpr int kLaneStates = kScanStates / kLanes;
  static constexpr int kConsumerThreads = kConsumers * 32;
  static constexpr int kHelperThreads = kHelpers * 32;
  static constexpr int kThreads = kConsumerThreads + kHelperThreads;
  static constexpr int kChannels = kConsumerThreads / kLanes;
  static constexpr int kPairs = kChannels / 2;
  static constexpr int kTokenPairs = kTile / 2;
  static constexpr int kTokensAtOnce = 4 / kLaneStates;   // of B or C, in a piece
  static constexpr int kUnrolled = kLanes == 8 ? 16 : 8;  // tokens of a consumer's loop
  // Tiles that are held: one summed up, one scanned, one prepared, two under way.
  static constexpr int kStages = 5;
  // Padded where helpers that read a pair of channels of every other token would collide.
  static constexpr int kRowBytes = kChannels * 2 + (kPairs == 8 ? 16 : kPairs == 16 ? 32 : 0);
  template <typename T>
  using Copies = TileCopies<T, kHelperThreads, kTile, kChannels, kRowBytes>;
  static constexpr int kTensorBytes = Copies<__half>::kTensorBytes;
  static constexpr int kStageBytes = Copies<__half>::kStageBytes;
  static constexpr int kWideBytes = kTile * kWideStates * 4;
  // What lies between the steps, and the sums, of a pair of tokens and the next: helpers of eight
  // lanes, some at the end of one and some at the beginning of the other, meet all banks.
  static constexpr int kStepsPair = kChannels + kPairs % 8 / 4;
  static constexpr int kStepsBytes = kTokenPairs * kStepsPair * 16;
  // Elements from one lane's sums to the next one's: half a warp's stores meet all banks.
  static constexpr int kSumRow = kChannels + 16 / kLanes;
  static constexpr int kSumsPair = kLanes * kSumRow + kPairs % 8 * 2;
  static constexpr int kSumsBytes = kTokenPairs * kSumsPair * 8;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + 2 * (kWideBytes + kStepsBytes + kSumsBytes) + kChannels * 8;

  static_assert(kLanes == 8 || kLanes == 4, "pieces of 16 bytes");
  static_assert(kSumRow % (32 / kLanes) == 16 / kLanes, "stores of sums without conflicts");
  static_assert(kChannels % 8 == 0 && kTile % kUnrolled == 0 && kRowBytes % 16 == 0,
                "whole copies");
};

// The parts of a block's shared memory. Of the last five, tile i uses half i % 2.
template <typename R>
struct RolesShared {
  unsigned char* stages;
  float4* wide;   // (2, kTile / kTokensAtOnce, B or C, kLanes)
  float4* steps;  // (2, kTokenPairs, kStepsPair): d and x of one token, d and x of the next
  float2* sums;   // (2, kTokenPairs, kSumsPair): rows of every lane, of two tokens
  float2* bias;   // (kPairs), times log2(e)
  float2* skip;   // (kPairs), times log2(e): see gate_ln2()

  __device__ __forceinline__ explicit RolesShared(unsigned char* at)
      : stages(at),
        wide(reinterpret_cast<float4*>(at + R::kStages * R::kStageBytes)),
        steps(wide + 2 * R::kWideBytes / 16),
        sums(reinterpret_cast<float2*>(steps + 2 * R::kStepsBytes / 16)),
        bias(sums + 2 * R::kSumsBytes / 8),
        skip(bias + R::kPairs) {}

  __device__ __forceinline__ unsigned char* stage(int tile) const {
    return stages + tile % R::kStages * R::kStageBytes;
  }
  __device__ __forceinline__ float4* wide_of(int tile) const {
    return wide + tile % 2 * (R::kWideBytes / 16);
  }
  __device__ __forceinline__ float4* steps_of(int tile) const {
    return steps + tile % 2 * (R::kStepsBytes / 16);
  }
  __device__ __forceinline__ float2* sums_of(int tile) const {
    return sums + tile % 2 * (R::kSumsBytes / 8);
  }
};

// Where a channel's steps lie: helpers write those of every other channel at a time, and without
// this every other bank would idle.
__device__ __forceinline__ int step_place(int channel) { return channel ^ ((channel >> 3) & 1); }

template <int kThreads>
__device__ __forceinline__ void meet(int barrier) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(kThreads) : "memory");
}

// ---- Consumers

template <typename R>
struct RolesLane {
  float a[R::kLaneStates];
  float h[R::kLaneStates];
};

// B and C of this lane's states, of the two tokens of pair `pair`.
template <typename R, typename T>
__device__ __forceinline__ void load_states(const float4* wide, int pair, float (&B)[8],
                                            float (&C)[8]) {
  constexpr int kPieces = 2 / R::kTokensAtOnce;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    const float4* at = wide + (pair * kPieces + k) * 2 * R::kLanes;
    const float4 b = at[0];
    const float4 c = at[R::kLanes];
    B[4 * k] = b.x, B[4 * k + 1] = b.y, B[4 * k + 2] = b.z, B[4 * k + 3] = b.w;
    C[4 * k] = c.x, C[4 * k + 1] = c.y, C[4 * k + 2] = c.z, C[4 * k + 3] = c.w;
  }
}

// The recurrence over kUnrolled tokens, of which `tokens` exist if not kIsWhole. `wide` and
// `steps` at this lane's place of the first token, `sums` likewise. Sums are stored at the end,
// since a store ahead of a load keeps the compiler from loading early.
template <bool kIsWhole, typename T, typename R>
__device__ __forceinline__ void scan_steps(RolesLane<R>& lane, const float4* wide,
                                           const float4* steps, float2* sums, int tokens) {
  float2 y[R::kUnrolled / 2];
#pragma unroll
  for (int p = 0; p < R::kUnrolled / 2; ++p) {
    y[p] = make_float2(0.0F, 0.0F);
    if (!kIsWhole && 2 * p >= tokens) break;
    const float4 step = steps[p * R::kStepsPair];
    float B[8];
    float C[8];
    load_states<R, T>(wide, p, B, C);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (!kIsWhole && 2 * p + t >= tokens) break;
      const float d = t == 0 ? step.x : step.z;
      const float x = t == 0 ? step.y : step.w;
      float sum = 0.0F;
#pragma unroll
      for (int n = 0; n < R::kLaneStates; ++n) {
        const int i = t * R::kLaneStates + n;
        lane.h[n] = fmaf(fast_exp2(d * lane.a[n]), lane.h[n], x * B[i]);
        sum = n == 0 ? lane.h[n] * C[i] : fmaf(lane.h[n], C[i], sum);
      }
      (t == 0 ? y[p].x : y[p].y) = sum;
    }
  }
#pragma unroll
  for (int p = 0; p < R::kUnrolled / 2; ++p) sums[p * R::kSumsPair] = y[p];
}

template <typename R, typename T>
__device__ __forceinline__ void consume(const SelectiveScan& args, const RolesShared<R>& shared,
                                        std::int64_t b, std::int64_t channel, std::int64_t count) {
  // Neighbouring lanes have neighbouring channels, the next bits count the parts of a channel: so B
  // and C are the same for lanes i and i ^ 1, and steps are for lanes i and i ^ 2. A load of 16
  // bytes a lane takes 2 wavefronts then, and 4 where neither holds.
  const int part = threadIdx.x / 2 % R::kLanes;
  const int own = threadIdx.x / (2 * R::kLanes) * 2 + threadIdx.x % 2;
  const bool is_channel = channel + own < args.channels;
  const std::int64_t first_state =
      (b * args.channels + channel + own) * kScanStates + part * R::kLaneStates;
  RolesLane<R> lane;
#pragma unroll
  for (int n = 0; n < R::kLaneStates; ++n) {
    lane.a[n] =
        is_channel ? args.A[(channel + own) * kScanStates + part * R::kLaneStates + n] : 0.0F;
    lane.h[n] = is_channel && args.initial_state != nullptr
                    ? args.initial_state[first_state + n] * kLog2E
                    : 0.0F;
  }

  const int tiles = tiles_of(count, R::kTile);
#pragma unroll 1
  for (int i = 0; i < tiles; ++i) {
    meet<R::kThreads>(0);
    const float4* wide = shared.wide_of(i) + part;
    const float4* steps = shared.steps_of(i) + step_place(own);
    float2* sums = shared.sums_of(i) + part * R::kSumRow + own;
    const std::int64_t rest = count - std::int64_t{i} * R::kTile;
    const int left = rest < R::kTile ? static_cast<int>(rest) : R::kTile;
#pragma unroll 1
    for (int t = 0; t < left; t += R::kUnrolled) {
      if (left - t >= R::kUnrolled) {
        scan_steps<true, T>(lane, wide, steps, sums, 0);
      } else {
        scan_steps<false, T>(lane, wide, steps, sums, left - t);
      }
      wide += R::kUnrolled * (R::kWideBytes / 16) / R::kTile;
      steps += R::kUnrolled / 2 * R::kStepsPair;
      sums += R::kUnrolled / 2 * R::kSumsPair;
    }
  }
  meet<R::kThreads>(0);  // the last tile is summed up behind it

  if (!is_channel || args.final_state == nullptr) return;
#pragma unroll
  for (int n = 0; n < R::kLaneStates; ++n) args.final_state[first_state + n] = lane.h[n] * kLn2;
}

// ---- Helpers

// A piece of 16 bytes for a lane: four elements of B or of C, of one token or of two.
template <typename R, typename T>
__device__ __forceinline__ void widen_states(float4* wide, const unsigned char* raw) {
  const int helper = threadIdx.x - R::kConsumerThreads;
#pragma unroll
  for (int first_k = 0; first_k < R::kTile * 8; first_k += R::kHelperThreads) {
    const int k = first_k + helper;
    if (k >= R::kTile * 8) break;
    const int lane = k % R::kLanes;
    const int which = k / R::kLanes % 2;
    const int token = k / (2 * R::kLanes) * R::kTokensAtOnce;
    const unsigned char* at =
        raw + token * kRawStatesBytes + which * kScanStates * 2 + lane * R::kLaneStates * 2;
    const float2 low = unpack<T>(*reinterpret_cast<const unsigned int*>(at));
    const float2 high = unpack<T>(
        *reinterpret_cast<const unsigned int*>(at + (R::kTokensAtOnce == 1 ? 4 : kRawStatesBytes)));
    wide[k] = make_float4(low.x, low.y, high.x, high.y);
  }
}

// Steps of a tile, and its B and C as consumers want them.
template <typename R, typename T>
__device__ __forceinline__ void prepare_tile(const RolesShared<R>& shared, int tile,
                                             const ScanForm& form) {
  const int helper = threadIdx.x - R::kConsumerThreads;
  const unsigned char* stage = shared.stage(tile);
  float4* steps = shared.steps_of(tile);
#pragma unroll
  for (int first_k = 0; first_k < R::kTokenPairs * R::kPairs; first_k += R::kHelperThreads) {
    const int k = first_k + helper;
    if (k >= R::kTokenPairs * R::kPairs) break;
    const int tokens = k / R::kPairs;
    const int pair = k % R::kPairs;
    const unsigned char* at = stage + 2 * tokens * R::kRowBytes + pair * 4;
    const float2 bias = shared.bias[pair];
    float2 d[2];  // (token), of two channels
    float2 x[2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const float2 u = unpack<T>(*reinterpret_cast<const unsigned int*>(at + t * R::kRowBytes));
      const float2 dt = unpack<T>(
          *reinterpret_cast<const unsigned int*>(at + t * R::kRowBytes + R::kTensorBytes));
      d[t].x = step_log2(fmaf(dt.x, kLog2E, bias.x), form);
      d[t].y = step_log2(fmaf(dt.y, kLog2E, bias.y), form);
      x[t].x = d[t].x * u.x;
      x[t].y = d[t].y * u.y;
    }
    const int place = step_place(2 * pair);
    float4* to = steps + tokens * R::kStepsPair;
    to[place] = make_float4(d[0].x, x[0].x, d[1].x, x[1].x);
    to[place ^ 1] = make_float4(d[0].y, x[0].y, d[1].y, x[1].y);
  }

  const unsigned char* raw = stage + 3 * R::kTensorBytes;
  widen_states<R, T>(shared.wide_of(tile), raw);
}

// Outputs of a tile, of which `tokens` exist. `y` is the tile's first token, at the first channel.
template <typename R, typename T>
__device__ __forceinline__ void finish_tile(const RolesShared<R>& shared, int tile,
                                            const ScanForm& form, bool is_gated, T* y,
                                            std::int64_t y_token, std::int64_t tokens,
                                            std::int64_t channels) {
  const int helper = threadIdx.x - R::kConsumerThreads;
  const unsigned char* stage = shared.stage(tile);
  const float2* sums = shared.sums_of(tile);
  const unsigned int no_gate = pack<T>(1.0F, 1.0F);  // see form_of(); a branch would cost more
#pragma unroll
  for (int first_k = 0; first_k < R::kTokenPairs * R::kPairs; first_k += R::kHelperThreads) {
    const int k = first_k + helper;
    if (k >= R::kTokenPairs * R::kPairs) break;
    const int first = k / R::kPairs * 2;
    const int pair = k % R::kPairs;
    const float2* from = sums + k / R::kPairs * R::kSumsPair + 2 * pair;
    float4 sum = *reinterpret_cast<const float4*>(from);  // channel, token
#pragma unroll
    for (int lane = 1; lane < R::kLanes; ++lane) {
      const float4 more = *reinterpret_cast<const float4*>(from + lane * R::kSumRow);
      sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
    }
    const float2 skip = shared.skip[pair];
    const PairOutputs outputs = outputs_of(channels - 2 * pair);
    T* const to = y + first * y_token + 2 * pair;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const unsigned char* at = stage + (first + t) * R::kRowBytes + pair * 4;
      const float2 u = unpack<T>(*reinterpret_cast<const unsigned int*>(at) & form.skip_bits);
      const auto z_of = *reinterpret_cast<const unsigned int*>(at + 2 * R::kTensorBytes);
      const float2 z = unpack<T>(is_gated ? z_of : no_gate);
      const float low = fmaf(skip.x, u.x, t == 0 ? sum.x : sum.y);
      const float high = fmaf(skip.y, u.y, t == 0 ? sum.z : sum.w);
      const bool is_token = first + t < tokens;
      store_pair(to + t * y_token, low * gate_ln2(z.x, form), high * gate_ln2(z.y, form),
                 is_token && outputs.both, is_token && outputs.first_only);
    }
  }
}

template <typename R, typename T>
__device__ __forceinline__ void help(const SelectiveScan& args, const RolesShared<R>& shared,
                                     const ScanTokens& tokens, std::int64_t channel) {
  const int helper = threadIdx.x - R::kConsumerThreads;
  const ScanForm form = form_of(args);
  const std::int64_t channels = args.channels - channel;
  typename R::template Copies<T> copies(args, helper, tokens.row, tokens.first, channel);
  const int tiles = tiles_of(tokens.count, R::kTile);
#pragma unroll
  for (int i = 0; i < R::kStages - 2; ++i) {
    copies.next(shared.stage(i), tokens.count - i * R::kTile);
  }
  for (int c = helper; c < R::kChannels; c += R::kHelperThreads) {
    const bool is_channel = c < channels;
    reinterpret_cast<float*>(shared.bias)[c] =
        is_channel && args.dt_bias != nullptr ? args.dt_bias[channel + c] * kLog2E : 0.0F;
    reinterpret_cast<float*>(shared.skip)[c] =
        is_channel && args.D != nullptr ? args.D[channel + c] * kLog2E : 0.0F;
  }
  wait_for_copies<R::kStages - 3>();
  meet<R::kHelperThreads>(1);
  prepare_tile<R, T>(shared, 0, form);
  // Consumers scan tile i meanwhile.
#pragma unroll 1
  for (int i = 0; i <= tiles; ++i) {
    wait_for_copies<R::kStages - 4>();
    meet<R::kThreads>(0);
    copies.next(shared.stage(i + R::kStages - 2),
                tokens.count - (std::int64_t{i} + R::kStages - 2) * R::kTile);
    if (i + 1 < tiles) prepare_tile<R, T>(shared, i + 1, form);
    if (i > 0) {
      const std::int64_t first = std::int64_t{i - 1} * R::kTile;
      finish_tile<R, T>(shared, i - 1, form, args.z.data != nullptr,
                        element<T>(args.y, tokens.row, tokens.first + first, channel), args.y.token,
                        tokens.count - first, channels);
    }
  }
}

// Grid: a block for every sequence and R::kChannels channels. Block: R::kThreads.
// Shared: R::kSharedBytes.
template <typename T, typename R>
__global__ void __launch_bounds__(R::kThreads, R::kBlocks)
    selective_scan_roles_kernel(const __grid_constant__ SelectiveScan args) {
  extern __shared__ __align__(16) unsigned char roles[];
  const RolesShared<R> shared(roles);
  const std::int64_t blocks_of_row = (args.channels + R::kChannels - 1) / R::kChannels;
  const std::int64_t b = blockIdx.x / blocks_of_row;
  const std::int64_t channel = (blockIdx.x - b * blocks_of_row) * R::kChannels;
  const ScanTokens tokens = tokens_of(args, b);
  if (threadIdx.x < R::kConsumerThreads) {
    consume<R, T>(args, shared, b, channel, tokens.count);
  } else {
    help<R, T>(args, shared, tokens, channel);
  }
}

}  // namespace icd
