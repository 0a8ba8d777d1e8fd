#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/element.cuh"

namespace icd {

// kCount neighbouring elements as they travel: 4, 8, or a multiple of 16 bytes, at an address that
// is a multiple of kAlign.
template <typename T, int kCount>
struct Pack {
  static constexpr int kWords = kCount * static_cast<int>(sizeof(T)) / 4;
  static constexpr int kAlign = kWords < 4 ? kWords * 4 : 16;
  std::uint32_t words[kWords];
};

template <typename T, int kCount>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from) {
  using P = Pack<T, kCount>;
  P pack;
  if constexpr (P::kWords == 1) {
    pack.words[0] = *reinterpret_cast<const std::uint32_t*>(from);
  } else if constexpr (P::kWords == 2) {
    const uint2 word = *reinterpret_cast<const uint2*>(from);
    pack.words[0] = word.x;
    pack.words[1] = word.y;
  } else {
#pragma unroll
    for (int i = 0; i < P::kWords; i += 4) {
      const uint4 word = reinterpret_cast<const uint4*>(from)[i / 4];
      pack.words[i] = word.x;
      pack.words[i + 1] = word.y;
      pack.words[i + 2] = word.z;
      pack.words[i + 3] = word.w;
    }
  }
  return pack;
}

// The same for what no thread of the kernel writes: the compiler may move it ahead of stores.
template <typename T, int kCount>
__device__ __forceinline__ Pack<T, kCount> read_pack(const T* from) {
  using P = Pack<T, kCount>;
  P pack;
  if constexpr (P::kWords == 1) {
    pack.words[0] = __ldg(reinterpret_cast<const std::uint32_t*>(from));
  } else if constexpr (P::kWords == 2) {
    const uint2 word = __ldg(reinterpret_cast<const uint2*>(from));
    pack.words[0] = word.x;
    pack.words[1] = word.y;
  } else {
#pragma unroll
    for (int i = 0; i < P::kWords; i += 4) {
      const uint4 word = __ldg(reinterpret_cast<const uint4*>(from) + i / 4);
      pack.words[i] = word.x;
      pack.words[i + 1] = word.y;
      pack.words[i + 2] = word.z;
      pack.words[i + 3] = word.w;
    }
  }
  return pack;
}

template <typename T, int kCount>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  using P = Pack<T, kCount>;
  if constexpr (P::kWords == 1) {
    *reinterpret_cast<std::uint32_t*>(to) = pack.words[0];
  } else if constexpr (P::kWords == 2) {
    *reinterpret_cast<uint2*>(to) = make_uint2(pack.words[0], pack.words[1]);
  } else {
#pragma unroll
    for (int i = 0; i < P::kWords; i += 4) {
      reinterpret_cast<uint4*>(to)[i / 4] =
          make_uint4(pack.words[i], pack.words[i + 1], pack.words[i + 2], pack.words[i + 3]);
    }
  }
}

template <int kCount>
__device__ __forceinline__ void unpack(const Pack<float, kCount>& pack, float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = __uint_as_float(pack.words[i]);
}
template <int kCount>
__device__ __forceinline__ void unpack(const Pack<__half, kCount>& pack, float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    __half2 both;
    memcpy(&both, &pack.words[i / 2], sizeof both);
    const float2 wide = __half22float2(both);
    to[i] = wide.x;
    to[i + 1] = wide.y;
  }
}
template <int kCount>
__device__ __forceinline__ void unpack(const Pack<__nv_bfloat16, kCount>& pack,
                                       float (&to)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    to[i] = __uint_as_float(pack.words[i / 2] << 16);
    to[i + 1] = __uint_as_float(pack.words[i / 2] & 0xFFFF0000U);
  }
}

template <int kCount>
__device__ __forceinline__ void pack_up(const float (&from)[kCount], Pack<float, kCount>& pack) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.words[i] = __float_as_uint(from[i]);
}
template <int kCount>
__device__ __forceinline__ void pack_up(const float (&from)[kCount], Pack<__half, kCount>& pack) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const __half2 both = __floats2half2_rn(from[i], from[i + 1]);
    memcpy(&pack.words[i / 2], &both, sizeof both);
  }
}
template <int kCount>
__device__ __forceinline__ void pack_up(const float (&from)[kCount],
                                        Pack<__nv_bfloat16, kCount>& pack) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(from[i], from[i + 1]);
    memcpy(&pack.words[i / 2], &both, sizeof both);
  }
}

}  // namespace icd
