#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_skip_zero_gemv() of kernels/icd_kernels.h, device pointers. What W holds where x is 0 (of
/// either sign) has no part in y, NaN and infinity included: it may not have been fetched.
///
/// Row-major W is fetched in pieces of 16 bytes that meet a value of x other than 0, which the
/// memory rounds up to sectors of 32: how many there are depends on how such values cluster.
/// Input-major W is skipped by whole rows of memory: only how many there are matters.
///
/// Returns the status of the launch, cudaErrorInvalidValue also for more than 2^30 columns;
/// does not synchronise, allocates nothing, and succeeds without a launch where there is nothing
/// to do. The order of sums depends on the sizes and on which x are 0.
cudaError_t skip_zero_gemv(const SkipZeroGemv& args, cudaStream_t stream);

/// As icd_skip_zero_gemv_workspace(), for the current device.
std::int64_t skip_zero_gemv_workspace(const SkipZeroGemv& args);

}  // namespace icd
