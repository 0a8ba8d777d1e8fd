#pragma once

#include <cstdint>

#include "kernels/team_sum.cuh"
#include "kernels/vector.cuh"

namespace icd {

// B batch rows, D channels, N states, K updated channels (all, or the active ones). State type S,
// all others T. In mamba-2 a channel is one of the P of a head.

constexpr int kFastStates = 16;  // those of published mamba-1 models
constexpr int kUpdateThreads = 64;
constexpr int kUpdateRows = 4;    // batch rows ...
constexpr int kUpdateGroups = 2;  // ... and channels whose states a thread has under way
constexpr int kChannelThreads = 128;
constexpr int kChannelRows = 2;
constexpr int kHeadThreads = 128;
constexpr int kHeadRows = 4;  // rows of a head's state that a thread has under way

// h = exp2(decay A) h + x B for the states of one lane. Returns its part of C h.
template <int kCount>
__device__ __forceinline__ float step(float (&h)[kCount], const float (&A)[kCount], float decay,
                                      float x, const float (&B)[kCount], const float (&C)[kCount]) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    h[i] = fmaf(fast_exp2(decay * A[i]), h[i], x * B[i]);
    sum = fmaf(C[i], h[i], sum);
  }
  return sum;
}

// One instruction, as long as i and stride are 32 bits wide.
__device__ __forceinline__ char* offset(char* base, std::int32_t i, std::int32_t stride_bytes) {
  return base + std::int64_t{i} * stride_bytes;
}

// StateUpdate with 32-bit sizes and strides in bytes, where they fit.
struct RowsInBytes {
  char* data;
  std::int32_t batch;
  std::int32_t channel;
};
struct FastStateUpdate {
  std::int32_t batch;
  std::int32_t updated;
  std::int32_t channel_blocks;
  std::int32_t piece;  // batch rows of a block
  std::int32_t slot_bytes;
  std::int32_t state_bytes;  // from state to state, in (slots, N, D)
  std::int32_t softplus;
  RowsInBytes u;
  RowsInBytes dt;
  RowsInBytes z;
  RowsInBytes B;
  RowsInBytes C;
  RowsInBytes y;
  const float* A;
  const float* D;
  const float* dt_bias;
  char* state;
  const std::int32_t* slots;
  const std::int32_t* active;
};

