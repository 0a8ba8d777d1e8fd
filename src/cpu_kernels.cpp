#include "cpu_kernels.h"

#include "cpu_kernels_paths.h"

namespace icd {

bool is_supported(CpuPath path) noexcept {
  switch (path) {
    case CpuPath::plain:
      return true;
#if defined(__x86_64__)
    case CpuPath::avx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case CpuPath::avx512:
      return __builtin_cpu_supports("avx512f") && is_supported(CpuPath::avx2);
#endif
    default:
      return false;
  }
}

CpuPath best_cpu_path() noexcept {
  CpuPath best = CpuPath::plain;
  for (const CpuPath path : kCpuPaths) {
    if (is_supported(path)) best = path;
  }
  return best;
}

const CpuKernels& cpu_kernels(CpuPath path) noexcept {
  switch (path) {
#if defined(__x86_64__)
    case CpuPath::avx2:
      return avx2_kernels();
    case CpuPath::avx512:
      return avx512_kernels();
#endif
    default:
      return plain_kernels();
  }
}

}  // namespace icd
