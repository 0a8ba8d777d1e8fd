#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>

#include "kernels/cuda_error.h"

namespace icd {

/// Bytes on the current device, aligned to 256, given back at the end of its life.
class DeviceBuffer {
 public:
  /// Throws Error{unavailable} if the device has not that much left.
  explicit DeviceBuffer(std::int64_t bytes) : bytes_(bytes) {
    const cudaError_t status = cudaMalloc(&data_, static_cast<std::size_t>(bytes));
    if (status == cudaErrorMemoryAllocation) throw out_of_memory(bytes);
    check(status, "cudaMalloc");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::uint8_t* data() noexcept { return static_cast<std::uint8_t*>(data_); }
  const std::uint8_t* data() const noexcept { return static_cast<const std::uint8_t*>(data_); }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  static Error out_of_memory(std::int64_t bytes) {
    cudaGetLastError();  // said here, not by the next launch
    std::size_t free = 0;
    std::size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    const auto mib = [](auto count) { return std::to_string(count >> 20) + " MiB"; };
    return Error(ErrorCode::unavailable, "CUDA: out of memory: " + mib(bytes) +
                                             " more were asked for, " + mib(free) + " of " +
                                             mib(total) + " are free");
  }

  void* data_ = nullptr;
  std::int64_t bytes_;
};

}  // namespace icd