// State (slots, D, N), N = kFastStates.
// Grid: 1-D, channel_blocks times pieces of `piece` batch rows. Block: kUpdateThreads.
//
// A team of kLanes threads holds a channel, 16 bytes of its state a lane: whole sectors whatever
// channels are active. Instructions are as scarce as bytes here, so
//   - a lane takes two channels, which share what it unpacks of B and C;
//   - what a channel and row have one of (u, dt, z, y, softplus, gate) is the work of one lane of
//     the team, and handed round by shuffles;
//   - A is read once for all batch rows of the block.
template <typename T, typename S>
__global__ void __launch_bounds__(kUpdateThreads, 10)
    state_update_kernel(const FastStateUpdate args) {
  constexpr int kVector = 16 / sizeof(S);
  constexpr int kLanes = kFastStates / kVector;
  constexpr int kTeams = 32 / kLanes;  // of a warp
  constexpr int kOwn = kUpdateRows * kUpdateGroups / kLanes;
  static_assert(kUpdateGroups == 2 && (kLanes == 2 || kLanes == 4), "the shuffles are for these");
  const int lane = threadIdx.x % kLanes;
  const int team = threadIdx.x % 32 / kLanes;
  const int warp = threadIdx.x / 32;
  // A lane owns rows own_row to own_row + kOwn - 1 of channel group own_group.
  const int own_group = lane % 2;
  const int own_row = lane / 2 * kOwn;
  const int channel_block = static_cast<int>(blockIdx.x) % args.channel_blocks;
  const int first = static_cast<int>(blockIdx.x) / args.channel_blocks * args.piece;
  const int last = min(first + args.piece, args.batch);

  const int k0 = (channel_block * (kUpdateThreads / 32) + warp) * kUpdateGroups * kTeams + team;
  bool is_channel[kUpdateGroups];
  int d[kUpdateGroups];
  char* state[kUpdateGroups];
  float A[kUpdateGroups][kVector];
#pragma unroll
  for (int g = 0; g < kUpdateGroups; ++g) {
    const int k = k0 + g * kTeams;
    is_channel[g] = k < args.updated;
    // What is beyond the end reads what the last one reads, and writes nothing.
    d[g] = is_channel[g] ? k : args.updated - 1;
    if (args.active != nullptr) d[g] = __ldg(args.active + d[g]);
    state[g] = offset(args.state + lane * 16, d[g], kFastStates * sizeof(S));
    read_floats(args.A + std::int64_t{d[g]} * kFastStates + lane * kVector, A[g]);
  }
  const int own_d = own_group == 0 ? d[0] : d[1];
  const bool owns_channel = own_group == 0 ? is_channel[0] : is_channel[1];
  const float skip = args.D != nullptr ? __ldg(args.D + own_d) : 0.0F;
  const float bias = args.dt_bias != nullptr ? __ldg(args.dt_bias + own_d) : 0.0F;
  char* u_of = offset(args.u.data, own_d, args.u.channel);
  char* dt_of = offset(args.dt.data, own_d, args.dt.channel);
  char* z_of = offset(args.z.data, own_d, args.z.channel);
  char* y_of = offset(args.y.data, own_d, args.y.channel);
  char* B_of = args.B.data + lane * kVector * sizeof(T);
  char* C_of = args.C.data + lane * kVector * sizeof(T);

  for (int b0 = first; b0 < last; b0 += kUpdateRows) {
    int slot[kUpdateRows];  // the same for all threads of the block; negative: no row
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      slot[r] = -1;
      if (b0 + r < last) slot[r] = args.slots != nullptr ? __ldg(args.slots + b0 + r) : b0 + r;
    }
    Vector<S, kVector> held[kUpdateRows][kUpdateGroups];
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
#pragma unroll
      for (int g = 0; g < kUpdateGroups; ++g) {
        if (slot[r] < 0) continue;
        held[r][g] = load_vector(vector_at<kVector>(
            reinterpret_cast<const S*>(offset(state[g], slot[r], args.slot_bytes))));
      }
    }

    // Of padding, too, so that no branch waits for one load ahead of the next; not used there.
    bool owns[kOwn];
    T raw_u[kOwn];
    T raw_dt[kOwn];
    T raw_z[kOwn] = {};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      owns[i] = (own_row == 0 ? slot[i] : slot[kUpdateRows - kOwn + i]) >= 0;
      const int b = min(b0 + own_row + i, last - 1);
      raw_u[i] = *reinterpret_cast<const T*>(offset(u_of, b, args.u.batch));
      raw_dt[i] = *reinterpret_cast<const T*>(offset(dt_of, b, args.dt.batch));
      if (args.z.data == nullptr) continue;
      raw_z[i] = *reinterpret_cast<const T*>(offset(z_of, b, args.z.batch));
    }
    float decay[kOwn];
    float x[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      const float biased = to_float(raw_dt[i]) + bias;
      const float dt = args.softplus != 0 ? softplus(biased) : biased;
      decay[i] = dt * kLog2E;
      x[i] = dt * to_float(raw_u[i]);
    }

    float sum[kUpdateRows][kUpdateGroups] = {};
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      if (slot[r] < 0) continue;
      float B[kVector];
      float C[kVector];
      const int b = b0 + r;
      read_floats(reinterpret_cast<const T*>(offset(B_of, b, args.B.batch)), B);
      read_floats(reinterpret_cast<const T*>(offset(C_of, b, args.C.batch)), C);
#pragma unroll
      for (int g = 0; g < kUpdateGroups; ++g) {
        const int owner = r / kOwn * 2 + g;
        const float decay_here = __shfl_sync(0xFFFFFFFFU, decay[r % kOwn], owner, kLanes);
        const float x_here = __shfl_sync(0xFFFFFFFFU, x[r % kOwn], owner, kLanes);
        float h[kVector];
        to_floats(held[r][g], h);
        sum[r][g] = step(h, A[g], decay_here, x_here, B, C);
        held[r][g] = from_floats<S>(h);
        if (!is_channel[g]) continue;
        store_vector(reinterpret_cast<S*>(offset(state[g], slot[r], args.slot_bytes)), held[r][g]);
      }
    }

    // Every lane gives away the sums that it does not own.
    float total[kUpdateRows];
#pragma unroll
    for (int r = 0; r < kUpdateRows; ++r) {
      const float mine = own_group == 0 ? sum[r][0] : sum[r][1];
      const float other = own_group == 0 ? sum[r][1] : sum[r][0];
      total[r] = mine + __shfl_xor_sync(0xFFFFFFFFU, other, 1);
    }
    if constexpr (kLanes == 4) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const float mine = own_row == 0 ? total[i] : total[kOwn + i];
        const float other = own_row == 0 ? total[kOwn + i] : total[i];
        total[i] = mine + __shfl_xor_sync(0xFFFFFFFFU, other, 2);
      }
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
      if (!owns[i] || !owns_channel) continue;
      float y = args.D != nullptr ? fmaf(skip, to_float(raw_u[i]), total[i]) : total[i];
      if (args.z.data != nullptr) y *= silu(to_float(raw_z[i]));
      *reinterpret_cast<T*>(offset(y_of, b0 + own_row + i, args.y.batch)) = from_float<T>(y);
    }
  }
}

