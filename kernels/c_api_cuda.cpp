#include <cuda_runtime_api.h>

#include <algorithm>

#include "kernels/c_api_device.h"
#include "kernels/causal_conv1d.h"
#include "kernels/device.h"
#include "kernels/mamba3.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/skip_zero_gemv.h"
#include "kernels/ssd.h"
#include "kernels/state_update.h"

namespace icd::c_api {
namespace {

/// Makes a device the current one for as long as it lives; a negative one leaves all as it is.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    if (cudaGetDevice(&before_) != cudaSuccess || device < 0 || device == before_) return;
    moved_ = cudaSetDevice(device) == cudaSuccess;
  }
  ~OnDevice() {
    if (moved_) cudaSetDevice(before_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
  bool moved_ = false;
};

// The launchers under one name.
cudaError_t start(const SelectiveScan& args, cudaStream_t stream) {
  return selective_scan(args, stream);
}
cudaError_t start(const CausalConv1d& args, cudaStream_t stream) {
  return causal_conv1d(args, stream);
}
cudaError_t start(const CausalConv1dUpdate& args, cudaStream_t stream) {
  return causal_conv1d_update(args, stream);
}
cudaError_t start(const StateUpdate& args, cudaStream_t stream) {
  return state_update(args, stream);
}
cudaError_t start(const HeadStateUpdate& args, cudaStream_t stream) {
  return head_state_update(args, stream);
}
cudaError_t start(const Ssd& args, cudaStream_t stream) { return ssd(args, stream); }
cudaError_t start(const Mamba3Scan& args, cudaStream_t stream) { return mamba3(args, stream); }
cudaError_t start(const RmsNorm& args, cudaStream_t stream) { return rms_norm(args, stream); }
cudaError_t start(const SkipZeroGemv& args, cudaStream_t stream) {
  return skip_zero_gemv(args, stream);
}

std::int64_t bytes_for(const SelectiveScan& args) { return selective_scan_workspace(args); }
std::int64_t bytes_for(const Ssd& args) { return ssd_workspace(args); }
std::int64_t bytes_for(const SkipZeroGemv& args) { return skip_zero_gemv_workspace(args); }

template <typename Args>
concept HasWorkspace = requires(const Args& args) {
  args.workspace;
};

bool has_driver() {
  static const bool has = !cuda_driver_version().empty();
  return has;
}

std::string trouble_of(int device) {
  const std::vector<DeviceInfo> listed = devices();
  if (device < 0 || device >= static_cast<int>(listed.size())) return why_no_device();
  return listed[static_cast<std::size_t>(device)].trouble;
}

std::string explained(cudaError_t status, int device) {
  const std::string trouble = trouble_of(device);
  if (!trouble.empty()) return trouble + "; 'icd doctor' lists what is there";
  return std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status) +
         " (of this launch, or of work that the device did before it)";
}

}  // namespace

Home home_of(const void* address) {
  if (!has_driver()) return {};
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, address) != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it as its own
    return {};
  }
  switch (attributes.type) {
    case cudaMemoryTypeDevice:
      return {Home::Kind::device, attributes.device};
    case cudaMemoryTypeManaged:
      return {Home::Kind::managed, attributes.device};
    case cudaMemoryTypeHost:
      return {Home::Kind::pinned};
    default:
      return {};
  }
}

template <typename Args>
std::string launch(const Args& args, int device, void* stream) {
  const OnDevice here(device);
  if constexpr (HasWorkspace<Args>) {
    const std::int64_t needed = bytes_for(args);
    if (needed > 0 && args.workspace == nullptr) {
      return "workspace is NULL, expected " + std::to_string(needed) + " bytes";
    }
  }
  const cudaError_t status = start(args, static_cast<cudaStream_t>(stream));
  return status == cudaSuccess ? std::string() : explained(status, device);
}

template <typename Args>
std::int64_t workspace(const Args& args, int device) {
  if (!has_driver()) return 0;
  const OnDevice here(device);
  return bytes_for(args);
}

std::string why_not_current_device() {
  int device = 0;
  if (!has_driver() || cudaGetDevice(&device) != cudaSuccess) {
    cudaGetLastError();
    return why_no_device();
  }
  return trouble_of(device);
}

template std::string launch(const SelectiveScan&, int, void*);
template std::string launch(const CausalConv1d&, int, void*);
template std::string launch(const CausalConv1dUpdate&, int, void*);
template std::string launch(const StateUpdate&, int, void*);
template std::string launch(const HeadStateUpdate&, int, void*);
template std::string launch(const Ssd&, int, void*);
template std::string launch(const Mamba3Scan&, int, void*);
template std::string launch(const RmsNorm&, int, void*);
template std::string launch(const SkipZeroGemv&, int, void*);
template std::int64_t workspace(const SelectiveScan&, int);
template std::int64_t workspace(const Ssd&, int);
template std::int64_t workspace(const SkipZeroGemv&, int);

}  // namespace icd::c_api
