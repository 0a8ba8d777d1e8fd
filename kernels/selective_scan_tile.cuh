#pragma once

#include "kernels/selective_scan.cuh"

// What the two designs for 16 states of f16 or bf16 share: tiles of tokens copied to shared memory
// while earlier ones are worked on. Rows of all tensors start at multiples of 16 bytes.
namespace icd {

constexpr int kScanStates = 16;
// One token of B and of C behind each other, as they come and widened to f32.
constexpr int kRawStatesBytes = 2 * kScanStates * 2;
constexpr int kWideStates = 2 * kScanStates;

// 16 bytes to shared memory; what is behind the first `bytes` is not read, and 0.
// Done when wait_for_copies() says so; GPUs before sm_80 copy at once.
__device__ __forceinline__ void copy_16(void* to, const void* from, int bytes) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned int>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(bytes));
#else
  uint4 word = {};
  if (bytes == 16) {
    word = *static_cast<const uint4*>(from);
  } else {
    memcpy(&word, from, bytes);
  }
  *static_cast<uint4*>(to) = word;
#endif
}

// Ends a group of copies of this thread, which may be empty.
__device__ __forceinline__ void end_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the last kGroups groups of this thread have arrived.
template <int kGroups>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}

// Two neighbouring elements, which are one register.
template <typename T>
__device__ __forceinline__ float2 unpack(unsigned int word);
template <>
__device__ __forceinline__ float2 unpack<__nv_bfloat16>(unsigned int word) {
  return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000U)};
}
template <>
__device__ __forceinline__ float2 unpack<__half>(unsigned int word) {
  __half2 pair;
  memcpy(&pair, &word, sizeof pair);
  return __half22float2(pair);
}

template <typename T>
__device__ __forceinline__ unsigned int pack(float low, float high);
template <>
__device__ __forceinline__ unsigned int pack<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  unsigned int word;
  memcpy(&word, &pair, sizeof word);
  return word;
}
template <>
__device__ __forceinline__ unsigned int pack<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  unsigned int word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// Which of a pair of channels exist. Two separate conditions become predicates of two stores; a
// branch here would keep the compiler from mixing what is ahead of it with what follows.
struct PairOutputs {
  bool both;
  bool first_only;
};

__device__ __forceinline__ PairOutputs outputs_of(std::int64_t channels_left) {
  return {channels_left >= 2, channels_left == 1};
}

template <typename T>
__device__ __forceinline__ void store_pair(T* to, float low, float high, bool both,
                                           bool first_only) {
  const unsigned int word = pack<T>(low, high);
  if (both) *reinterpret_cast<unsigned int*>(to) = word;
  if (first_only) *reinterpret_cast<unsigned short*>(to) = static_cast<unsigned short>(word);
}

// What a call asks for, as numbers that the loops use without a branch.
struct ScanForm {
  float linear_from;       // steps above are their own softplus; NaN: all of them
  float gate_scale;        // silu(z) is z / (1 + 2^(gate_scale z)): -inf and a z of 1 are no gate
  unsigned int skip_bits;  // of u in D u, which is 0 without D even where u is infinite
};

__device__ __forceinline__ ScanForm form_of(const SelectiveScan& args) {
  return {args.softplus != 0 ? 28.0F : __uint_as_float(0x7fc00000U),
          args.z.data != nullptr ? -kLog2E : __uint_as_float(0xff800000U),
          args.D != nullptr ? ~0U : 0U};
}

// As softplus_log2() of kernels/element.cuh, or x.
__device__ __forceinline__ float step_log2(float x, const ScanForm& form) {
  const float e = fast_exp2(x);
  const float series = e * fmaf(e, fmaf(e, 0.48089835F, -0.72134752F), kLog2E);
  const float l = e < 0.03F ? series : fast_log2(1.0F + e);
  return x <= form.linear_from ? l : x;
}

// silu(z) ln(2): the ln(2) that outputs of states in log2 lack.
__device__ __forceinline__ float gate_ln2(float z, const ScanForm& form) {
  return z * fast_reciprocal(fmaf(fast_exp2(form.gate_scale * z), kLog2E, kLog2E));
}

