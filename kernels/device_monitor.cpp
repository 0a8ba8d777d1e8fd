#include "kernels/device_monitor.h"

#include <dlfcn.h>

#include <type_traits>

namespace icd {
namespace {

// NVML's interface has been stable since 2012, and its header is not part of every toolkit: these
// are the few declarations of nvml.h that are needed here.
using Device = void*;
using Status = int;
constexpr Status kSuccess = 0;
constexpr int kClockSm = 1;
constexpr int kClockMemory = 2;
constexpr int kTemperatureGpu = 0;

}  // namespace

struct DeviceMonitor::Parts {
  void* library = nullptr;
  Device device = nullptr;
  std::string reason;
  std::string driver;
  Status (*shut_down)() = nullptr;
  Status (*clock)(Device, int, unsigned int*) = nullptr;
  Status (*temperature)(Device, int, unsigned int*) = nullptr;
  Status (*power)(Device, unsigned int*) = nullptr;
  Status (*throttle)(Device, unsigned long long*) = nullptr;
};

DeviceMonitor::DeviceMonitor(const std::string& bus_id) : parts_(std::make_unique<Parts>()) {
  Parts& parts = *parts_;
  parts.library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (parts.library == nullptr) {
    parts.reason = "clocks: there is no libnvidia-ml.so.1 on this machine";
    return;
  }
  const auto find = [&](auto& function, const char* name) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(parts.library, name));
  };
  Status (*initialize)() = nullptr;
  Status (*device_at)(const char*, Device*) = nullptr;
  Status (*version)(char*, unsigned int) = nullptr;
  find(initialize, "nvmlInit_v2");
  find(device_at, "nvmlDeviceGetHandleByPciBusId_v2");
  find(version, "nvmlSystemGetDriverVersion");
  if (initialize == nullptr || device_at == nullptr || initialize() != kSuccess) {
    parts.reason = "clocks: NVML does not start";
    return;
  }
  find(parts.shut_down, "nvmlShutdown");
  if (char text[96] = {}; version != nullptr && version(text, sizeof text - 1) == kSuccess) {
    parts.driver = text;
  }
  if (device_at(bus_id.c_str(), &parts.device) != kSuccess) {
    parts.device = nullptr;
    parts.reason = "clocks: NVML does not know device " + bus_id;
    return;
  }
  find(parts.clock, "nvmlDeviceGetClockInfo");
  find(parts.temperature, "nvmlDeviceGetTemperature");
  find(parts.power, "nvmlDeviceGetPowerUsage");
  find(parts.throttle, "nvmlDeviceGetCurrentClocksThrottleReasons");
}

DeviceMonitor::~DeviceMonitor() {
  if (parts_->shut_down != nullptr) parts_->shut_down();
}

const std::string& DeviceMonitor::reason() const noexcept { return parts_->reason; }

const std::string& DeviceMonitor::driver_version() const noexcept { return parts_->driver; }

DeviceReading DeviceMonitor::read() const {
  const Parts& parts = *parts_;
  DeviceReading reading;
  if (parts.device == nullptr) return reading;
  unsigned int value = 0;
  const auto clock = [&](int which) -> std::optional<double> {
    if (parts.clock == nullptr || parts.clock(parts.device, which, &value) != kSuccess) return {};
    return value;
  };
  reading.sm_mhz = clock(kClockSm);
  reading.memory_mhz = clock(kClockMemory);
  if (parts.temperature != nullptr &&
      parts.temperature(parts.device, kTemperatureGpu, &value) == kSuccess) {
    reading.temperature_c = value;
  }
  if (parts.power != nullptr && parts.power(parts.device, &value) == kSuccess) {
    reading.power_w = value / 1000.0;  // of mW
  }
  unsigned long long bits = 0;
  if (parts.throttle != nullptr && parts.throttle(parts.device, &bits) == kSuccess) {
    reading.throttle_reasons = static_cast<double>(bits);
  }
  return reading;
}

}  // namespace icd
