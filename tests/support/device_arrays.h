#pragma once

#include <cuda_runtime_api.h>

#include "kernels/device_buffer.h"
#include "support/arrays.h"

namespace icd::testing {

/// A copy of a host array on the device, `offset` bytes behind an address that is a multiple of
/// 256, with guard bytes behind it.
class DeviceArray {
 public:
  explicit DeviceArray(const HostArray& from, std::int64_t offset = 0)
      : like_(from), offset_(offset), buffer_(offset + from.size_bytes() + kGuard) {
    check(cudaMemset(buffer_.data(), 0xff, static_cast<std::size_t>(buffer_.bytes())),
          "cudaMemset");
    check(cudaMemcpy(data(), from.data(), static_cast<std::size_t>(from.size_bytes()),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
    // A copy from pageable memory may return early, and other streams do not wait for it.
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  void* data() { return buffer_.data() + offset_; }
  float* f32() { return static_cast<float*>(data()); }
  std::int32_t* i32() { return static_cast<std::int32_t*>(data()); }

  /// What is there now, when all work on the device is done. Fails the test if a byte ahead of the
  /// array or behind it was written.
  HostArray back() {
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    std::vector<std::uint8_t> all(static_cast<std::size_t>(buffer_.bytes()));
    check(cudaMemcpy(all.data(), buffer_.data(), all.size(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    const auto end = static_cast<std::size_t>(offset_ + like_.size_bytes());
    for (std::size_t i = 0; i < all.size(); ++i) {
      if ((i < static_cast<std::size_t>(offset_) || i >= end) && all[i] != 0xff) {
        ADD_FAILURE() << "byte " << i << " outside of an array was written";
        break;
      }
    }
    HostArray now(like_.type(), like_.count());
    std::memcpy(now.data(), all.data() + offset_, static_cast<std::size_t>(like_.size_bytes()));
    return now;
  }

 private:
  static constexpr std::int64_t kGuard = 256;

  HostArray like_;
  std::int64_t offset_;
  DeviceBuffer buffer_;
};

/// int32 values, for starts, slots and orders.
inline HostArray int_array(const std::vector<std::int32_t>& values) {
  HostArray array(ICD_F32, static_cast<std::int64_t>(values.size()));
  if (!values.empty()) {
    std::memcpy(array.data(), values.data(), values.size() * sizeof(std::int32_t));
  }
  return array;
}

}  // namespace icd::testing
