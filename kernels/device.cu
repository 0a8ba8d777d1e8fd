#include <cuda_runtime_api.h>

#include "kernels/device.h"

namespace icd {
namespace {

// Asked for, never launched: the runtime says whether it has code for the device.
__global__ void any_kernel() {}

std::string version_text(int version) {  // 13000 is 13.0, 11080 is 11.8
  return version == 0 ? ""
                      : std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string error_text(cudaError_t status) {
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status);
}

// Makes a device the current one and puts back the one before it.
class CurrentDevice {
 public:
  explicit CurrentDevice(int device) {
    known_ = cudaGetDevice(&before_) == cudaSuccess;
    status_ = cudaSetDevice(device);
  }
  ~CurrentDevice() {
    if (known_) cudaSetDevice(before_);
    cudaGetLastError();  // what went wrong here is reported here, not by the next launch
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  bool known_ = false;
  cudaError_t status_;
};

std::string trouble_with(int device, const cudaDeviceProp& properties) {
  const CurrentDevice current(device);
  cudaFuncAttributes attributes{};
  const cudaError_t status = current.status() != cudaSuccess
                                 ? current.status()
                                 : cudaFuncGetAttributes(&attributes, any_kernel);
  if (status == cudaSuccess) return {};
  const std::string subject = "CUDA: device " + std::to_string(device) + " (" + properties.name +
                              ", compute capability " + std::to_string(properties.major) + "." +
                              std::to_string(properties.minor) + "): ";
  if (status == cudaErrorNoKernelImageForDevice || status == cudaErrorInvalidDeviceFunction ||
      status == cudaErrorUnsupportedPtxVersion) {
    return subject + "this program has no code for it, only for " ICD_CUDA_ARCHITECTURES;
  }
  return subject + error_text(status);
}

std::string why_not_listed(cudaError_t status) {
  const std::string driver = cuda_driver_version();
  if (driver.empty()) return "CUDA: there is no NVIDIA driver on this machine";
  if (status == cudaErrorInsufficientDriver) {
    return "CUDA: the driver serves CUDA " + driver + ", this program needs CUDA " +
           cuda_runtime_version();
  }
  if (status == cudaErrorNoDevice || status == cudaSuccess) {
    return "CUDA: the driver (CUDA " + driver +
           ") shows no device; CUDA_VISIBLE_DEVICES hides them";
  }
  return "CUDA: " + error_text(status);
}

cudaError_t count_devices(int* count) {
  const cudaError_t status = cudaGetDeviceCount(count);
  if (status != cudaSuccess) {
    *count = 0;
    cudaGetLastError();  // or the next launch would report it as its own
  }
  return status;
}

}  // namespace

bool is_built_with_cuda() { return true; }

std::string cuda_runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  return version_text(version);
}

std::string cuda_driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) != cudaSuccess) cudaGetLastError();
  return version_text(version);
}

std::vector<DeviceInfo> devices() {
  int count = 0;
  count_devices(&count);
  std::vector<DeviceInfo> found;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    const cudaError_t status = cudaGetDeviceProperties(&properties, device);
    DeviceInfo info{};
    if (status == cudaSuccess) {
      info.name = properties.name;
      info.major = properties.major;
      info.minor = properties.minor;
      info.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
      info.trouble = trouble_with(device, properties);
    } else {
      info.trouble = "CUDA: device " + std::to_string(device) + ": " + error_text(status);
      cudaGetLastError();
    }
    found.push_back(info);
  }
  return found;
}

std::string why_no_device() {
  int count = 0;
  const cudaError_t status = count_devices(&count);
  if (count == 0) return why_not_listed(status);
  const std::vector<DeviceInfo> found = devices();
  for (const DeviceInfo& device : found) {
    if (device.trouble.empty()) return {};
  }
  return found.front().trouble;
}

}  // namespace icd
