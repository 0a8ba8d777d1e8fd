#include <immintrin.h>

#include "cpu_kernels_impl.h"
#include "cpu_kernels_paths.h"

namespace icd {
namespace {

struct Avx2 {
  static constexpr int kLanes = 8;
  static constexpr int kTileRows = 6;  // 12 sums, 2 columns, 1 row element: 15 of 16 registers
  static constexpr int kTileVectors = 2;
  using Float = float __attribute__((vector_size(32)));
  using Int = std::int32_t __attribute__((vector_size(32)));

  static Float broadcast(float x) { return _mm256_set1_ps(x); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
};

}  // namespace

const CpuKernels& avx2_kernels() noexcept {
  static constexpr CpuKernels kKernels = kernels_of<Avx2>("avx2");
  return kKernels;
}

}  // namespace icd
