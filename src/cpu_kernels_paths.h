#pragma once

#include "cpu_kernels.h"

namespace icd {

// Each is compiled in a file of its own, the last two with their instruction set switched on
// (src/CMakeLists.txt) and called only where is_supported() says so.
const CpuKernels& plain_kernels() noexcept;
const CpuKernels& avx2_kernels() noexcept;
const CpuKernels& avx512_kernels() noexcept;

}  // namespace icd
