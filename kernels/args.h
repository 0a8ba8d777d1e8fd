#pragma once

#include <cstdint>
#include <string>

#include "kernels/icd_kernels.h"

// The arguments of the kernels under C++ names. What their fields mean is said once, in
// kernels/icd_kernels.h.
namespace icd {

using Strided = icd_tensor;
using SelectiveScan = icd_selective_scan_args;
using CausalConv1d = icd_causal_conv1d_args;
using CausalConv1dUpdate = icd_causal_conv1d_update_args;
using StateUpdate = icd_state_update_args;
using HeadStateUpdate = icd_head_state_update_args;
using Ssd = icd_ssd_args;
using Mamba3Scan = icd_mamba3_args;
using RmsNorm = icd_rms_norm_args;
using SkipZeroGemv = icd_skip_zero_gemv_args;

/// Empty, or one line that names the field at fault, what it holds and what was expected.
/// Launchers answer such arguments with cudaErrorInvalidValue.
std::string why_not(const SelectiveScan& args);
std::string why_not(const CausalConv1d& args);
std::string why_not(const CausalConv1dUpdate& args);
std::string why_not(const StateUpdate& args);
std::string why_not(const HeadStateUpdate& args);
std::string why_not(const Ssd& args);
std::string why_not(const Mamba3Scan& args);
std::string why_not(const RmsNorm& args);
std::string why_not(const SkipZeroGemv& args);

/// Bytes of an element of ICD_F32, ICD_F16 or ICD_BF16; 0 for another type.
constexpr std::int64_t element_bytes(std::int32_t type) noexcept {
  return type == ICD_F32 ? 4 : type == ICD_F16 || type == ICD_BF16 ? 2 : 0;
}

}  // namespace icd
