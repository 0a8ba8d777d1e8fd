#include "kernels/causal_conv1d.cuh"
#include "kernels/causal_conv1d.h"

namespace icd {
namespace {

std::int64_t quotient_up(std::int64_t n, std::int64_t by) { return n / by + (n % by != 0); }

// A grid of the largest size would be more items than memory holds.
unsigned int grid_for(std::int64_t items) {
  return static_cast<unsigned int>(quotient_up(items, kConvThreads));
}

template <typename T>
cudaError_t launch_tokens(const CausalConv1d& args, cudaStream_t stream) {
  const std::int64_t rows = args.starts == nullptr ? args.batch : 1;
  const std::int64_t outputs = rows * args.channels * args.length;
  if (outputs == 0) return cudaSuccess;
  causal_conv1d_any_kernel<T><<<grid_for(outputs), kConvThreads, 0, stream>>>(args, outputs);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_states(const CausalConv1d& args, cudaStream_t stream) {
  if (args.final_state == nullptr || args.width == 1) return cudaSuccess;
  const std::int64_t states = args.batch * args.channels;
  causal_conv1d_states_kernel<T><<<grid_for(states), kConvThreads, 0, stream>>>(args, states);
  return cudaGetLastError();
}

}  // namespace

cudaError_t causal_conv1d(const CausalConv1d& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.channels == 0) return cudaSuccess;

  return with_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const cudaError_t status = launch_tokens<T>(args, stream);
    return status == cudaSuccess ? launch_states<T>(args, stream) : status;
  });
}

cudaError_t causal_conv1d_update(const CausalConv1dUpdate& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  const std::int64_t rows = args.batch * args.channels;
  if (rows == 0) return cudaSuccess;

  return with_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    causal_conv1d_update_kernel<T><<<grid_for(rows), kConvThreads, 0, stream>>>(args, rows);
    return cudaGetLastError();
  });
}

}  // namespace icd
