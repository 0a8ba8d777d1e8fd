#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_skip_zero_gemv() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t skip_zero_gemv(const SkipZeroGemv& args, cudaStream_t stream);

/// As icd_skip_zero_gemv_workspace(), for the current device.
std::int64_t skip_zero_gemv_workspace(const SkipZeroGemv& args);

}  // namespace icd
