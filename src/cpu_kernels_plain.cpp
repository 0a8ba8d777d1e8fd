#include "cpu_kernels_impl.h"
#include "cpu_kernels_paths.h"

namespace icd {
namespace {

struct Plain {
  static constexpr int kLanes = 4;
  static constexpr int kTileRows = 2;
  static constexpr int kTileVectors = 2;
  using Float = float __attribute__((vector_size(16)));
  using Int = std::int32_t __attribute__((vector_size(16)));

  static Float broadcast(float x) { return Float{x, x, x, x}; }

  // fmaf is correctly rounded with or without the instruction. Without, it is slow: this path
  // is for machines before 2013 and for the tests of the others.
  static Float fma(Float a, Float b, Float c) {
    return Float{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]),
                 __builtin_fmaf(a[2], b[2], c[2]), __builtin_fmaf(a[3], b[3], c[3])};
  }
};

}  // namespace

const CpuKernels& plain_kernels() noexcept {
  static constexpr CpuKernels kKernels = kernels_of<Plain>("plain");
  return kKernels;
}

}  // namespace icd
