#pragma once

#include <cstring>

#include "kernels/element.cuh"

// Several elements that a thread moves at a time.
namespace icd {

template <typename T, int kElements>
struct alignas(kElements * sizeof(T) < 16 ? kElements * sizeof(T) : 16) Vector {
  T at[kElements];
};

// As many elements as one 16-byte instruction moves.
template <typename T>
constexpr int kElementsOf16Bytes = 16 / static_cast<int>(sizeof(T));

// Of what is read once: it gives way first in the caches.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_streaming(const Vector<T, kElements>* from) {
  using Bytes = Vector<T, kElements>;
  Bytes to;
  if constexpr (sizeof(Bytes) % 16 == 0) {
    uint4 words[sizeof(Bytes) / 16];
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(Bytes) / 16); ++k) {
      words[k] = __ldcs(reinterpret_cast<const uint4*>(from) + k);
    }
    memcpy(&to, words, sizeof(Bytes));
  } else {
    static_assert(sizeof(Bytes) == 8, "only vectors of 8 bytes and of multiples of 16");
    const uint2 word = __ldcs(reinterpret_cast<const uint2*>(from));
    memcpy(&to, &word, sizeof(Bytes));
  }
  return to;
}

template <typename T, int kElements>
__device__ __forceinline__ void to_floats(const Vector<T, kElements>& from,
                                          float (&to)[kElements]) {
#pragma unroll
  for (int e = 0; e < kElements; ++e) to[e] = to_float(from.at[e]);
}

template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> from_floats(const float (&from)[kElements]) {
  Vector<T, kElements> to;
#pragma unroll
  for (int e = 0; e < kElements; ++e) to.at[e] = from_float<T>(from[e]);
  return to;
}

}  // namespace icd
