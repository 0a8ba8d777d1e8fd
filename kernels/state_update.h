#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_state_update() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t state_update(const StateUpdate& args, cudaStream_t stream);

/// Parts of the batch that state_update() gives to blocks of their own on the current device: each
/// reads A, D, dt_bias and the active places of its channels for itself. Of models with 16 states.
std::int64_t state_update_pieces(const StateUpdate& args);

/// As icd_head_state_update() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t head_state_update(const HeadStateUpdate& args, cudaStream_t stream);

}  // namespace icd
