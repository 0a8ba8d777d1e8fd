#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_state_update() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t state_update(const StateUpdate& args, cudaStream_t stream);

/// As icd_head_state_update() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t head_state_update(const HeadStateUpdate& args, cudaStream_t stream);

}  // namespace icd
