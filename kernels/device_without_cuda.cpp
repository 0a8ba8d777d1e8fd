#include "kernels/device.h"

namespace icd {

bool is_built_with_cuda() { return false; }

std::string cuda_runtime_version() { return {}; }

std::string cuda_driver_version() { return {}; }

std::vector<DeviceInfo> devices() { return {}; }

std::string why_no_device() {
  return "CUDA: this program was built without it (ICD_CUDA=OFF, or no nvcc was found)";
}

}  // namespace icd
