#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/device.h"

// Plain C++, present in every build.
namespace icd {

/// What a person asks for: "auto", "cpu", "cuda" or "cuda:1".
struct DeviceRequest {
  enum class Kind {
    automatic,  ///< a device if one serves, else the CPU
    cpu,
    cuda,  ///< a device, or an error
  };
  Kind kind = Kind::cpu;
  std::optional<int> number = {};  ///< of a device; none: the first that serves

  /// Throws Error{usage} for any other word.
  static DeviceRequest parse(std::string_view text);
};

/// Where to compute.
struct Place {
  std::optional<int> device;  ///< in the driver's order; none: the CPU
  std::string words;          ///< "the CPU", "CUDA device 0 (NVIDIA H200)"
  std::string why_cpu;        ///< one line: why an automatic choice fell on the CPU
};

/// The CPU, instead of a device that an automatic choice would have taken.
Place cpu_because(std::string why);

/// Where the request leads among the devices that devices() lists, of which why_no_device() says
/// `why_none`. Throws Error{unavailable} where a device is asked for and cannot serve.
Place choose_place(const DeviceRequest& request, std::span<const DeviceInfo> listed,
                   const std::string& why_none);

/// The same on this machine, which is asked only if the request depends on it.
Place choose_place(const DeviceRequest& request);

}  // namespace icd
