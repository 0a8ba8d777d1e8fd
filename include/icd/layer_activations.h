#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"

namespace icd {

/// What one layer of a Mamba-1 model holds and sees on some text: real data for benchmarks. All
/// in f32, row-major and packed, in the order of the checkpoint's channels.
struct LayerActivations {
  Index d_model = 0;
  Index d_inner = 0;
  Index d_state = 0;
  Index d_conv = 0;
  std::int64_t tokens = 0;

  std::vector<float> u;      ///< (tokens, d_inner): after convolution and SiLU
  std::vector<float> dt;     ///< (tokens, d_inner): before the bias and softplus
  std::vector<float> z;      ///< (tokens, d_inner): the gate, before SiLU
  std::vector<float> B;      ///< (tokens, d_state)
  std::vector<float> C;      ///< (tokens, d_state)
  std::vector<float> gated;  ///< (tokens, d_inner): what out_proj reads

  std::vector<float> A;          ///< (d_inner, d_state): -exp(A_log)
  std::vector<float> D;          ///< (d_inner)
  std::vector<float> dt_bias;    ///< (d_inner)
  std::vector<float> conv;       ///< (d_inner, d_conv)
  std::vector<float> conv_bias;  ///< (d_inner), empty if the model has none
  std::vector<float> out_proj;   ///< (d_model, d_inner)
};

/// Runs a model on one sequence of tokens up to and including `layer`. dt is what softplus turns
/// into the step size that the model used, and z is computed from what in_proj reads, in double.
/// Throws Error{usage} for no tokens or a layer that the model does not have.
LayerActivations layer_activations(const Checkpoint& checkpoint, const ModelSpec& spec,
                                   const LanguageModel<float>& model, Index layer,
                                   std::span<const TokenId> tokens);

}  // namespace icd
