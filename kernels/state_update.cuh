#pragma once

#include <cstdint>

#include "kernels/element.cuh"
#include "kernels/pack.cuh"

namespace icd {

// B batch rows, D channels, N states, K updated channels (all, or the active ones). State type S,
// all others T. In mamba-2 a channel is one of the P of a head.

constexpr int kUpdateThreads = 64;
constexpr int kUpdateRows = 4;  // batch rows whose states a thread has under way
constexpr int kChannelThreads = 128;
constexpr int kChannelStates = 16;
constexpr int kChannelRows = 2;
constexpr int kHeadThreads = 128;
constexpr int kHeadRows = 4;  // rows of a head's state that a thread has under way

// Sums `values` over the `lanes` neighbouring threads of a team; lanes is a power of two to 32.
// All threads of the warp take part.
template <int kCount>
__device__ __forceinline__ void sum_over_team(float (&values)[kCount], int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] += __shfl_xor_sync(0xFFFFFFFFU, values[i], offset);
    }
  }
}

// exp(dt A) h + (dt u) B for the states of one lane; `decay` is A log2(e). Returns its part of C h.
template <int kCount>
__device__ __forceinline__ float step(float (&h)[kCount], const float (&decay)[kCount], float dt,
                                      float x, const float (&B)[kCount], const float (&C)[kCount]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    h[i] = fmaf(fast_exp2(dt * decay[i]), h[i], x * B[i]);
    sum = fmaf(C[i], h[i], sum);
  }
  return sum;
}

// State (slots, D, N), N a multiple of the elements of 16 bytes.
// Grid: 1-D, channel_blocks times pieces of `piece` batch rows. Block: kUpdateThreads.
// A team of `lanes` threads, a power of two, holds a channel, 16 bytes of its state a lane: whole
// sectors whatever channels are active. Its A is read once for all batch rows of the block.
template <typename T, typename S>
__global__ void __launch_bounds__(kUpdateThreads, 12)
    state_update_kernel(const StateUpdate args, std::int64_t updated, std::int64_t channel_blocks,
                        std::int64_t piece, int lanes) {
  constexpr int kVector = 16 / sizeof(S);
  const int lane = threadIdx.x & (lanes - 1);
  const int n = lane * kVector;
  const std::int64_t k =
      blockIdx.x % channel_blocks * (kUpdateThreads / lanes) + threadIdx.x / lanes;
  const std::int64_t first = blockIdx.x / channel_blocks * piece;
  const std::int64_t last = first + piece < args.batch ? first + piece : args.batch;
  const bool has_states = k < updated && n < args.states;

  std::int64_t d = 0;
  float decay[kVector] = {};
  float skip = 0;
  float bias = 0;
  if (has_states) {
    d = args.active != nullptr ? __ldg(args.active + k) : k;
    unpack(read_pack<float, kVector>(args.A + d * args.states + n), decay);
#pragma unroll
    for (int i = 0; i < kVector; ++i) decay[i] *= kLog2E;
    if (args.D != nullptr) skip = __ldg(args.D + d);
    if (args.dt_bias != nullptr) bias = __ldg(args.dt_bias + d);
  }
  const T* u_of = static_cast<const T*>(args.u.data) + d * args.u.channel;
  const T* dt_of = static_cast<const T*>(args.dt.data) + d * args.dt.channel;
  const T* z_of = static_cast<const T*>(args.z.data) + d * args.z.channel;
  const T* B_of = static_cast<const T*>(args.B.data) + n;
  const T* C_of = static_cast<const T*>(args.C.data) + n;
  T* y_of = static_cast<T*>(args.y.data) + d * args.y.channel;
  S* state_of = static_cast<S*>(args.state) + d * args.states + n;
  const std::int64_t slot_elements = args.channels * args.states;

  for (std::int64_t b0 = first; b0 < last; b0 += kUpdateRows) {
    std::int64_t slot[kUpdateRows];
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      slot[r] = -1;
      if (has_states && b0 + r < last) {
        slot[r] = args.slots != nullptr ? __ldg(args.slots + b0 + r) : b0 + r;
      }
    }
    Pack<S, kVector> held[kUpdateRows];
    float u[kUpdateRows] = {};
    float dt[kUpdateRows] = {};
    float z[kUpdateRows] = {};
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      if (slot[r] < 0) continue;
      held[r] = load_pack<S, kVector>(state_of + slot[r] * slot_elements);
      u[r] = to_float(u_of[(b0 + r) * args.u.batch]);
      dt[r] = to_float(dt_of[(b0 + r) * args.dt.batch]);
      if (args.z.data != nullptr) z[r] = to_float(z_of[(b0 + r) * args.z.batch]);
    }
    float sum[kUpdateRows] = {};
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      if (slot[r] < 0) continue;
      float B[kVector];
      float C[kVector];
      unpack(read_pack<T, kVector>(B_of + (b0 + r) * args.B.batch), B);
      unpack(read_pack<T, kVector>(C_of + (b0 + r) * args.C.batch), C);
      const float delta = args.softplus != 0 ? softplus(dt[r] + bias) : dt[r] + bias;
      float h[kVector];
      unpack(held[r], h);
      sum[r] = step(h, decay, delta, delta * u[r], B, C);
      pack_up(h, held[r]);
      store_pack(state_of + slot[r] * slot_elements, held[r]);
    }
    sum_over_team(sum, lanes);
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      if (slot[r] < 0 || lane != 0) continue;
      float y = args.D != nullptr ? fmaf(skip, u[r], sum[r]) : sum[r];
      if (args.z.data != nullptr) y *= silu(z[r]);
      y_of[(b0 + r) * args.y.batch] = from_float<T>(y);
    }
  }
}

