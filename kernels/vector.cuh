#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "kernels/element.cuh"

// Several elements that a thread moves at a time.
namespace icd {

// kElements of T as they lie in memory, up to 16 bytes moved by one instruction. Pairs of 16-bit
// elements stay in one word until they are used: as an array of T the compiler would give each
// element a register of its own.
template <typename T, int kElements>
struct alignas(kElements * sizeof(T) < 16 ? kElements * sizeof(T) : 16) Vector {
  using Word = std::conditional_t<kElements * sizeof(T) % 4 == 0, std::uint32_t, std::uint16_t>;
  static constexpr int kWords = static_cast<int>(kElements * sizeof(T) / sizeof(Word));
  Word words[kWords];
};

// As many elements as one 16-byte instruction moves.
template <typename T>
constexpr int kElementsOf16Bytes = 16 / static_cast<int>(sizeof(T));

// All bytes of a vector, 16 (or its only 8) by one `load` of uint4 or uint2.
template <typename T, int kElements, typename Load>
__device__ __forceinline__ Vector<T, kElements> load_words(const Vector<T, kElements>* from,
                                                           const Load& load) {
  using Bytes = Vector<T, kElements>;
  Bytes to;
  if constexpr (sizeof(Bytes) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(Bytes) / 16); ++k) {
      const uint4 four = load(reinterpret_cast<const uint4*>(from) + k);
      to.words[4 * k] = four.x;
      to.words[4 * k + 1] = four.y;
      to.words[4 * k + 2] = four.z;
      to.words[4 * k + 3] = four.w;
    }
  } else {
    static_assert(sizeof(Bytes) == 8, "only vectors of 8 bytes and of multiples of 16");
    const uint2 two = load(reinterpret_cast<const uint2*>(from));
    to.words[0] = two.x;
    to.words[1] = two.y;
  }
  return to;
}

// Of what is read once: it gives way first in the caches.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_streaming(const Vector<T, kElements>* from) {
  return load_words(from, [](const auto* words) { return __ldcs(words); });
}

// Of what other blocks read as well and nobody writes. A plain copy of the vector that is picked
// apart at once becomes a load for every byte.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_shared_input(
    const Vector<T, kElements>* from) {
  return load_words(from, [](const auto* words) { return __ldg(words); });
}

__device__ __forceinline__ void pair_to_floats(__half, std::uint32_t pair, float (&to)[2]) {
  __half2 halves;
  memcpy(&halves, &pair, sizeof halves);
  const float2 floats = __half22float2(halves);
  to[0] = floats.x;
  to[1] = floats.y;
}
__device__ __forceinline__ void pair_to_floats(__nv_bfloat16, std::uint32_t pair, float (&to)[2]) {
  to[0] = __uint_as_float(pair << 16);
  to[1] = __uint_as_float(pair & 0xffff0000U);
}

__device__ __forceinline__ std::uint32_t pair_from_floats(__half, float low, float high) {
  const __half2 halves = __floats2half2_rn(low, high);
  std::uint32_t pair;
  memcpy(&pair, &halves, sizeof pair);
  return pair;
}
__device__ __forceinline__ std::uint32_t pair_from_floats(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 halves = __floats2bfloat162_rn(low, high);
  std::uint32_t pair;
  memcpy(&pair, &halves, sizeof pair);
  return pair;
}

// Element i of a vector. i has to be known to the compiler, or the vector goes to local memory.
template <typename T, int kElements>
__device__ __forceinline__ T element_of(const Vector<T, kElements>& from, int i) {
  T to;
  if constexpr (sizeof(T) == sizeof(from.words[0])) {
    memcpy(&to, &from.words[i], sizeof to);
  } else {
    const auto bits = static_cast<std::uint16_t>(from.words[i / 2] >> (i % 2 * 16));
    memcpy(&to, &bits, sizeof to);
  }
  return to;
}

template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> vector_of(const T (&from)[kElements]) {
  Vector<T, kElements> to;
  memcpy(to.words, from, sizeof to.words);
  return to;
}

template <typename T, int kElements>
__device__ __forceinline__ void to_floats(const Vector<T, kElements>& from,
                                          float (&to)[kElements]) {
  if constexpr (sizeof(T) == sizeof(from.words[0])) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) to[e] = to_float(element_of(from, e));
  } else {
#pragma unroll
    for (int w = 0; w < kElements / 2; ++w) {
      float pair[2];
      pair_to_floats(T{}, from.words[w], pair);
      to[2 * w] = pair[0];
      to[2 * w + 1] = pair[1];
    }
  }
}

template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> from_floats(const float (&from)[kElements]) {
  Vector<T, kElements> to;
  if constexpr (sizeof(T) == sizeof(to.words[0])) {
#pragma unroll
    for (int e = 0; e < kElements; ++e) {
      const T element = from_float<T>(from[e]);
      memcpy(&to.words[e], &element, sizeof element);
    }
  } else {
#pragma unroll
    for (int w = 0; w < kElements / 2; ++w) {
      to.words[w] = pair_from_floats(T{}, from[2 * w], from[2 * w + 1]);
    }
  }
  return to;
}

}  // namespace icd
