#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/launch.h"
#include "kernels/ssd.cuh"
#include "kernels/ssd.h"
#include "kernels/ssd_chunked.cuh"

namespace icd {
namespace {

cudaError_t launch_plain(const Ssd& args, cudaStream_t stream) {
  const std::int64_t tiles = quotient_up(args.head_dim, kSsdPlainRows);
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

// By estimate, not by measurement: shorter segments pay more for their first pass than they win.
constexpr std::int64_t kSegmentChunks = 4;
constexpr std::int64_t kMaxSegments = 8;

// The chunked kernels of a type and its sizes, and what a block of them takes.
struct Chunked {
  const void* run;
  const void* run_segments;
  int states;
  int tiles;
  int stage_bytes;
  int state_stage_bytes;
  int other_bytes;
};

template <typename T, int kStates, int kTiles>
Chunked chunked_of() {
  using Shared = SsdShared<kStates, kTiles>;
  return {reinterpret_cast<const void*>(ssd_chunked_kernel<T, kStates, kTiles>),
          reinterpret_cast<const void*>(ssd_segments_kernel<T, kStates, kTiles>),
          kStates,
          kTiles,
          Shared::kStage,
          Shared::kStateStage,
          Shared::kTables + Shared::kMasks};
}

template <typename T>
Chunked chunked_of(const Ssd& args) {
  if (args.states == 64) return chunked_of<T, 64, 1>();
  const bool are_pairs = args.heads / args.groups * args.head_dim / kSsdTile % 2 == 0;
  return are_pairs ? chunked_of<T, 128, 2>() : chunked_of<T, 128, 1>();
}

Chunked chunked_of(const Ssd& args) {
  return args.type == ICD_F16 ? chunked_of<__half>(args) : chunked_of<__nv_bfloat16>(args);
}

bool sizes_are_chunked(const Ssd& args) {
  return (args.type == ICD_F16 || args.type == ICD_BF16) && args.head_dim % kSsdTile == 0 &&
         (args.states == 64 || args.states == 128) &&
         device_attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
}

constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();

// Whether the bytes from a row to the next are 32 bits.
bool is_near(const Strided& tensor) { return tensor.token >= 0 && tensor.token <= kMaxInt; }

bool is_wide(const Strided& tensor) {
  return is_near(tensor) && is_aligned(tensor.data) && tensor.batch % 8 == 0 &&
         tensor.token % 8 == 0 && tensor.channel == 1;
}

// Blocks that a multiprocessor runs at a time with so many chunks in shared memory.
int resident(const Chunked& kernels, int stages) {
  const int bytes = stages * kernels.stage_bytes + kernels.other_bytes;
  if (bytes > device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin)) return 0;
  const int fit = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) /
                  (bytes + device_attribute(cudaDevAttrReservedSharedMemoryPerBlock));
  return std::min(fit, 4 / kernels.tiles);  // by registers
}

// As many items as the device runs at a time start together, time after time; what is left over is
// cut until it fills the device, too.
SsdPlan plan_of(const Ssd& args, const Chunked& kernels, SsdVariant variant) {
  SsdPlan plan{};
  plan.items = args.batch * (args.heads * args.head_dim / kSsdTile / kernels.tiles);
  const auto row_bytes = [](const Strided& tensor) {
    return static_cast<std::uint32_t>(2 * tensor.token);
  };
  plan.x_row = row_bytes(args.x);
  plan.dt_row = row_bytes(args.dt);
  plan.z_row = row_bytes(args.z);
  plan.B_row = row_bytes(args.B);
  plan.C_row = row_bytes(args.C);
  plan.y_row = row_bytes(args.y);
  plan.stages = resident(kernels, 3) >= resident(kernels, 2) ? 3 : 2;
  plan.whole = plan.items;
  plan.segments = 1;
  if (variant == SsdVariant::chunked) return plan;

  const std::int64_t at_a_time =
      std::int64_t{multiprocessors()} * std::max(1, resident(kernels, plan.stages));
  const std::int64_t left = plan.items % at_a_time;
  const std::int64_t tokens = args.starts == nullptr ? args.length : args.length / args.batch;
  const std::int64_t segments =
      left == 0 ? 1
                : std::min({at_a_time / left, kMaxSegments, tokens / kSsdChunk / kSegmentChunks});
  if (segments >= 2) {
    plan.whole = plan.items - left;
    plan.segments = static_cast<int>(segments);
  } else if (variant == SsdVariant::split) {
    plan.whole = 0;
    plan.segments = 2;
  }
  return plan;
}

// Of the states that segments leave, in workspace; their decays come behind.
std::int64_t states_bytes(const SsdPlan& plan, const Chunked& kernels) {
  return (plan.items - plan.whole) * (plan.segments - 1) * kernels.tiles * kSsdTile *
         kernels.states * 4;
}

cudaError_t launch(const void* kernel, std::int64_t blocks, int threads, int shared_bytes,
                   const Ssd& args, const SsdPlan& plan, cudaStream_t stream) {
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  void* parameters[] = {const_cast<Ssd*>(&args), const_cast<SsdPlan*>(&plan)};
  return cudaLaunchKernel(kernel, dim3(grid_for(blocks)), dim3(static_cast<unsigned int>(threads)),
                          parameters, static_cast<std::size_t>(shared_bytes), stream);
}

cudaError_t launch_chunked(const Ssd& args, SsdVariant variant, cudaStream_t stream) {
  const Chunked kernels = chunked_of(args);
  SsdPlan plan = plan_of(args, kernels, variant);
  const std::int64_t left = plan.items - plan.whole;
  const int threads = kernels.tiles * kSsdTileThreads;
  if (left > 0) {
    plan.states = static_cast<float*>(args.workspace);
    plan.decays = plan.states + states_bytes(plan, kernels) / 4;
    const cudaError_t status =
        launch(kernels.run_segments, left * (plan.segments - 1), threads,
               plan.stages * kernels.state_stage_bytes + kernels.other_bytes, args, plan, stream);
    if (status != cudaSuccess) return status;
  }
  return launch(kernels.run, plan.whole + left * plan.segments, threads,
                plan.stages * kernels.stage_bytes + kernels.other_bytes, args, plan, stream);
}

}  // namespace

