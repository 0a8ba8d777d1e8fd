#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>

#include "kernels/args.h"

namespace icd {

/// cuSPARSELt, loaded when it is first wanted. One serves any number of SparseGemm.
class CusparseLt;

/// For the current device. Throws Error{unavailable} without the library, with one older than 0.6,
/// or on a device without sparse tensor cores; the hint says what to install.
std::shared_ptr<const CusparseLt> open_cusparse_lt();

/// Of y = x W^T, all packed, f16 or bf16; sums are f32. Pointers are multiples of 16 bytes.
struct SparseGemmShape {
  std::int64_t tokens = 0;   ///< a multiple of 8
  std::int64_t inputs = 0;   ///< a multiple of 16
  std::int64_t outputs = 0;  ///< a multiple of 16
  std::int32_t type = ICD_BF16;
};

/// A product with a W in which at most 2 of every 4 neighbouring inputs are not 0, through
/// cuSPARSELt. Keeps W compressed: 9/16 of its bytes.
class SparseGemm {
 public:
  /// W (outputs, inputs), on the device, is not needed afterwards. Synchronises the stream. Throws
  /// Error{input} if W is not sparse so, Error{usage} for sizes that do not fit, and
  /// Error{unavailable} for what the library cannot do.
  SparseGemm(std::shared_ptr<const CusparseLt> library, const SparseGemmShape& shape, const void* W,
             cudaStream_t stream);
  ~SparseGemm();
  SparseGemm(SparseGemm&&) noexcept;
  SparseGemm& operator=(SparseGemm&&) noexcept;

  std::int64_t workspace_bytes() const noexcept;

  /// x (tokens, inputs) and y (tokens, outputs), on the device. Does not synchronise.
  cudaError_t run(const void* x, void* y, void* workspace, cudaStream_t stream) const;

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace icd
