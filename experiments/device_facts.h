#pragma once

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>

#include "icd/error.h"
#include "kernels/device.h"

namespace icd::experiments {

/// The first device, for records. `driver` is NVIDIA's own number, which the CUDA runtime does not
/// tell. Throws Error{unavailable} if there is no device.
inline nlohmann::ordered_json device_facts(const std::string& driver) {
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why);
  }
  const DeviceInfo device = devices().front();
  return {{"name", device.name},
          {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
          {"memory_bytes", device.memory_bytes},
          {"driver", driver},
          {"driver_cuda", cuda_driver_version()},
          {"runtime_cuda", cuda_runtime_version()}};
}

}  // namespace icd::experiments
