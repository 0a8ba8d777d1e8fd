#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/args.h"

namespace icd {

/// cuBLASLt, loaded when it is first wanted. One serves any number of DenseGemm.
class CublasLt;

/// For the current device. Throws Error{unavailable} without the library, or in a build that had
/// not its header; the hint says what to install.
std::shared_ptr<const CublasLt> open_cublas_lt();

/// "13.1.0"
std::string version_of(const CublasLt& library);

/// Of y = x W^T + bias, or y += that; or of y = x^T W, both with a row for each input. Pointers of
/// a call are multiples of 16 bytes.
struct DenseGemmShape {
  std::int64_t tokens = 0;
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  std::int32_t type = ICD_F32;  ///< of x, W, bias and y; sums are f32
  std::int64_t x_row = 0;       ///< elements from row to row; 0: packed
  std::int64_t y_row = 0;       ///< 0: outputs
  bool has_bias = false;
  bool adds_to_y = false;      ///< y += instead of y =
  bool is_transposed = false;  ///< x is (inputs, tokens) and W (inputs, outputs)
  bool may_use_tf32 = false;   ///< for f32: 10 bits of mantissa, tensor cores
  std::int64_t workspace_bytes = std::int64_t{32} << 20;  ///< that run() may use
};

/// A dense product through cuBLASLt, whose algorithm is chosen once, here.
class DenseGemm {
 public:
  /// Throws Error{usage} for sizes below 0 or an unknown type, Error{unavailable} if the library
  /// has no algorithm for the shape.
  DenseGemm(std::shared_ptr<const CublasLt> library, const DenseGemmShape& shape);
  ~DenseGemm();
  DenseGemm(DenseGemm&&) noexcept;
  DenseGemm& operator=(DenseGemm&&) noexcept;

  /// x (tokens, inputs), W (outputs, inputs) packed, or both transposed, bias (outputs), y (tokens,
  /// outputs), all on the device; y does not overlap the others. Does not synchronise and can be
  /// captured. Not to be called from two threads at a time.
  cudaError_t run(const void* x, const void* W, const void* bias, void* y, void* workspace,
                  cudaStream_t stream);

 private:
  struct Plan;
  std::unique_ptr<Plan> plan_;
};

}  // namespace icd
