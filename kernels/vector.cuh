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

// The vector at an address that is a multiple of its alignment.
template <int kElements, typename T>
__device__ __forceinline__ const Vector<T, kElements>* vector_at(const T* from) {
  return reinterpret_cast<const Vector<T, kElements>*>(from);
}

// All bytes of a vector, 16 (or its only 8 or 4) by one `load` of words. A plain copy of the vector
// that is picked apart at once may become a load for every byte.
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
  } else if constexpr (sizeof(Bytes) == 8) {
    const uint2 two = load(reinterpret_cast<const uint2*>(from));
    to.words[0] = two.x;
    to.words[1] = two.y;
  } else {
    static_assert(sizeof(Bytes) == 4, "only vectors of 4, 8 and multiples of 16 bytes");
    to.words[0] = load(reinterpret_cast<const std::uint32_t*>(from));
  }
  return to;
}

// Of what the kernel may write.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_vector(const Vector<T, kElements>* from) {
  return load_words(from, [](const auto* words) { return *words; });
}

// Of what is read once: it gives way first in the caches.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_streaming(const Vector<T, kElements>* from) {
  return load_words(from, [](const auto* words) { return __ldcs(words); });
}

// Of what no thread of the kernel writes: the compiler may move it ahead of stores.
template <typename T, int kElements>
__device__ __forceinline__ Vector<T, kElements> load_shared_input(
    const Vector<T, kElements>* from) {
  return load_words(from, [](const auto* words) { return __ldg(words); });
}

template <typename T, int kElements>
__device__ __forceinline__ void store_vector(T* to, const Vector<T, kElements>& from) {
  using Bytes = Vector<T, kElements>;
  if constexpr (sizeof(Bytes) % 16 == 0) {
#pragma unroll
    for (int k = 0; k < static_cast<int>(sizeof(Bytes) / 16); ++k) {
      reinterpret_cast<uint4*>(to)[k] = make_uint4(from.words[4 * k], from.words[4 * k + 1],
                                                   from.words[4 * k + 2], from.words[4 * k + 3]);
    }
  } else if constexpr (sizeof(Bytes) == 8) {
    *reinterpret_cast<uint2*>(to) = make_uint2(from.words[0], from.words[1]);
  } else {
    static_assert(sizeof(Bytes) == 4, "only vectors of 4, 8 and multiples of 16 bytes");
    *reinterpret_cast<std::uint32_t*>(to) = from.words[0];
  }
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
      const float2 pair = unpacked_pair<T>(from.words[w]);
      to[2 * w] = pair.x;
      to[2 * w + 1] = pair.y;
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
      to.words[w] = packed_pair<T>(from[2 * w], from[2 * w + 1]);
    }
  }
  return to;
}

// kElements neighbouring elements that no thread of the kernel writes, as floats.
template <typename T, int kElements>
__device__ __forceinline__ void read_floats(const T* from, float (&to)[kElements]) {
  to_floats(load_shared_input(vector_at<kElements>(from)), to);
}

}  // namespace icd
