#pragma once

#include <memory>
#include <optional>
#include <string>

// Plain C++, present in every build.
namespace icd {

/// What the driver says of a device at one moment; none where it does not say.
struct DeviceReading {
  std::optional<double> sm_mhz;
  std::optional<double> memory_mhz;
  std::optional<double> temperature_c;
  std::optional<double> power_w;
  std::optional<double> throttle_reasons;  ///< bits of nvmlClocksEventReasons
};

/// Clocks, temperature and power of a device, from NVML, which is opened when it is needed. A
/// reading takes some tens of microseconds and leaves the device alone.
class DeviceMonitor {
 public:
  /// `bus_id` as cudaDeviceGetPCIBusId gives it. Never throws for lack of anything: see reason().
  explicit DeviceMonitor(const std::string& bus_id);
  ~DeviceMonitor();
  DeviceMonitor(const DeviceMonitor&) = delete;
  DeviceMonitor& operator=(const DeviceMonitor&) = delete;

  /// Empty, or one line: why readings are empty.
  const std::string& reason() const noexcept;

  /// Of the driver, e.g. "580.159.03"; empty if it does not say.
  const std::string& driver_version() const noexcept;

  DeviceReading read() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace icd
