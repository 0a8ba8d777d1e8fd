#pragma once

#include <cuda_runtime_api.h>

#include "kernels/args.h"

namespace icd {

/// As icd_selective_scan() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do.
cudaError_t selective_scan(const SelectiveScan& args, cudaStream_t stream);

/// As icd_selective_scan_workspace(), for the current device.
std::int64_t selective_scan_workspace(const SelectiveScan& args);

}  // namespace icd
