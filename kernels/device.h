#pragma once

#include <cstdint>
#include <string>
#include <vector>

// Plain C++, present in every build: one without CUDA answers that it is one.
namespace icd {

/// A CUDA device as the driver lists it.
struct DeviceInfo {
  std::string name;           ///< e.g. "NVIDIA H200"
  int major = 0;              ///< compute capability, before the dot ...
  int minor = 0;              ///< ... and after it
  std::int64_t memory_bytes;  ///< all of it, in use or not
  std::string trouble;        ///< one line: why our kernels cannot run on it; empty if they can
};

/// Whether the kernels were compiled into this program.
bool is_built_with_cuda();

/// The version of CUDA that the program brings, e.g. "13.0"; empty if it brings none.
std::string cuda_runtime_version();

/// The newest version of CUDA that this machine's driver serves, e.g. "13.0"; empty without
/// a driver or in a build without CUDA.
std::string cuda_driver_version();

/// Every device the driver shows, in its order; empty if there is none to ask, which
/// why_no_device() then explains. Starts a context on each: some 0.1 s a device.
std::vector<DeviceInfo> devices();

/// Empty if kernels can run on at least one device, else one line that says what is in the
/// way: not built in, no driver, a driver too old, no device, no code for the device.
std::string why_no_device();

}  // namespace icd