// State (slots, N, D), N = kFastStates.
// Grid: 1-D, channel_blocks times pieces of `piece` batch rows. Block: kChannelThreads.
// A thread is a channel: neighbouring channels share sectors, as far as the active ones are
// neighbours.
template <typename T, typename S>
__global__ void __launch_bounds__(kChannelThreads, 5)
    channel_state_update_kernel(const FastStateUpdate args) {
  const int channel_block = static_cast<int>(blockIdx.x) % args.channel_blocks;
  const int first = static_cast<int>(blockIdx.x) / args.channel_blocks * args.piece;
  const int last = min(first + args.piece, args.batch);
  const int k = channel_block * kChannelThreads + static_cast<int>(threadIdx.x);
  if (k >= args.updated) return;
  const int d = args.active != nullptr ? __ldg(args.active + k) : k;

  float A[kFastStates];
  read_floats(args.A + std::int64_t{d} * kFastStates, A);
  const float skip = args.D != nullptr ? __ldg(args.D + d) : 0.0F;
  const float bias = args.dt_bias != nullptr ? __ldg(args.dt_bias + d) : 0.0F;
  char* u_of = offset(args.u.data, d, args.u.channel);
  char* dt_of = offset(args.dt.data, d, args.dt.channel);
  char* z_of = offset(args.z.data, d, args.z.channel);
  char* y_of = offset(args.y.data, d, args.y.channel);
  char* state_of = offset(args.state, d, sizeof(S));

  for (int b0 = first; b0 < last; b0 += kChannelRows) {
    bool is_row[kChannelRows];
    char* state[kChannelRows];
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      int slot = -1;
      if (b0 + r < last) slot = args.slots != nullptr ? __ldg(args.slots + b0 + r) : b0 + r;
      is_row[r] = slot >= 0;
      state[r] = offset(state_of, slot, args.slot_bytes);
    }
    S held[kChannelRows][kFastStates];
    T raw_u[kChannelRows];
    T raw_dt[kChannelRows];
    T raw_z[kChannelRows] = {};
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      const int b = min(b0 + r, last - 1);
      raw_u[r] = *reinterpret_cast<const T*>(offset(u_of, b, args.u.batch));
      raw_dt[r] = *reinterpret_cast<const T*>(offset(dt_of, b, args.dt.batch));
      if (args.z.data == nullptr) continue;
      raw_z[r] = *reinterpret_cast<const T*>(offset(z_of, b, args.z.batch));
    }
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      if (!is_row[r]) continue;
#pragma unroll
      for (int n = 0; n < kFastStates; ++n) {
        held[r][n] = *reinterpret_cast<S*>(offset(state[r], n, args.state_bytes));
      }
    }
#pragma unroll
    for (int r = 0; r < kChannelRows; ++r) {
      if (!is_row[r]) continue;
      const float u = to_float(raw_u[r]);
      const float biased = to_float(raw_dt[r]) + bias;
      const float dt = args.softplus != 0 ? softplus(biased) : biased;
      const T* B_of = reinterpret_cast<const T*>(offset(args.B.data, b0 + r, args.B.batch));
      const T* C_of = reinterpret_cast<const T*>(offset(args.C.data, b0 + r, args.C.batch));
      float y = args.D != nullptr ? skip * u : 0.0F;
#pragma unroll
      for (int n0 = 0; n0 < kFastStates; n0 += 4) {
        float B[4];
        float C[4];
        read_floats(B_of + n0, B);
        read_floats(C_of + n0, C);
        float h[4];
        float A4[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          h[i] = to_float(held[r][n0 + i]);
          A4[i] = A[n0 + i];
        }
        y += step(h, A4, dt * kLog2E, dt * u, B, C);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          *reinterpret_cast<S*>(offset(state[r], n0 + i, args.state_bytes)) = from_float<S>(h[i]);
        }
      }
      if (args.z.data != nullptr) y *= silu(to_float(raw_z[r]));
      *reinterpret_cast<T*>(offset(y_of, b0 + r, args.y.batch)) = from_float<T>(y);
    }
  }
}

// How head_state_update_kernel cuts its work, in 32 bits.
struct HeadPieces {
  std::int32_t heads;
  std::int32_t group_heads;  // of a group
  std::int32_t pieces;       // of a head ...
  std::int32_t rows;         // ... each of so many of its P rows
  std::int32_t lanes;
  std::int32_t row_bytes;  // of the state
};

