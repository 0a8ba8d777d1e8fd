#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>

#include "kernels/args.h"

// What device code shares: elements of f32, f16 and bf16 as f32, and the functions of the models.
namespace icd {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half_rn(x);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

// Two neighbouring elements of 16 bits, which are one register, the first in its low half.
template <typename T>
__device__ __forceinline__ std::uint32_t packed_pair(float low, float high);
template <>
__device__ __forceinline__ std::uint32_t packed_pair<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}
template <>
__device__ __forceinline__ std::uint32_t packed_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  std::uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

template <typename T>
__device__ __forceinline__ float2 unpacked_pair(std::uint32_t pair);
template <>
__device__ __forceinline__ float2 unpacked_pair<__half>(std::uint32_t pair) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof halves);
  return __half22float2(halves);
}
template <>
__device__ __forceinline__ float2 unpacked_pair<__nv_bfloat16>(std::uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000U)};
}

// Element i of an array whose type is known at run time only.
__device__ __forceinline__ float load_any(std::int32_t type, const void* data, std::int64_t i) {
  if (type == ICD_F32) return static_cast<const float*>(data)[i];
  if (type == ICD_F16) return to_float(static_cast<const __half*>(data)[i]);
  return to_float(static_cast<const __nv_bfloat16*>(data)[i]);
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

constexpr float kLog2E = 1.4426950408889634F;
constexpr float kLn2 = 0.69314718055994531F;

// One instruction each; relative error about 2^-22, subnormals are 0.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// log2(1 + 2^x). The series keeps relative accuracy for small steps, of slow channels; without a
// branch, so that its time does not depend on what the channels hold.
__device__ __forceinline__ float softplus_log2(float x) {
  const float e = fast_exp2(x);
  const float series = e * fmaf(e, fmaf(e, 0.48089835F, -0.72134752F), kLog2E);
  const float l = e < 0.03F ? series : fast_log2(1.0F + e);
  return x > 28.0F ? x : l;
}

// log(1 + exp(x))
__device__ __forceinline__ float softplus(float x) { return softplus_log2(x * kLog2E) * kLn2; }

// x / (1 + exp(-x))
__device__ __forceinline__ float silu(float x) {
  return x * fast_reciprocal(1.0F + fast_exp2(-kLog2E * x));
}

// Calls `work` with a value of the C++ type of ICD_F32, ICD_F16 or ICD_BF16.
template <typename Work>
cudaError_t with_type(std::int32_t type, const Work& work) {
  switch (type) {
    case ICD_F32:
      return work(float{});
    case ICD_F16:
      return work(__half{});
    case ICD_BF16:
      return work(__nv_bfloat16{});
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace icd