// State (slots, N, D), N = kChannelStates.
// Grid: 1-D, channel_blocks times pieces of `piece` batch rows. Block: kChannelThreads.
// A thread is a channel: neighbouring channels share sectors, as far as the active ones are
// neighbours.
template <typename T, typename S>
__global__ void __launch_bounds__(kChannelThreads, 5)
    channel_state_update_kernel(const StateUpdate args, std::int64_t updated,
                                std::int64_t channel_blocks, std::int64_t piece) {
  const std::int64_t k = blockIdx.x % channel_blocks * kChannelThreads + threadIdx.x;
  if (k >= updated) return;
  const std::int64_t first = blockIdx.x / channel_blocks * piece;
  const std::int64_t last = first + piece < args.batch ? first + piece : args.batch;
  const std::int64_t d = args.active != nullptr ? __ldg(args.active + k) : k;

  float decay[kChannelStates];
  unpack(read_pack<float, kChannelStates>(args.A + d * kChannelStates), decay);
#pragma unroll
  for (float& a : decay) a *= kLog2E;
  const float skip = args.D != nullptr ? __ldg(args.D + d) : 0.0F;
  const float bias = args.dt_bias != nullptr ? __ldg(args.dt_bias + d) : 0.0F;

  for (std::int64_t b0 = first; b0 < last; b0 += kChannelRows) {
    S* state_of[kChannelRows];
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      state_of[r] = nullptr;
      if (b0 + r >= last) continue;
      const std::int64_t slot = args.slots != nullptr ? __ldg(args.slots + b0 + r) : b0 + r;
      if (slot < 0) continue;
      state_of[r] = static_cast<S*>(args.state) + slot * kChannelStates * args.channels + d;
    }
    S held[kChannelRows][kChannelStates];
    float u[kChannelRows] = {};
    float dt[kChannelRows] = {};
    float z[kChannelRows] = {};
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      if (state_of[r] == nullptr) continue;
#pragma unroll
      for (int n = 0; n < kChannelStates; ++n) held[r][n] = state_of[r][n * args.channels];
      const std::int64_t b = b0 + r;
      u[r] = to_float(static_cast<const T*>(args.u.data)[b * args.u.batch + d * args.u.channel]);
      dt[r] =
          to_float(static_cast<const T*>(args.dt.data)[b * args.dt.batch + d * args.dt.channel]);
      if (args.z.data == nullptr) continue;
      z[r] = to_float(static_cast<const T*>(args.z.data)[b * args.z.batch + d * args.z.channel]);
    }
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      if (state_of[r] == nullptr) continue;
      const std::int64_t b = b0 + r;
      const float delta = args.softplus != 0 ? softplus(dt[r] + bias) : dt[r] + bias;
      float y = args.D != nullptr ? skip * u[r] : 0.0F;
#pragma unroll
      for (int n0 = 0; n0 < kChannelStates; n0 += 4) {
        float B[4];
        float C[4];
        unpack(read_pack<T, 4>(static_cast<const T*>(args.B.data) + b * args.B.batch + n0), B);
        unpack(read_pack<T, 4>(static_cast<const T*>(args.C.data) + b * args.C.batch + n0), C);
        float h[4];
        float decay4[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          h[i] = to_float(held[r][n0 + i]);
          decay4[i] = decay[n0 + i];
        }
        y += step(h, decay4, delta, delta * u[r], B, C);
#pragma unroll
        for (int i = 0; i < 4; ++i) state_of[r][(n0 + i) * args.channels] = from_float<S>(h[i]);
      }
      if (args.z.data != nullptr) y *= silu(z[r]);
      static_cast<T*>(args.y.data)[b * args.y.batch + d * args.y.channel] = from_float<T>(y);
    }
  }
}

