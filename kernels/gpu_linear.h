#pragma once

#include <cstdint>
#include <span>

#include "kernels/gpu_work.h"

namespace icd {

/// out = in W^T + bias, in f32 without TF32.
class GpuLinear {
 public:
  /// `weight` is (outputs, inputs), in host memory; `bias` (outputs), or empty.
  GpuLinear(std::span<const float> weight, std::span<const float> bias, std::int64_t outputs,
            std::int64_t inputs)
      : outputs_(outputs), inputs_(inputs), weight_(weight), bias_(bias) {}

  /// Rows of `in` are ld_in apart, those of `out` packed.
  void apply(GpuWork& work, const float* in, std::int64_t ld_in, std::int64_t rows,
             float* out) const {
    work.multiply(shape(rows, ld_in), in, weight_.data(), bias_.data(), out);
  }

  /// The same, added to what `out` holds.
  void add_to(GpuWork& work, const float* in, std::int64_t ld_in, std::int64_t rows,
              float* out) const {
    DenseGemmShape adding = shape(rows, ld_in);
    adding.adds_to_y = true;
    work.multiply(adding, in, weight_.data(), bias_.data(), out);
  }

 private:
  DenseGemmShape shape(std::int64_t rows, std::int64_t ld_in) const {
    return {.tokens = rows,
            .inputs = inputs_,
            .outputs = outputs_,
            .x_row = ld_in,
            .has_bias = bias_.data() != nullptr};
  }

  std::int64_t outputs_;
  std::int64_t inputs_;
  GpuTensor weight_;
  GpuTensor bias_;
};

}  // namespace icd
