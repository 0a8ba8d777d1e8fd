#include <algorithm>

#include "kernels/launch.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_ring.cuh"
#include "kernels/selective_scan_roles.cuh"

namespace icd {
namespace {

// ---- plain

template <typename T, int kTeam, int kStates>
cudaError_t launch_plain(const SelectiveScan& args, cudaStream_t stream) {
  constexpr int kThreads = 128;
  const std::int64_t blocks = quotient_up(args.batch * args.channels, kThreads / kTeam);
  selective_scan_plain_kernel<T, kTeam, kStates><<<grid_for(blocks), kThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t launch_plain_of(const SelectiveScan& args, cudaStream_t stream) {
  return args.states <= 16   ? launch_plain<T, 4, 4>(args, stream)
         : args.states <= 64 ? launch_plain<T, 16, 4>(args, stream)
                             : launch_plain<T, 32, 8>(args, stream);
}

// ---- ring. As many tokens as shared memory holds for 2 or 3 blocks of a multiprocessor.

using Ring2 = Ring<2, 32, 3>;
using Ring3 = Ring<3, 16, 4>;

struct RingWorkspace {
  std::int64_t ready_at = 256;
  std::int64_t states_at;
  std::int64_t bytes;

  explicit RingWorkspace(std::int64_t slots)
      : states_at(ready_at + quotient_up(slots * 4, 256) * 256),
        bytes(states_at + slots * kScanStates * kRingThreads * 4) {}
};

// Blocks that a multiprocessor holds at once.
template <typename R>
int resident_blocks() {
  const int block = R::kSharedBytes + device_attribute(cudaDevAttrReservedSharedMemoryPerBlock);
  return std::min(R::kBlocks,
                  device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor) / block);
}

// Blocks that share the tokens of a call evenly; 0 where sharing is not possible.
int ring_slots(const SelectiveScan& args, int blocks) {
  if (args.starts != nullptr || args.length == 0) return 0;
  const std::int64_t sequences = args.batch * quotient_up(args.channels, kRingChannels);
  const std::int64_t resident =
      std::int64_t{blocks} * device_attribute(cudaDevAttrMultiProcessorCount);
  return static_cast<int>(std::min(sequences, resident));
}

template <typename T, typename R>
cudaError_t launch_ring(const SelectiveScan& args, bool is_wrapped, cudaStream_t stream) {
  const auto kernel = selective_scan_ring_kernel<T, R>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, R::kSharedBytes);
  if (status != cudaSuccess) return status;
  const std::int64_t sequences = args.batch * quotient_up(args.channels, kRingChannels);
  RingShare share = {};
  if (is_wrapped) share.slots = ring_slots(args, resident_blocks<R>());
  if (share.slots > 0) {
    if (args.workspace == nullptr) return cudaErrorInvalidValue;
    const RingWorkspace place(share.slots);
    auto* workspace = static_cast<unsigned char*>(args.workspace);
    share.slot_tiles = quotient_up(sequences * quotient_up(args.length, R::kTile), share.slots);
    share.drawn = reinterpret_cast<int*>(workspace);
    share.is_ready = reinterpret_cast<int*>(workspace + place.ready_at);
    share.states = reinterpret_cast<float*>(workspace + place.states_at);
    const cudaError_t cleared =
        cudaMemsetAsync(workspace, 0, static_cast<std::size_t>(place.states_at), stream);
    if (cleared != cudaSuccess) return cleared;
  }
  const auto grid = static_cast<unsigned int>(share.slots > 0 ? share.slots : sequences);
  kernel<<<grid, kRingThreads, R::kSharedBytes, stream>>>(args, share);
  return cudaGetLastError();
}

// ---- roles. Tiles, warps and blocks a multiprocessor: experiments/scan.

using Roles4By32 = Roles<4, 4, 4, 16, 3>;
using Roles8By16 = Roles<8, 4, 4, 64, 1>;
using Roles8By40 = Roles<8, 10, 5, 32, 1>;

template <typename T, typename R>
cudaError_t launch_roles(const SelectiveScan& args, cudaStream_t stream) {
  const auto kernel = selective_scan_roles_kernel<T, R>;
  const cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, R::kSharedBytes);
  if (status != cudaSuccess) return status;
  const auto grid =
      static_cast<unsigned int>(args.batch * quotient_up(args.channels, R::kChannels));
  kernel<<<grid, R::kThreads, R::kSharedBytes, stream>>>(args);
  return cudaGetLastError();
}

// ---- the choice

int shared_bytes_of(ScanVariant variant) {
  switch (variant) {
    case ScanVariant::roles_4_32:
      return Roles4By32::kSharedBytes;
    case ScanVariant::roles_8_16:
      return Roles8By16::kSharedBytes;
    case ScanVariant::roles_8_40:
      return Roles8By40::kSharedBytes;
    case ScanVariant::automatic:
    case ScanVariant::plain:
      return 0;
    case ScanVariant::ring_2:
    case ScanVariant::ring_2_wrapped:
      return Ring2::kSharedBytes;
    default:
      return Ring3::kSharedBytes;
  }
}