// State (slots, heads, P, N), N a multiple of the elements of 16 bytes.
// Grid: 1-D, (b, head) times `pieces` of its P rows. Block: kHeadThreads.
// A team of `lanes` threads, a power of two, holds a row, 16 bytes a lane. A lane's B and C and the
// head's one exponential serve all its rows.
template <typename T, typename S>
__global__ void __launch_bounds__(kHeadThreads, 5)
    head_state_update_kernel(const HeadStateUpdate args, std::int64_t pieces, int lanes) {
  constexpr int kVector = 16 / sizeof(S);
  const int lane = threadIdx.x & (lanes - 1);
  const int n = lane * kVector;
  const int team = threadIdx.x / lanes;
  const int teams = kHeadThreads / lanes;
  const std::int64_t head_of_all = blockIdx.x / pieces;
  const std::int64_t b = head_of_all / args.heads;
  const std::int64_t head = head_of_all - b * args.heads;
  const std::int64_t rows = (args.head_dim + pieces - 1) / pieces;
  const std::int64_t first = blockIdx.x % pieces * rows;
  const std::int64_t last = first + rows < args.head_dim ? first + rows : args.head_dim;
  const std::int64_t slot = args.slots != nullptr ? __ldg(args.slots + b) : b;
  if (slot < 0) return;

  const bool has_states = n < args.states;
  float B[kVector] = {};
  float C[kVector] = {};
  if (has_states) {
    const std::int64_t of_group = head / (args.heads / args.groups) * args.states + n;
    unpack(read_pack<T, kVector>(static_cast<const T*>(args.B.data) + b * args.B.batch + of_group),
           B);
    unpack(read_pack<T, kVector>(static_cast<const T*>(args.C.data) + b * args.C.batch + of_group),
           C);
  }
  float delta =
      to_float(static_cast<const T*>(args.dt.data)[b * args.dt.batch + head * args.dt.channel]);
  if (args.dt_bias != nullptr) delta += __ldg(args.dt_bias + head);
  if (args.softplus != 0) delta = softplus(delta);
  const float decay = fast_exp2(delta * (__ldg(args.A + head) * kLog2E));
  const float skip = args.D != nullptr ? __ldg(args.D + head) : 0.0F;

  const std::int64_t channel = head * args.head_dim;
  const T* x_of = static_cast<const T*>(args.x.data) + b * args.x.batch;
  const T* z_of = static_cast<const T*>(args.z.data) + b * args.z.batch;
  T* y_of = static_cast<T*>(args.y.data) + b * args.y.batch;
  S* state_of =
      static_cast<S*>(args.state) + (slot * args.heads * args.head_dim + channel) * args.states + n;

  // The bounds are the same for all threads of a warp, which sum_over_team needs.
  for (std::int64_t p0 = first; p0 < last; p0 += kHeadRows * teams) {
    Pack<S, kVector> held[kHeadRows];
    float x[kHeadRows] = {};
    float z[kHeadRows] = {};
    float sum[kHeadRows] = {};
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      const std::int64_t p = p0 + r * teams + team;
      if (p >= last) continue;
      if (has_states) held[r] = load_pack<S, kVector>(state_of + p * args.states);
      x[r] = to_float(x_of[(channel + p) * args.x.channel]);
      if (args.z.data != nullptr) z[r] = to_float(z_of[(channel + p) * args.z.channel]);
    }
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      const std::int64_t p = p0 + r * teams + team;
      if (p >= last || !has_states) continue;
      float h[kVector];
      unpack(held[r], h);
      const float stimulus = delta * x[r];
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        h[i] = fmaf(decay, h[i], stimulus * B[i]);
        sum[r] = fmaf(C[i], h[i], sum[r]);
      }
      pack_up(h, held[r]);
      store_pack(state_of + p * args.states, held[r]);
    }
    sum_over_team(sum, lanes);
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      const std::int64_t p = p0 + r * teams + team;
      if (p >= last || lane != 0) continue;
      float y = args.D != nullptr ? fmaf(skip, x[r], sum[r]) : sum[r];
      if (args.z.data != nullptr) y *= silu(z[r]);
      y_of[(channel + p) * args.y.channel] = from_float<T>(y);
    }
  }
}

