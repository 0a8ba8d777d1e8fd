#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "icd/error.h"

namespace icd {

/// Turns the status of a CUDA call into an exception that names the call.
/// Throws Error{unavailable} unless status is cudaSuccess.
inline void check(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // said here, not by the next launch
  throw Error(ErrorCode::unavailable, std::string(call) + ": " + cudaGetErrorName(status) + ": " +
                                          cudaGetErrorString(status));
}

}  // namespace icd
