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

// A pair of outputs of which `count` (2, 1, or none if less) lie within the channels.
template <typename T>
__device__ __forceinline__ void store_pair(T* to, float low, float high, int count) {
  if (count >= 2) {
    *reinterpret_cast<unsigned int*>(to) = pack<T>(low, high);
  } else if (count == 1) {
    *to = from_float<T>(low);
  }
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

__device__ __forceinline__ float gate(float z, const ScanForm& form) {
  return z * fast_reciprocal(1.0F + fast_exp2(form.gate_scale * z));
}

}  // namespace icd
