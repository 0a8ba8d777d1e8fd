#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "icd/language_model.h"

namespace icd {

/// Activations: (rows, width), row-major and packed, zero at first.
template <typename Real>
class Rows {
 public:
  Rows(std::int64_t rows, std::int64_t width)
      : width_(width), values_(static_cast<std::size_t>(rows * width)) {}

  std::int64_t width() const noexcept { return width_; }
  Real* operator[](std::int64_t row) noexcept { return values_.data() + row * width_; }
  const Real* operator[](std::int64_t row) const noexcept { return values_.data() + row * width_; }

 private:
  std::int64_t width_;
  std::vector<Real> values_;
};

/// out = in W^T + bias.
template <typename Real>
class Product {
 public:
  virtual ~Product() = default;

  /// Rows of `in` are ld_in apart, rows of `out` ld_out. `in` and `out` do not overlap.
  virtual void apply(const Real* in, std::int64_t ld_in, std::int64_t rows, Real* out,
                     std::int64_t ld_out) const = 0;
};

/// Mamba-1's scan of a batch, gate included: s = exp(dt A) s + dt x B;  y = (C . s + D x) SiLU(z).
template <typename Real>
struct ScanBatch {
  BatchShape shape;
  std::int64_t channels = 0;
  std::int64_t states = 0;
  const Real* x = nullptr;   ///< (rows, padded(channels))
  const Real* dt = nullptr;  ///< as x
  const Real* z = nullptr;   ///< as x
  const Real* b = nullptr;   ///< (rows, states), rows ld_bc apart
  const Real* c = nullptr;   ///< as b
  std::int64_t ld_bc = 0;
  const Real* rates = nullptr;  ///< of scan_rates()
  const Real* d = nullptr;      ///< (padded(channels))
  Real* y = nullptr;            ///< as x; may be x
};

/// What blocks are computed with: the equations are written once, over this, and it is
/// implemented twice: plainly in double, and fast in float.
template <typename Real>
class BlockMath {
 public:
  virtual ~BlockMath() = default;

  /// `weight` is (outputs, inputs) row-major; an empty `bias` is 0.
  virtual std::unique_ptr<Product<Real>> product(std::span<const Real> weight,
                                                 std::span<const Real> bias, std::int64_t outputs,
                                                 std::int64_t inputs) const = 0;

  /// Runs task(0) ... task(tasks - 1) in any order, at once or in turn. Tasks do not throw.
  virtual void each(std::int64_t tasks, const std::function<void(std::int64_t)>& task) const = 0;

  // Of `count` values, in place.
  virtual void exp(Real* values, std::int64_t count) const = 0;
  virtual void silu(Real* values, std::int64_t count) const = 0;
  virtual void softplus(Real* values, std::int64_t count) const = 0;

  /// out = (in - mean) / rms(in - mean) * weight + bias, where mean is 0 unless `is_centred`; an
  /// empty bias is 0. `out` may be `in`.
  virtual void norm(const Real* in, std::span<const Real> weight, std::span<const Real> bias,
                    bool is_centred, double epsilon, Real* out) const = 0;

  /// The width that rows of so many channels have in a scan; what stands beyond them is 0.
  virtual std::int64_t padded(std::int64_t channels) const = 0;

  /// A = -exp(a_log), (channels, states), arranged for scan().
  virtual std::vector<Real> scan_rates(std::span<const Real> a_log, std::int64_t channels,
                                       std::int64_t states) const = 0;
  virtual void scan(const ScanBatch<Real>& batch) const = 0;
};

std::unique_ptr<BlockMath<double>> reference_math();

/// Throws Error{unavailable} for an engine that was not built in.
std::unique_ptr<BlockMath<float>> fast_math(const FastModelOptions& options);

}  // namespace icd
