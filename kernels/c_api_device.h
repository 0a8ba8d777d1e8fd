#pragma once

#include <cstdint>
#include <string>

// What the C interface needs of CUDA. Present in every build: one without CUDA knows host memory
// only.
namespace icd::c_api {

/// Who can use an address.
struct Home {
  enum class Kind {
    host,
    device,
    pinned,   ///< the host, and every device
    managed,  ///< moves to where it is used
  };
  Kind kind = Kind::host;
  int device = -1;  ///< of device and managed memory
};

/// Makes a context on the first call where there is a driver.
Home home_of(const void* address);

/// Launches on a device and its stream; other than the launchers, whatever device is current.
/// Returns what went wrong, in one line, or an empty string.
template <typename Args>
std::string launch(const Args& args, int device, void* stream);

/// Bytes for a call on the device, or on the current one where it is negative; 0 without one.
template <typename Args>
std::int64_t workspace(const Args& args, int device);

/// Empty if kernels run on the current device, else one line.
std::string why_not_current_device();

}  // namespace icd::c_api