// What both generations have in common: mamba-1 is heads of one channel each, whose A differs from
// state to state.
struct PlainStateUpdate {
  std::int64_t batch;
  std::int64_t updated;  // channels
  std::int64_t states;
  std::int64_t head_dim;        // channels that share dt, A, D and dt_bias
  std::int64_t group_channels;  // channels that share B and C
  std::int32_t type;
  std::int32_t state_type;
  std::int32_t softplus;
  Strided u;
  Strided dt;
  Strided z;
  Strided B;
  Strided C;
  Strided y;
  const float* A;
  std::int64_t A_head;  // strides of A ...
  std::int64_t A_state;
  const float* D;
  const float* dt_bias;
  void* state;
  std::int64_t state_slot;  // ... and of the state
  std::int64_t state_channel;
  std::int64_t state_state;
  const std::int32_t* slots;
  const std::int32_t* active;
};

__device__ __forceinline__ float load_any(std::int32_t type, const void* data, std::int64_t i) {
  return type == ICD_F32   ? static_cast<const float*>(data)[i]
         : type == ICD_F16 ? to_float(static_cast<const __half*>(data)[i])
                           : to_float(static_cast<const __nv_bfloat16*>(data)[i]);
}
__device__ __forceinline__ void store_any(std::int32_t type, void* data, std::int64_t i, float x) {
  if (type == ICD_F32) {
    static_cast<float*>(data)[i] = x;
  } else if (type == ICD_F16) {
    static_cast<__half*>(data)[i] = from_float<__half>(x);
  } else {
    static_cast<__nv_bfloat16*>(data)[i] = from_float<__nv_bfloat16>(x);
  }
}

// Any types, strides, alignment and number of states. Grid: any 1-D. Block: any 1-D of whole warps.
// A team of `lanes` threads, a power of two to 32, takes a (b, channel).
__global__ void plain_state_update_kernel(const PlainStateUpdate args, int lanes) {
  const int lane = threadIdx.x & (lanes - 1);
  const int team = threadIdx.x / lanes;
  const int teams = blockDim.x / lanes;
  const std::int64_t all = args.batch * args.updated;
  for (std::int64_t first = std::int64_t{blockIdx.x} * teams; first < all;
       first += std::int64_t{gridDim.x} * teams) {
    const std::int64_t item = first + team;
    const std::int64_t b = item / args.updated;
    const std::int64_t k = item - b * args.updated;
    std::int64_t slot = -1;
    if (item < all) slot = args.slots != nullptr ? args.slots[b] : b;

    float sum[1] = {0.0F};
    float u = 0;
    float gate = 1;
    std::int64_t d = 0;
    if (slot >= 0) {
      d = args.active != nullptr ? args.active[k] : k;
      const std::int64_t head = d / args.head_dim;
      const std::int64_t group = d / args.group_channels;
      u = load_any(args.type, args.u.data, b * args.u.batch + d * args.u.channel);
      float delta = load_any(args.type, args.dt.data, b * args.dt.batch + head * args.dt.channel);
      if (args.dt_bias != nullptr) delta += args.dt_bias[head];
      if (args.softplus != 0) delta = softplus(delta);
      if (args.z.data != nullptr) {
        gate = silu(load_any(args.type, args.z.data, b * args.z.batch + d * args.z.channel));
      }
      const float x = delta * u;
      for (std::int64_t n = lane; n < args.states; n += lanes) {
        const std::int64_t at =
            slot * args.state_slot + d * args.state_channel + n * args.state_state;
        const std::int64_t in_group = group * args.states + n;
        const float decay = args.A[head * args.A_head + n * args.A_state] * kLog2E;
        const float B =
            load_any(args.type, args.B.data, b * args.B.batch + in_group * args.B.channel);
        const float C =
            load_any(args.type, args.C.data, b * args.C.batch + in_group * args.C.channel);
        const float h =
            fmaf(fast_exp2(delta * decay), load_any(args.state_type, args.state, at), x * B);
        store_any(args.state_type, args.state, at, h);
        sum[0] = fmaf(C, h, sum[0]);
      }
      if (lane == 0 && args.D != nullptr) sum[0] = fmaf(args.D[head], u, sum[0]);
    }
    // Also orders the reads of u, dt and z by all lanes ahead of the write of y, which may be them.
    sum_over_team(sum, lanes);
    if (slot >= 0 && lane == 0) {
      store_any(args.type, args.y.data, b * args.y.batch + d * args.y.channel, sum[0] * gate);
    }
  }
}

}  // namespace icd
