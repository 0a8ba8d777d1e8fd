#include <algorithm>

#include "kernels/causal_conv1d.cuh"
#include "kernels/causal_conv1d.h"
#include "kernels/launch.h"

namespace icd {
namespace {

// A thread for each. A grid of the largest size would be more items than memory holds.
unsigned int grid_of(std::int64_t items) { return grid_for(quotient_up(items, kConvThreads)); }

std::int64_t rows_of(const CausalConv1d& args) { return args.starts == nullptr ? args.batch : 1; }

// Whether vectors of `elements` channels start at multiples of 16 bytes. The stride of an axis with
// one place does not matter.
bool has_channel_vectors(const CausalConv1d& args, const Strided& tensor, std::int64_t elements) {
  const std::int64_t batch = rows_of(args) > 1 ? tensor.batch : 0;
  const std::int64_t token = args.length > 1 ? tensor.token : 0;
  return tensor.channel == 1 && is_aligned(tensor.data) && batch % elements == 0 &&
         token % elements == 0;
}

// The same for vectors of tokens.
bool has_token_vectors(const CausalConv1d& args, const Strided& tensor, std::int64_t elements) {
  const std::int64_t batch = rows_of(args) > 1 ? tensor.batch : 0;
  const std::int64_t channel = args.channels > 1 ? tensor.channel : 0;
  return tensor.token == 1 && is_aligned(tensor.data) && batch % elements == 0 &&
         channel % elements == 0;
}

// Stretches long enough to spare the caches the past of most tokens, short enough to keep a device
// whose multiprocessors hold 512 threads each busy for a few waves.
int tokens_of_stretch(std::int64_t vector_tokens) {
  constexpr std::int64_t kWaves = 4;
  constexpr std::int64_t kThreads = kConvThreads * kConvBlocks;
  constexpr std::int64_t kStep = 2 * kConvGroup;
  const std::int64_t tokens = vector_tokens / (kWaves * kThreads * multiprocessors());
  return static_cast<int>(
      std::clamp<std::int64_t>(quotient_up(tokens, kStep) * kStep, kStep, 16 * kStep));
}

// The channels from `first` to `end`.
template <typename T, int kElements, int kTaps>
cudaError_t launch_walk(const CausalConv1d& args, std::int64_t first, std::int64_t end,
                        bool writes_final, cudaStream_t stream) {
  const std::int64_t vectors = (end - first) / kElements;
  const std::int64_t rows = rows_of(args);
  const int tokens = tokens_of_stretch(rows * args.length * vectors);
  const ConvWalk walk{first, vectors, quotient_up(args.length, tokens), tokens, writes_final};
  const auto kernel = args.silu != 0 ? causal_conv1d_walk_kernel<T, kElements, kTaps, true>
                                     : causal_conv1d_walk_kernel<T, kElements, kTaps, false>;
  kernel<<<grid_of(rows * walk.stretches * vectors), kConvThreads, 0, stream>>>(args, walk);
  return cudaGetLastError();
}

template <typename T, int kTaps>
cudaError_t launch_along_tokens(const CausalConv1d& args, cudaStream_t stream) {
  const std::int64_t vectors = quotient_up(args.length, kElementsOf16Bytes<T>);
  const int lanes = power_of_two_from(std::min<std::int64_t>(vectors, 32));
  const std::int64_t pieces = quotient_up(vectors, lanes * kConvVectors);
  const std::int64_t teams = args.batch * args.channels * pieces;
  const auto kernel = args.silu != 0 ? causal_conv1d_tokens_kernel<T, kTaps, true>
                                     : causal_conv1d_tokens_kernel<T, kTaps, false>;
  kernel<<<grid_of(teams * lanes), kConvThreads, 0, stream>>>(args, pieces, lanes);
  return cudaGetLastError();
}

// y, and the final states where `writes_final`: set to false where they are left to
// launch_states().
template <typename T>
cudaError_t launch_tokens(const CausalConv1d& args, bool& writes_final, cudaStream_t stream) {
  constexpr int kElements = kElementsOf16Bytes<T>;
  const bool has_fast_width = args.width >= 2 && args.width <= 4;
  const auto with_taps = [&](const auto& two, const auto& three, const auto& four) {
    return args.width == 2 ? two() : args.width == 3 ? three() : four();
  };

  if (has_fast_width && args.starts == nullptr && has_token_vectors(args, args.x, kElements) &&
      has_token_vectors(args, args.y, kElements)) {
    writes_final = false;
    return with_taps([&] { return launch_along_tokens<T, 2>(args, stream); },
                     [&] { return launch_along_tokens<T, 3>(args, stream); },
                     [&] { return launch_along_tokens<T, 4>(args, stream); });
  }
  if (args.x.token == 1 && args.x.channel != 1) {
    writes_final = false;
    const std::int64_t outputs = rows_of(args) * args.channels * args.length;
    causal_conv1d_any_kernel<T><<<grid_of(outputs), kConvThreads, 0, stream>>>(args, outputs);
    return cudaGetLastError();
  }
  std::int64_t by_vectors = 0;  // channels
  if (has_fast_width && is_aligned(args.weight) && is_aligned(args.bias) &&
      has_channel_vectors(args, args.x, kElements) &&
      has_channel_vectors(args, args.y, kElements)) {
    by_vectors = args.channels / kElements * kElements;
  }
  writes_final = writes_final && by_vectors == args.channels && is_aligned(args.final_state);
  cudaError_t status = cudaSuccess;
  if (by_vectors > 0) {
    const auto launch = [&](auto walk) {
      return walk(args, std::int64_t{0}, by_vectors, writes_final, stream);
    };
    status = with_taps([&] { return launch(launch_walk<T, kElements, 2>); },
                       [&] { return launch(launch_walk<T, kElements, 3>); },
                       [&] { return launch(launch_walk<T, kElements, 4>); });
  }
  if (by_vectors < args.channels && status == cudaSuccess) {
    status = launch_walk<T, 1, 0>(args, by_vectors, args.channels, false, stream);
  }
  return status;
}

template <typename T>
cudaError_t launch_states(const CausalConv1d& args, cudaStream_t stream) {
  const std::int64_t states = args.batch * args.channels;
  causal_conv1d_states_kernel<T><<<grid_of(states), kConvThreads, 0, stream>>>(args, states);
  return cudaGetLastError();
}

}  // namespace

cudaError_t causal_conv1d(const CausalConv1d& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.channels == 0) return cudaSuccess;