// State (slots, heads, P, N), N a multiple of the elements of 16 bytes.
// Grid: 1-D, (b, head) times `pieces` of its P rows. Block: kHeadThreads.
// A team of `lanes` threads, a power of two, holds a row, 16 bytes a lane. A lane's B and C and the
// head's one exponential serve all its rows.
template <typename T, typename S>
__global__ void __launch_bounds__(kHeadThreads, 5)
    head_state_update_kernel(const HeadStateUpdate args, const HeadPieces cut) {
  constexpr int kVector = 16 / sizeof(S);
  const int lane = threadIdx.x & (cut.lanes - 1);
  const int n = lane * kVector;
  const int teams = kHeadThreads / cut.lanes;
  const int head_of_all = static_cast<int>(blockIdx.x) / cut.pieces;
  const int first = (static_cast<int>(blockIdx.x) - head_of_all * cut.pieces) * cut.rows;
  const int last = min(first + cut.rows, static_cast<int>(args.head_dim));
  const int b = head_of_all / cut.heads;
  const int head = head_of_all - b * cut.heads;
  const std::int64_t slot = args.slots != nullptr ? __ldg(args.slots + b) : b;
  if (slot < 0) return;

  const bool has_states = n < args.states;
  const std::int64_t channel = std::int64_t{head} * args.head_dim;
  const T* x_of = static_cast<const T*>(args.x.data) + b * args.x.batch + channel * args.x.channel;
  const T* z_of = static_cast<const T*>(args.z.data) + b * args.z.batch + channel * args.z.channel;
  T* y_of = static_cast<T*>(args.y.data) + b * args.y.batch + channel * args.y.channel;
  char* state_of =
      reinterpret_cast<char*>(static_cast<S*>(args.state) +
                              (slot * args.heads * args.head_dim + channel) * args.states + n);

  float B[kVector] = {};
  float C[kVector] = {};
  if (has_states) {
    const std::int64_t in_group = std::int64_t{head / cut.group_heads} * args.states + n;
    const T* B_of = static_cast<const T*>(args.B.data) + b * args.B.batch + in_group;
    const T* C_of = static_cast<const T*>(args.C.data) + b * args.C.batch + in_group;
    read_floats(B_of, B);
    read_floats(C_of, C);
  }
  float delta =
      to_float(static_cast<const T*>(args.dt.data)[b * args.dt.batch + head * args.dt.channel]);
  if (args.dt_bias != nullptr) delta += __ldg(args.dt_bias + head);
  if (args.softplus != 0) delta = softplus(delta);
  const float decay = fast_exp2(delta * (__ldg(args.A + head) * kLog2E));
  const float skip = args.D != nullptr ? __ldg(args.D + head) : 0.0F;

  // The bounds are the same for all threads of a block, which sum_over_team needs.
  for (int p0 = first; p0 < last; p0 += kHeadRows * teams) {
    const int own = p0 + static_cast<int>(threadIdx.x) / cut.lanes;
    Vector<S, kVector> held[kHeadRows];
    T x[kHeadRows];
    T z[kHeadRows] = {};
    float sum[kHeadRows] = {};
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      // What is beyond the end reads what the last row reads, and writes nothing.
      const int p = min(own + r * teams, last - 1);
      if (has_states) {
        held[r] = load_vector(
            vector_at<kVector>(reinterpret_cast<const S*>(offset(state_of, p, cut.row_bytes))));
      }
      x[r] = x_of[p * args.x.channel];
      if (args.z.data != nullptr) z[r] = z_of[p * args.z.channel];
    }
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      const int p = own + r * teams;
      if (p >= last || !has_states) continue;
      float h[kVector];
      to_floats(held[r], h);
      const float stimulus = delta * to_float(x[r]);
#pragma unroll
      for (int i = 0; i < kVector; ++i) {
        h[i] = fmaf(decay, h[i], stimulus * B[i]);
        sum[r] = fmaf(C[i], h[i], sum[r]);
      }
      held[r] = from_floats<S>(h);
      store_vector(reinterpret_cast<S*>(offset(state_of, p, cut.row_bytes)), held[r]);
    }
    sum_over_team(sum, cut.lanes);
    if (lane != 0) continue;
#pragma unroll
    for (int r = 0; r < kHeadRows; ++r) {
      const int p = own + r * teams;
      if (p >= last) continue;
      float y = args.D != nullptr ? fmaf(skip, to_float(x[r]), sum[r]) : sum[r];
      if (args.z.data != nullptr) y *= silu(to_float(z[r]));
      y_of[p * args.y.channel] = from_float<T>(y);
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

    float sum = 0;
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
        sum = fmaf(C, h, sum);
      }
      if (lane == 0 && args.D != nullptr) sum = fmaf(args.D[head], u, sum);
    }
    // Also orders the reads of u, dt and z by all lanes ahead of the write of y, which may be them.
    sum = sum_over_team(sum, lanes);
    if (slot >= 0 && lane == 0) {
      store_any(args.type, args.y.data, b * args.y.batch + d * args.y.channel, sum * gate);
    }
  }
}

}  // namespace icd
