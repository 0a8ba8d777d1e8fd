#include <algorithm>
#include <limits>

#include "kernels/selective_scan.cuh"
#include "kernels/selective_scan.h"

namespace icd {
namespace {

// Kernels stride over what a grid of the largest size leaves.
unsigned int grid_for(std::int64_t blocks) {
  return static_cast<unsigned int>(
      std::min<std::int64_t>(blocks, std::numeric_limits<std::int32_t>::max()));
}

template <typename T, int kTeam, int kStates>
cudaError_t launch_plain(const SelectiveScan& args, cudaStream_t stream) {
  constexpr int kThreads = 128;
  constexpr int kTeams = kThreads / kTeam;
  const std::int64_t blocks = (args.batch * args.channels + kTeams - 1) / kTeams;
  selective_scan_plain_kernel<T, kTeam, kStates><<<grid_for(blocks), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_plain_of(const SelectiveScan& args, cudaStream_t stream) {
  return args.states <= 16   ? launch_plain<T, 4, 4>(args, stream)
         : args.states <= 64 ? launch_plain<T, 16, 4>(args, stream)
                             : launch_plain<T, 32, 8>(args, stream);
}

}  // namespace

cudaError_t selective_scan(const SelectiveScan& args, ScanVariant variant, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.channels == 0) return cudaSuccess;
  if (variant != ScanVariant::automatic && variant != ScanVariant::plain) {
    return cudaErrorNotSupported;
  }
  return with_type(args.type,
                   [&](auto type) { return launch_plain_of<decltype(type)>(args, stream); });
}

std::int64_t selective_scan_workspace(const SelectiveScan&, ScanVariant) { return 0; }

ScanVariant selective_scan_choice(const SelectiveScan&) { return ScanVariant::plain; }

cudaError_t selective_scan(const SelectiveScan& args, cudaStream_t stream) {
  return selective_scan(args, ScanVariant::automatic, stream);
}

std::int64_t selective_scan_workspace(const SelectiveScan& args) {
  return selective_scan_workspace(args, ScanVariant::automatic);
}

}  // namespace icd
