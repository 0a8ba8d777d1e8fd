#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_causal_conv1d() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t causal_conv1d(const CausalConv1d& args, cudaStream_t stream);

/// As icd_causal_conv1d_update() of kernels/icd_kernels.h, device pointers. Returns the status of
/// the launch; does not synchronise, allocates nothing, and succeeds without a launch where there
/// is nothing to do.
cudaError_t causal_conv1d_update(const CausalConv1dUpdate& args, cudaStream_t stream);

}  // namespace icd
