#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <string_view>

#include "kernels/args.h"

namespace icd {

/// As icd_ssd() of kernels/icd_kernels.h, device pointers. Returns the status of the launch; does
/// not synchronise, allocates nothing, and succeeds without a launch where there is nothing to do.
cudaError_t ssd(const Ssd& args, cudaStream_t stream);

/// As icd_ssd_workspace(), for the current device.
std::int64_t ssd_workspace(const Ssd& args);

/// The ways to run it, for tests and benchmarks.
enum class SsdVariant {
  automatic,  ///< what ssd() does: the fastest that the arguments allow
  plain,      ///< token by token; any arguments
  chunked,    ///< matrix products over chunks, on tensor cores
  split,      ///< chunked, every sequence in segments that run side by side; needs a workspace
};

struct SsdVariantName {
  SsdVariant variant;
  std::string_view name;
};

inline constexpr std::array<SsdVariantName, 4> kSsdVariants = {{
    {SsdVariant::automatic, "automatic"},
    {SsdVariant::plain, "plain"},
    {SsdVariant::chunked, "chunked"},
    {SsdVariant::split, "split"},
}};

/// Whether a variant can run these arguments on the current device. chunked and split take f16 and
/// bf16 with head_dim a multiple of 64, 64 or 128 states, channel strides of 1, and rows that start
/// at multiples of 16 bytes, from compute capability 8.0.
///
/// They round states, weighted inputs and C B^T to the type ahead of their products: relative L2 of
/// y up to 3e-3 in bf16 and 4e-4 in f16, of the final state 1.7e-3 and 2e-4. What is infinite in
/// the recurrence may be NaN, and in f16 a state beyond 65504 is infinite.
bool ssd_supports(const Ssd& args, SsdVariant variant);

/// As ssd() and ssd_workspace(), one way. A variant that does not take the arguments is
/// cudaErrorNotSupported.
cudaError_t ssd(const Ssd& args, cudaStream_t stream, SsdVariant variant);
std::int64_t ssd_workspace(const Ssd& args, SsdVariant variant);

}  // namespace icd
