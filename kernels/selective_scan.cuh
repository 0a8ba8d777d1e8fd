#pragma once

#include "kernels/element.cuh"

// What the designs of the selective scan share, and the design that takes any call.
//
// Steps are kept in units of log2: d = log2(e) dt', so that exp(dt' A) is exp2(d A), one
// instruction behind one product; states too, h = log2(e) times the state of the model, so that
// d B u is added to them as it is. ln(2) undoes it once in every output.
namespace icd {

// The tokens of sequence b: [first, first + count) of batch row `row`.
struct ScanTokens {
  std::int64_t row;
  std::int64_t first;
  std::int64_t count;
};

__device__ __forceinline__ ScanTokens tokens_of(const SelectiveScan& args, std::int64_t b) {
  if (args.starts == nullptr) return {b, 0, args.length};
  const std::int64_t first = args.starts[b];
  return {0, first, args.starts[b + 1] - first};
}

// Element (row, token, channel) of a tensor.
template <typename T>
__device__ __forceinline__ T* element(const Strided& tensor, std::int64_t row, std::int64_t token,
                                      std::int64_t channel) {
  return static_cast<T*>(tensor.data) + row * tensor.batch + token * tensor.token +
         channel * tensor.channel;
}

// Grid and block: any 1-D of whole warps. A team of kTeam lanes scans a channel of a sequence,
// token by token; lane l holds the states l, l + kTeam, ..., kStates of them. Neighbouring teams
// have neighbouring channels.
//
// No alignment, stride or number of states is asked for. Loads of kAhead tokens are under way
// at a time; y may be u, dt or z, since what is written was read ahead of it by all its readers.
template <typename T, int kTeam, int kStates>
__global__ void selective_scan_plain_kernel(const __grid_constant__ SelectiveScan args) {
  constexpr int kAhead = 4;
  const int lane = threadIdx.x % kTeam;
  const unsigned int team = (~0U >> (32 - kTeam)) << (threadIdx.x % 32 / kTeam * kTeam);
  const int states = static_cast<int>(args.states);
  const std::int64_t teams = blockDim.x / kTeam;
  for (std::int64_t item = blockIdx.x * teams + threadIdx.x / kTeam;
       item < args.batch * args.channels; item += gridDim.x * teams) {
    const std::int64_t b = item / args.channels;
    const std::int64_t channel = item - b * args.channels;
    const ScanTokens tokens = tokens_of(args, b);
    const float bias = args.dt_bias == nullptr ? 0.0F : args.dt_bias[channel];
    const float skip = args.D == nullptr ? 0.0F : args.D[channel];
    const std::int64_t first_state = item * states + lane;
    float a[kStates];
    float h[kStates];
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      const bool is_state = lane + k * kTeam < states;
      a[k] = is_state ? args.A[channel * states + lane + k * kTeam] : 0.0F;
      h[k] = is_state && args.initial_state != nullptr
                 ? args.initial_state[first_state + k * kTeam] * kLog2E
                 : 0.0F;
    }

    const T* u = element<const T>(args.u, tokens.row, tokens.first, channel);
    const T* dt = element<const T>(args.dt, tokens.row, tokens.first, channel);
    const T* z = element<const T>(args.z, tokens.row, tokens.first, channel);
    const T* B = element<const T>(args.B, tokens.row, tokens.first, lane);
    const T* C = element<const T>(args.C, tokens.row, tokens.first, lane);
    T* y = element<T>(args.y, tokens.row, tokens.first, channel);
    const bool is_gated = args.z.data != nullptr;
    for (std::int64_t t = 0; t < tokens.count; t += kAhead) {
      float u_of[kAhead];
      float dt_of[kAhead];
      float z_of[kAhead];
      float B_of[kAhead][kStates];
      float C_of[kAhead][kStates];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (t + i >= tokens.count) break;
        u_of[i] = to_float(u[(t + i) * args.u.token]);
        dt_of[i] = to_float(dt[(t + i) * args.dt.token]);
        z_of[i] = is_gated ? to_float(z[(t + i) * args.z.token]) : 0.0F;
#pragma unroll
        for (int k = 0; k < kStates; ++k) {
          const bool is_state = lane + k * kTeam < states;
          const std::int64_t n = k * kTeam;
          B_of[i][k] = is_state ? to_float(B[(t + i) * args.B.token + n * args.B.channel]) : 0.0F;
          C_of[i][k] = is_state ? to_float(C[(t + i) * args.C.token + n * args.C.channel]) : 0.0F;
        }
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (t + i >= tokens.count) break;
        const float step = (dt_of[i] + bias) * kLog2E;
        const float d = args.softplus != 0 ? softplus_log2(step) : step;
        const float x = d * u_of[i];
        float sum = 0.0F;
#pragma unroll
        for (int k = 0; k < kStates; ++k) {
          h[k] = fmaf(fast_exp2(d * a[k]), h[k], x * B_of[i][k]);
          // An infinite step makes a NaN of the places beyond the last state too.
          if (lane + k * kTeam < states) sum = fmaf(h[k], C_of[i][k], sum);
        }
#pragma unroll
        for (int other = kTeam / 2; other > 0; other /= 2) {
          sum += __shfl_xor_sync(team, sum, other);
        }
        sum *= kLn2;
        if (args.D != nullptr) sum = fmaf(skip, u_of[i], sum);  // 0 u is not 0 for an infinite u
        if (is_gated) sum *= silu(z_of[i]);
        if (lane == 0) y[(t + i) * args.y.token] = from_float<T>(sum);
      }
    }

    if (args.final_state == nullptr) continue;
#pragma unroll
    for (int k = 0; k < kStates; ++k) {
      if (lane + k * kTeam < states) args.final_state[first_state + k * kTeam] = h[k] * kLn2;
    }
  }
}

}  // namespace icd
