#include <algorithm>

#include "kernels/launch.h"
#include "kernels/mamba3.cuh"
#include "kernels/mamba3.h"

namespace icd {
namespace {

// A thread holds 4 * kChunks states. 32 of 256 threads are a head of 64 channels and 128 states,
// the usual one. Only a norm, which needs a head in one block, can need more: 128 of 512 threads,
// of which the registers hold half.
constexpr int kThreads = 256;
constexpr int kChunks = 8;
constexpr int kMostThreads = 512;
constexpr int kMostChunks = 32;

constexpr int kMostTokens = 16;  // of a stage, which share its barriers; not tuned yet
// Few heads are cut into at least this many blocks, two for every multiprocessor of an H200.
constexpr std::int64_t kEnoughBlocks = 264;
// What a block may have without asking, in floats. Only 8 ranks of 256 channels and 256 states with
// a norm ask for more, by 44 bytes.
constexpr std::int64_t kSharedFloats = (48 << 10) / sizeof(float);

Mamba3Plan plan_for(const Mamba3Scan& args, int threads) {
  const std::int64_t chunks = quotient_up(args.states, 4);
  Mamba3Plan plan{};
  const auto cut = [&](int lanes) {
    plan.lanes = lanes;
    plan.rows = threads / lanes;
    plan.tiles = quotient_up(args.head_dim, plan.rows);
  };
  if (args.norm != nullptr) {
    cut(std::min(32, threads / power_of_two_from(args.head_dim)));
  } else {
    cut(power_of_two_from(quotient_up(chunks, kChunks)));
    while (
        plan.lanes < 32 && plan.lanes < chunks &&
        (plan.rows >= 2 * args.head_dim || args.batch * args.heads * plan.tiles < kEnoughBlocks)) {
      cut(2 * plan.lanes);
    }
  }
  plan.width = std::max(4, power_of_two_from(args.states));
  plan.padded = static_cast<int>(4 * chunks);
  plan.tokens = static_cast<int>(std::min<std::int64_t>(kMostTokens, args.length));
  while (plan.tokens > 1 && mamba3_floats(plan, args.rank, plan.tokens) > kSharedFloats) {
    --plan.tokens;
  }
  return plan;
}

template <typename T, int kBlock, int kHeld>
cudaError_t launch(const Mamba3Scan& args, cudaStream_t stream) {
  const Mamba3Plan plan = plan_for(args, kBlock);
  const std::int64_t floats = mamba3_floats(plan, args.rank, plan.tokens);
  const auto bytes = static_cast<std::size_t>(floats) * sizeof(float);
  const auto kernel = mamba3_kernel<T, kBlock, kHeld>;
  if (floats > kSharedFloats) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (status != cudaSuccess) return status;
  }
  kernel<<<grid_for(args.batch * args.heads * plan.tiles), kBlock, bytes, stream>>>(args, plan);
  if (args.state != nullptr) {
    mamba3_keep_kernel<T><<<grid_for(args.batch * args.heads), plan.width, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

bool fits(const Mamba3Scan& args) {
  return args.norm == nullptr ||
         quotient_up(args.states, 4) <= std::int64_t{kChunks} * plan_for(args, kThreads).lanes;
}

}  // namespace

cudaError_t mamba3(const Mamba3Scan& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.length == 0 || args.heads == 0) return cudaSuccess;
  return with_type(args.type, [&](auto element) {
    using T = decltype(element);
    return fits(args) ? launch<T, kThreads, kChunks>(args, stream)
                      : launch<T, kMostThreads, kMostChunks>(args, stream);
  });
}

}  // namespace icd
