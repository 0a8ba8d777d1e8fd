#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"
#include "icd/layout.h"
#include "kernels/args.h"
#include "kernels/gpu_work.h"
#include "site_sums.h"

namespace icd {

/// What a layer remembers of the sequences of a batch, on the device. Null pointers: the sequences
/// start from zero, and nobody goes on from their end.
struct GpuState {
  float* conv = nullptr;  ///< (sequences, channels, d_conv - 1), oldest first
  float* scan = nullptr;  ///< (sequences, channels, d_state)
};

/// Step sizes from what comes before softplus, for observers: in host memory, and on the device.
struct StepSizes {
  std::vector<float> bias;   ///< (channels)
  std::vector<float> rates;  ///< (channels): the mean of |A| over the states
  GpuTensor device_rates;
  float least = 0;
  float most = 0;  ///< 0: no limits
};

/// Shows an observer, if there is one, what lies on the device.
class GpuShow {
 public:
  GpuShow(GpuWork& work, LayerObserver<float> observer)
      : work_(work),
        observer_(observer),
        sums_(dynamic_cast<const SumsObserver*>(observer.observer)) {}

  /// `rows` rows of `channels`, `stride` apart.
  void rows(Site site, const float* data, std::int64_t rows, std::int64_t stride,
            std::int64_t channels) const;

  /// Site::dt and Site::decay, of what dt_proj gives. `bias`: that of `sizes`, on the device.
  void steps(const StepSizes& sizes, const GpuTensor& bias, const float* data, std::int64_t rows,
             std::int64_t stride) const;

 private:
  /// Adds to the sums that the observer asks for.
  void measure(Site site, const float* data, std::int64_t rows, std::int64_t stride,
               std::int64_t channels) const;
  std::span<float> copied(const float* data, std::int64_t rows, std::int64_t stride,
                          std::int64_t channels) const;

  GpuWork& work_;
  LayerObserver<float> observer_;
  const SumsObserver* sums_;  // the observer, if it is one
};

/// A Mamba mixer with its weights on the current device, in f32.
class GpuMixer {
 public:
  virtual ~GpuMixer() = default;

  // Floats that one sequence takes in a GpuState, and one row while it runs.
  virtual std::int64_t conv_floats() const noexcept = 0;
  virtual std::int64_t scan_floats() const noexcept = 0;
  virtual std::int64_t row_floats() const noexcept = 0;

  /// hidden += mixer(normed); both (rows, d_model), packed, on the device. With a state the
  /// sequences go on from it and leave it at their end.
  virtual void run(GpuWork& work, BatchShape shape, const float* normed, float* hidden,
                   GpuState state, const GpuShow& show) const = 0;

  /// The same for one token of each sequence, by the kernels of decode.
  virtual void step(GpuWork& work, Index sequences, const float* normed, float* hidden,
                    GpuState state) const = 0;

  /// Empty, or one line: why step() cannot run.
  virtual std::string why_no_step() const { return {}; }
};

/// Throws as BlockWeights, and Error{unavailable} if the device has too little memory.
std::unique_ptr<GpuMixer> gpu_mamba1(const Checkpoint& checkpoint, const Block& block);
std::unique_ptr<GpuMixer> gpu_mamba2(const Checkpoint& checkpoint, const Block& block);

/// (sequences, length, channels) at `data`, rows `stride` apart.
inline Strided strided(const float* data, std::int64_t length, std::int64_t stride) {
  return {const_cast<float*>(data), length * stride, stride, 1};
}

}  // namespace icd
