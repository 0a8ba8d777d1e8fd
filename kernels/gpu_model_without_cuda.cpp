#include "icd/error.h"
#include "kernels/device.h"
#include "kernels/gpu_model.h"

namespace icd {
namespace {

Error without_cuda() {
  return Error(ErrorCode::unavailable, why_no_device(), "`icd doctor` shows what this machine has");
}

}  // namespace

void check_gpu_model(const Checkpoint& /*checkpoint*/, const Layout& /*layout*/, int /*device*/,
                     int /*models*/) {
  throw without_cuda();
}

std::unique_ptr<GpuModel> gpu_model(const Checkpoint& /*checkpoint*/, const Layout& /*layout*/,
                                    const GpuModelOptions& /*options*/) {
  throw without_cuda();
}

}  // namespace icd