bool ssd_supports(const Ssd& args, SsdVariant variant) {
  if (variant == SsdVariant::automatic || variant == SsdVariant::plain) return true;
  if (!sizes_are_chunked(args)) return false;
  const std::int64_t tiles = args.batch * args.heads * args.head_dim / kSsdTile;
  // The chunks that are looked for behind the last token are counted in 32 bits, too.
  return tiles * kMaxSegments <= kMaxInt && args.length <= kMaxInt - 4 * kSsdChunk &&
         is_wide(args.x) && is_near(args.dt) && (args.z.data == nullptr || is_wide(args.z)) &&
         is_wide(args.B) && is_wide(args.C) && is_wide(args.y);
}

cudaError_t ssd(const Ssd& args, cudaStream_t stream, SsdVariant variant) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.heads == 0) return cudaSuccess;
  if (variant == SsdVariant::automatic) {
    variant = !ssd_supports(args, SsdVariant::split) ? SsdVariant::plain : variant;
  } else if (!ssd_supports(args, variant)) {
    return cudaErrorNotSupported;
  }
  if (variant == SsdVariant::plain) return launch_plain(args, stream);
  if (ssd_workspace(args, variant) > 0 && args.workspace == nullptr) {
    if (variant == SsdVariant::split) return cudaErrorInvalidValue;
    variant = SsdVariant::chunked;
  }
  return launch_chunked(args, variant, stream);
}

cudaError_t ssd(const Ssd& args, cudaStream_t stream) {
  return ssd(args, stream, SsdVariant::automatic);
}

std::int64_t ssd_workspace(const Ssd& args, SsdVariant variant) {
  if (variant == SsdVariant::plain || args.batch == 0 || args.heads == 0) return 0;
  if (args.groups <= 0 || args.head_dim <= 0 || !sizes_are_chunked(args)) return 0;
  const Chunked kernels = chunked_of(args);
  const SsdPlan plan = plan_of(args, kernels, variant);
  const std::int64_t bytes = states_bytes(plan, kernels);
  return bytes + bytes / (kSsdTile * kernels.states);
}

std::int64_t ssd_workspace(const Ssd& args) { return ssd_workspace(args, SsdVariant::automatic); }

}  // namespace icd
