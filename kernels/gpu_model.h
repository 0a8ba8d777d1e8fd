#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"
#include "icd/layout.h"

// Plain C++, present in every build: one without CUDA answers that it is one.
namespace icd {

/// Sequences of one batch that go on token by token; what they remember stays on the device.
/// Used by one thread at a time.
class GpuSession {
 public:
  virtual ~GpuSession() = default;

  /// Takes `length` tokens of each sequence, (sequences, length). Returns the logits after the
  /// last of them, (sequences, vocab). Throws Error{usage} for ids outside the vocabulary.
  virtual std::vector<float> prefill(std::span<const TokenId> tokens, Index length) = 0;

  /// Takes one token of each sequence; returns as prefill(). From the second on, a step is one
  /// CUDA graph that is replayed.
  virtual std::vector<float> step(std::span<const TokenId> tokens) = 0;
};

/// A model whose weights lie on a CUDA device, in f32; products are f32 without TF32. Agrees
/// within rounding with fast_model and reference_model. LanguageModel::layer() refuses a state
/// with Error{unsupported}: sequences go on in a session.
class GpuModel : public LanguageModel<float> {
 public:
  /// The model has to outlive the session. Throws Error{unsupported} for a mixer that has no
  /// kernel for a step.
  virtual std::unique_ptr<GpuSession> start(Index sequences) const = 0;
};

struct GpuModelOptions {
  int device = 0;  ///< in the driver's order

  /// Rows that pass through a layer together: the most that activations take memory for. Less
  /// where the device has little memory left.
  std::int64_t rows_at_once = 4096;
};

/// Can `models` such models be on a device at once? Throws Error{unsupported} for a layout of
/// other blocks than Mamba-1's and Mamba-2's, Error{unavailable} without cuBLASLt or where memory
/// is too small.
void check_gpu_model(const Checkpoint& checkpoint, const Layout& layout, int device, int models);

/// Uploads the weights, once. The checkpoint has to outlive the model. Throws as
/// check_gpu_model() does for one model, and Error{input} for tensors that are missing.
std::unique_ptr<GpuModel> gpu_model(const Checkpoint& checkpoint, const Layout& layout,
                                    const GpuModelOptions& options = {});

}  // namespace icd
