#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_ssd() of kernels/icd_kernels.h, device pointers. Returns the status of the launch; does
/// not synchronise, allocates nothing, and succeeds without a launch where there is nothing to do.
cudaError_t ssd(const Ssd& args, cudaStream_t stream);

/// As icd_ssd_workspace(), for the current device.
std::int64_t ssd_workspace(const Ssd& args);

}  // namespace icd
