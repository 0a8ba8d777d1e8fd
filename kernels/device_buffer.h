#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda_error.h"

namespace icd {

/// Bytes on the current device, aligned to 256, given back at the end of its life.
class DeviceBuffer {
 public:
  /// Throws Error{unavailable} if the device has not that much left.
  explicit DeviceBuffer(std::int64_t bytes) : bytes_(bytes) {
    check(cudaMalloc(&data_, static_cast<std::size_t>(bytes)), "cudaMalloc");
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  std::uint8_t* data() noexcept { return static_cast<std::uint8_t*>(data_); }
  const std::uint8_t* data() const noexcept { return static_cast<const std::uint8_t*>(data_); }
  std::int64_t bytes() const noexcept { return bytes_; }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_;
};

}  // namespace icd
