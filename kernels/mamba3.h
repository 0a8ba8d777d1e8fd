#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_mamba3() of kernels/icd_kernels.h, device pointers. Returns the status of the launch;
/// does not synchronise, allocates nothing, and succeeds without a launch where there is nothing to
/// do.
cudaError_t mamba3(const Mamba3Scan& args, cudaStream_t stream);

}  // namespace icd