bool has_rows_of_16_bytes(const Strided& tensor) {
  return tensor.data == nullptr ||
         (reinterpret_cast<std::uintptr_t>(tensor.data) % 16 == 0 && tensor.channel == 1 &&
          tensor.batch % 8 == 0 && tensor.token % 8 == 0);
}

// Whether the pointers and sizes are what all designs but plain need.
bool suits_tiles(const SelectiveScan& args) {
  return args.states == kScanStates && args.type != ICD_F32 && has_rows_of_16_bytes(args.u) &&
         has_rows_of_16_bytes(args.dt) && has_rows_of_16_bytes(args.z) &&
         has_rows_of_16_bytes(args.B) && has_rows_of_16_bytes(args.C) &&
         has_rows_of_16_bytes(args.y) && args.batch * quotient_up(args.channels, 8) <= kMaxGrid;
}

bool fits_device(ScanVariant variant) {
  return shared_bytes_of(variant) <= device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}

// Three blocks a multiprocessor are faster than two that share the tokens evenly, by 3.5 % where
// they fill 97 % of their rounds (experiments/scan).
ScanVariant ring_by_size(const SelectiveScan& args) {
  const std::int64_t blocks = args.batch * quotient_up(args.channels, kRingChannels);
  const std::int64_t round =
      std::int64_t{resident_blocks<Ring3>()} * device_attribute(cudaDevAttrMultiProcessorCount);
  const bool is_full = round > 0 && blocks * 100 >= quotient_up(blocks, round) * round * 94;
  const bool is_wrapped_well = resident_blocks<Ring2>() == Ring2::kBlocks;
  return is_full || !is_wrapped_well ? ScanVariant::ring_3 : ScanVariant::ring_2_wrapped;
}

// The design by sizes alone: the workspace is asked for ahead of the pointers.
ScanVariant choice_by_size(const SelectiveScan& args) {
  if (args.states != kScanStates || args.type == ICD_F32) return ScanVariant::plain;
  const std::int64_t channels = args.batch * args.channels;
  const std::int64_t processors = device_attribute(cudaDevAttrMultiProcessorCount);
  // Between the channels a multiprocessor of the shapes of experiments/scan, each of which has what
  // was fastest there.
  const auto wanted = channels >= 256 * processors  ? ring_by_size(args)
                      : channels >= 60 * processors ? ScanVariant::roles_4_32
                      : channels >= 24 * processors ? ScanVariant::roles_8_40
                                                    : ScanVariant::roles_8_16;
  if (fits_device(wanted)) return wanted;
  return fits_device(ScanVariant::roles_4_32) ? ScanVariant::roles_4_32 : ScanVariant::plain;
}

template <typename T>
cudaError_t launch_tiles(const SelectiveScan& args, ScanVariant variant, cudaStream_t stream) {
  switch (variant) {
    case ScanVariant::ring_2:
      return launch_ring<T, Ring2>(args, false, stream);
    case ScanVariant::ring_3:
      return launch_ring<T, Ring3>(args, false, stream);
    case ScanVariant::ring_2_wrapped:
      return launch_ring<T, Ring2>(args, true, stream);
    case ScanVariant::roles_4_32:
      return launch_roles<T, Roles4By32>(args, stream);
    case ScanVariant::roles_8_16:
      return launch_roles<T, Roles8By16>(args, stream);
    case ScanVariant::roles_8_40:
      return launch_roles<T, Roles8By40>(args, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace

ScanVariant selective_scan_choice(const SelectiveScan& args) {
  if (!suits_tiles(args)) return ScanVariant::plain;
  const ScanVariant choice = choice_by_size(args);
  if (args.workspace != nullptr) return choice;
  return choice == ScanVariant::ring_2_wrapped ? ScanVariant::ring_2 : choice;
}

std::int64_t selective_scan_workspace(const SelectiveScan& args, ScanVariant variant) {
  if (variant == ScanVariant::automatic) variant = choice_by_size(args);
  if (variant != ScanVariant::ring_2_wrapped || args.batch <= 0 || args.channels <= 0) return 0;
  const int slots = ring_slots(args, resident_blocks<Ring2>());
  return slots == 0 ? 0 : RingWorkspace(slots).bytes;
}

cudaError_t selective_scan(const SelectiveScan& args, ScanVariant variant, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.channels == 0) return cudaSuccess;
  if (variant == ScanVariant::automatic) variant = selective_scan_choice(args);
  if (variant == ScanVariant::plain) {
    return with_type(args.type,
                     [&](auto type) { return launch_plain_of<decltype(type)>(args, stream); });
  }
  if (!suits_tiles(args) || !fits_device(variant)) return cudaErrorNotSupported;
  return args.type == ICD_F16 ? launch_tiles<__half>(args, variant, stream)
                              : launch_tiles<__nv_bfloat16>(args, variant, stream);
}

cudaError_t selective_scan(const SelectiveScan& args, cudaStream_t stream) {
  return selective_scan(args, ScanVariant::automatic, stream);
}

std::int64_t selective_scan_workspace(const SelectiveScan& args) {
  return selective_scan_workspace(args, ScanVariant::automatic);
}

}  // namespace icd