  return with_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    const bool has_final = args.final_state != nullptr && args.width > 1;
    cudaError_t status = cudaSuccess;
    // Blocks that write final states where others still read the initial ones would race; a
    // sequence without tokens has no block.
    bool writes_final = has_final && args.length > 0 && args.starts == nullptr &&
                        args.initial_state != args.final_state;
    if (args.length > 0) status = launch_tokens<T>(args, writes_final, stream);
    if (has_final && !writes_final && status == cudaSuccess) {
      status = launch_states<T>(args, stream);
    }
    return status;
  });
}

cudaError_t causal_conv1d_update(const CausalConv1dUpdate& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  const std::int64_t rows = args.batch * args.channels;
  if (rows == 0) return cudaSuccess;

  return with_type(args.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr std::size_t kBytes = 4 * sizeof(T);
    const bool is_four = args.width == 4 && args.kept == 4 && args.state_slot % 4 == 0 &&
                         args.state_channel % 4 == 0 && is_aligned(args.state, kBytes) &&
                         is_aligned(args.weight, kBytes);
    const auto kernel = is_four ? causal_conv1d_update4_kernel<T> : causal_conv1d_update_kernel<T>;
    kernel<<<grid_of(rows), kConvThreads, 0, stream>>>(args, rows);
    return cudaGetLastError();
  });
}

}  // namespace icd
