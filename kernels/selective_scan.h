#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>

#include "kernels/args.h"

namespace icd {

/// As icd_selective_scan() of kernels/icd_kernels.h, device pointers. Returns the status of the
/// launch; does not synchronise, allocates nothing, and succeeds without a launch where there is
/// nothing to do. Without the workspace it asks for, it runs all the same, a few per cent slower.
cudaError_t selective_scan(const SelectiveScan& args, cudaStream_t stream);

/// As icd_selective_scan_workspace(), for the current device.
std::int64_t selective_scan_workspace(const SelectiveScan& args);

/// The designs of the scan, by name: for tests and for measurements. All of them do the same
/// calculation in the same order of tokens.
enum class ScanVariant {
  automatic,
  plain,  // takes any call; the others need 16 states of f16 or bf16 and rows of 16 bytes
  // Every warp does all the work for its channels. The number is blocks a multiprocessor.
  ring_2,
  ring_3,
  ring_2_wrapped,  // as many blocks as fit the device at once, which share the tokens evenly
  // Warps with roles. Lanes a channel, then channels a block.
  roles_4_32,
  roles_8_16,
  roles_8_40,
};

struct NamedScanVariant {
  ScanVariant variant;
  const char* name;
};

constexpr std::array<NamedScanVariant, 8> kScanVariants = {{
    {ScanVariant::automatic, "automatic"},
    {ScanVariant::plain, "plain"},
    {ScanVariant::ring_2, "ring_2"},
    {ScanVariant::ring_3, "ring_3"},
    {ScanVariant::ring_2_wrapped, "ring_2_wrapped"},
    {ScanVariant::roles_4_32, "roles_4_32"},
    {ScanVariant::roles_8_16, "roles_8_16"},
    {ScanVariant::roles_8_40, "roles_8_40"},
}};

/// The same with a design of the caller's choice: cudaErrorNotSupported where it does not take
/// the call or the device, cudaErrorInvalidValue without the workspace that it needs.
cudaError_t selective_scan(const SelectiveScan& args, ScanVariant variant, cudaStream_t stream);

/// Bytes of workspace of a design on the current device.
std::int64_t selective_scan_workspace(const SelectiveScan& args, ScanVariant variant);

/// What automatic stands for, on the current device.
ScanVariant selective_scan_choice(const SelectiveScan& args);

}  // namespace icd