// Tiles are counted in 32 bits: more of them, of at least 256 bytes each, fit no GPU.
__device__ __forceinline__ int tiles_of(std::int64_t tokens, int tile) {
  return static_cast<int>((tokens + tile - 1) / tile);
}

// Copies tile after tile of kTile tokens and kChannels channels by kThreads threads. A stage of
// shared memory holds rows of u, then of dt, then of z, and then B and C of every token.
template <typename T, int kThreads, int kTile, int kChannels, int kRowBytes>
class TileCopies {
 public:
  static constexpr int kTensorBytes = kTile * kRowBytes;
  static constexpr int kStageBytes = 3 * kTensorBytes + kTile * kRawStatesBytes;

  __device__ __forceinline__ TileCopies(const SelectiveScan& args, int thread, std::int64_t row,
                                        std::int64_t token, std::int64_t channel)
      : args_(args), row_(thread / kChunks), state_row_(thread / 4), is_C_(thread % 4 >= 2) {
    const int chunk = thread % kChunks;
    const std::int64_t first = channel + chunk * 8;
    const std::int64_t left = (args.channels - first) * 2;
    bytes_ = left < 0 ? 0 : left < 16 ? static_cast<int>(left) : 16;
    if (kPieces < kThreads && thread >= kPieces) row_ = kNoRow;
    to_ = thread / kChunks * kRowBytes + chunk * 16;
    states_to_ = 3 * kTensorBytes + thread * 16;
    u_ = element<const T>(args.u, row, token + row_of(thread), first);
    dt_ = element<const T>(args.dt, row, token + row_of(thread), first);
    z_ = element<const T>(args.z, row, token + row_of(thread), first);
    states_ = element<const T>(is_C_ ? args.C : args.B, row, token + state_row_, thread % 2 * 8);
  }

  // Copies the next tile, of which `tokens` exist, and moves on.
  __device__ __forceinline__ void next(unsigned char* stage, std::int64_t tokens) {
    if (tokens > 0) {
      const int limit = tokens < kTile ? static_cast<int>(tokens) : kTile;
#pragma unroll
      for (int t = 0; t < kTile && t * kChunks < kPieces; t += kRows) {
        if (row_ + t >= kTile) break;
        const int bytes = row_ + t < limit ? bytes_ : 0;
        unsigned char* to = stage + to_ + t * kRowBytes;
        copy_16(to, u_ + t * args_.u.token, bytes);
        copy_16(to + kTensorBytes, dt_ + t * args_.dt.token, bytes);
        if (args_.z.data != nullptr) {
          copy_16(to + 2 * kTensorBytes, z_ + t * args_.z.token, bytes);
        }
      }
      const std::int64_t state_token = is_C_ ? args_.C.token : args_.B.token;
#pragma unroll
      for (int t = 0; t < kTile; t += kThreads / 4) {
        if (state_row_ + t >= kTile) break;
        copy_16(stage + states_to_ + t * kRawStatesBytes, states_ + t * state_token,
                state_row_ + t < limit ? 16 : 0);
      }
      u_ += kTile * args_.u.token;
      dt_ += kTile * args_.dt.token;
      z_ += kTile * args_.z.token;
      states_ += kTile * state_token;
    }
    end_copies();
  }

 private:
  static constexpr int kChunks = kChannels / 8;  // of 16 bytes, in a row
  static constexpr int kPieces = kTile * kChunks;
  static constexpr int kRows = kPieces <= kThreads ? kTile : kThreads / kChunks;  // at a time
  static constexpr int kNoRow = 1 << 20;
  static_assert(kPieces <= kThreads || kThreads % kChunks == 0, "a thread has one column");
  static_assert(kRawStatesBytes == 4 * 16, "four threads for a token of B and C");

  __device__ __forceinline__ static int row_of(int thread) { return thread / kChunks; }

  const SelectiveScan& args_;
  int row_;        // of this thread within the tile, or none
  int state_row_;  // the same of B and C
  bool is_C_;
  int bytes_;  // of the 16 that exist
  int to_;
  int states_to_;
  const T* u_;
  const T* dt_;
  const T* z_;
  const T* states_;
};

}  // namespace icd
