#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/ssd.cuh"
#include "kernels/ssd.h"

namespace icd {
namespace {

// Kernels stride over what a grid of the largest size leaves.
unsigned int grid_for(std::int64_t blocks) {
  return static_cast<unsigned int>(
      std::min<std::int64_t>(blocks, std::numeric_limits<std::int32_t>::max()));
}

cudaError_t launch_plain(const Ssd& args, cudaStream_t stream) {
  const std::int64_t tiles = (args.head_dim + kSsdPlainRows - 1) / kSsdPlainRows;
  const unsigned int grid = grid_for(args.batch * args.heads * tiles);
  return with_type(args.type, [&](auto element) {
    using T = decltype(element);
    const auto kernel = args.states <= 32    ? ssd_plain_kernel<T, 1>
                        : args.states <= 64  ? ssd_plain_kernel<T, 2>
                        : args.states <= 128 ? ssd_plain_kernel<T, 4>
                                             : ssd_plain_kernel<T, 8>;
    kernel<<<grid, kSsdPlainThreads, 0, stream>>>(args);
    return cudaGetLastError();
  });
}

}  // namespace

bool ssd_supports(const Ssd&, SsdVariant variant) {
  return variant == SsdVariant::automatic || variant == SsdVariant::plain;
}

cudaError_t ssd(const Ssd& args, cudaStream_t stream, SsdVariant variant) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.heads == 0) return cudaSuccess;
  if (!ssd_supports(args, variant)) return cudaErrorNotSupported;
  return launch_plain(args, stream);
}

cudaError_t ssd(const Ssd& args, cudaStream_t stream) {
  return ssd(args, stream, SsdVariant::automatic);
}

std::int64_t ssd_workspace(const Ssd&, SsdVariant) { return 0; }

std::int64_t ssd_workspace(const Ssd& args) { return ssd_workspace(args, SsdVariant::automatic); }

}  // namespace icd
