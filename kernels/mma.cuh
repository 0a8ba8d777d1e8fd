#pragma once

#include <cstdint>

#include "kernels/element.cuh"

// Matrix products of a warp on tensor cores, and what feeds them, from compute capability 8.0;
// ahead of it these do nothing. Lane l of a warp has g = l / 4 and t = l % 4. Pairs of 16-bit
// elements are packed in a word, the first in its low half. Source: PTX ISA, mma.m16n8k16 and
// ldmatrix.
//   a (16, 16): words (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8) and the columns behind
//   b (16, 8):  words (2t, g), (2t + 8, g) and the rows below
//   d (16, 8):  elements (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
namespace icd {

__device__ __forceinline__ std::uint32_t shared_address(const void* place) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(place));
}

// Four (8, 8) matrices of 16-bit elements: lane l gives the address of row l % 8 of matrix l / 8
// and gets word (g, 2t) of each.
__device__ __forceinline__ void load_matrices(std::uint32_t (&words)[4], std::uint32_t address) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
#endif
}

// The same of the transposed matrices: lane l gets (2t, g) and the row below.
__device__ __forceinline__ void load_transposed(std::uint32_t (&words)[4], std::uint32_t address) {
#if __CUDA_ARCH__ >= 800
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
               : "r"(address)
               : "memory");
#endif
}

// What load_transposed() reads, written: lane l gives the address of row l % 8 of matrix l / 8 and
// elements (2t, g) of each and the row below. One instruction from compute capability 9.0.
__device__ __forceinline__ void store_transposed(const std::uint32_t (&words)[4],
                                                 std::uint32_t address) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
      : "memory");
#elif __CUDA_ARCH__ >= 800
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int below = 0; below < 2; ++below) {
      const std::uint32_t row = __shfl_sync(0xffffffffU, address, 8 * m + lane % 4 * 2 + below);
      const auto element = static_cast<std::uint16_t>(words[m] >> (16 * below));
      asm volatile("st.shared.u16 [%0], %1;" ::"r"(row + lane / 4 * 2), "h"(element) : "memory");
    }
  }
#endif
}

// d += a b, sums in f32.
template <typename T>
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4],
                                             std::uint32_t b0, std::uint32_t b1);
template <>
__device__ __forceinline__ void multiply_add<__half>(float (&d)[4], const std::uint32_t (&a)[4],
                                                     std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
template <>
__device__ __forceinline__ void multiply_add<__nv_bfloat16>(float (&d)[4],
                                                            const std::uint32_t (&a)[4],
                                                            std::uint32_t b0, std::uint32_t b1) {
#if __CUDA_ARCH__ >= 800
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// mark + 0 pair: both halves of a mark stay 0 until a pair has a NaN or an infinity.
template <typename T>
__device__ __forceinline__ std::uint32_t marked(std::uint32_t mark, std::uint32_t pair);
template <>
__device__ __forceinline__ std::uint32_t marked<__half>(std::uint32_t mark, std::uint32_t pair) {
#if __CUDA_ARCH__ >= 800
  asm("fma.rn.f16x2 %0, %1, %2, %0;" : "+r"(mark) : "r"(pair), "r"(0));
#endif
  return mark;
}
template <>
__device__ __forceinline__ std::uint32_t marked<__nv_bfloat16>(std::uint32_t mark,
                                                               std::uint32_t pair) {
#if __CUDA_ARCH__ >= 800
  asm("fma.rn.bf16x2 %0, %1, %2, %0;" : "+r"(mark) : "r"(pair), "r"(0));
#endif
  return mark;
}

// Copies 16 bytes to shared memory behind the thread's back ...
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#endif
}
// ... or zeros where there is nothing.
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, bool is_there) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(is_there ? 16 : 0)
               : "memory");
#endif
}
__device__ __forceinline__ void close_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Waits until at most `kOpen` of the closed groups of this thread's copies are under way.
template <int kOpen>
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
#endif
}

}  // namespace icd
