#include "cpu_kernels_impl.h"
#include "cpu_kernels_paths.h"
#include "plain_isa.h"

namespace icd {

const CpuKernels& plain_kernels() noexcept {
  static constexpr CpuKernels kKernels = kernels_of<PlainIsa>("plain");
  return kKernels;
}

}  // namespace icd
