#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "cpu_kernels.h"
#include "icd/language_model.h"

namespace icd {

/// A weight matrix W, arranged for one engine's products with it.
class Linear {
 public:
  virtual ~Linear() = default;

  /// out = in W^T: rows of `inputs` floats, ld_in apart, give rows of `outputs` floats, ld_out
  /// apart. `in` and `out` do not overlap. May run concurrently.
  virtual void apply(const float* in, std::int64_t ld_in, std::int64_t rows, float* out,
                     std::int64_t ld_out) const = 0;

  /// Memory that the arranged weights take.
  virtual std::int64_t bytes() const noexcept = 0;
};

/// W = `weight`, (outputs, inputs) row-major, for the kernels of one CPU path. Each element
/// of a product is one chain of fused multiply-adds over k = 0 ... inputs - 1 that starts at
/// 0; tiles, blocks and threads change who computes it, never how.
std::unique_ptr<Linear> fixed_order_linear(const CpuKernels& kernels, std::span<const float> weight,
                                           Index outputs, Index inputs);

/// The same product by oneDNN, in an order of its own choice.
/// Throws Error{unavailable} where icd was built without it.
std::unique_ptr<Linear> onednn_linear(std::span<const float> weight, Index outputs, Index inputs);

/// Sets the number of OpenMP threads of the calling thread, ours and oneDNN's, for a scope;
/// 0 leaves it as it is.
class ThreadScope {
 public:
  explicit ThreadScope(int threads);
  ~ThreadScope();
  ThreadScope(const ThreadScope&) = delete;
  ThreadScope& operator=(const ThreadScope&) = delete;

 private:
  int before_;
};

}  // namespace icd
