#include <immintrin.h>

#include "cpu_kernels_impl.h"
#include "cpu_kernels_paths.h"

namespace icd {
namespace {

struct Avx512 {
  static constexpr int kLanes = 16;
  static constexpr int kTileRows = 14;  // 28 sums, 2 columns, 1 row element: 31 of 32 registers
  static constexpr int kTileVectors = 2;
  using Float = float __attribute__((vector_size(64)));
  using Int = std::int32_t __attribute__((vector_size(64)));

  static Float broadcast(float x) { return _mm512_set1_ps(x); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
};

}  // namespace

const CpuKernels& avx512_kernels() noexcept {
  static constexpr CpuKernels kKernels = kernels_of<Avx512>("avx512");
  return kKernels;
}

}  // namespace icd
