#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/model_spec.h"

namespace icd {

/// The tensors of one Mamba-1 layer, row-major and packed. Tensors that a checkpoint may leave
/// out are empty then.
template <typename Real>
struct LayerWeights {
  std::vector<Real> norm;           ///< (d_model)
  std::vector<Real> norm_bias;      ///< (d_model); LayerNorm only, may be absent
  std::vector<Real> in_proj;        ///< (2 d_inner, d_model): x, then z
  std::vector<Real> in_proj_bias;   ///< (2 d_inner), may be absent
  std::vector<Real> conv;           ///< (d_inner, d_conv)
  std::vector<Real> conv_bias;      ///< (d_inner), may be absent
  std::vector<Real> x_proj;         ///< (dt_rank + 2 d_state, d_inner): dt, B, C
  std::vector<Real> dt_proj;        ///< (d_inner, dt_rank)
  std::vector<Real> dt_proj_bias;   ///< (d_inner)
  std::vector<Real> a_log;          ///< (d_inner, d_state)
  std::vector<Real> d;              ///< (d_inner)
  std::vector<Real> out_proj;       ///< (d_model, d_inner)
  std::vector<Real> out_proj_bias;  ///< (d_model), may be absent
};

/// What stands after the layers.
template <typename Real>
struct HeadWeights {
  std::vector<Real> norm;       ///< (d_model)
  std::vector<Real> norm_bias;  ///< (d_model); LayerNorm only, may be absent
  std::vector<Real> head;       ///< (vocab, d_model); the embedding if tied
};

/// The tensor `name`, packed, in Real. Throws as read_layer.
template <typename Real>
std::vector<Real> read_tensor(const Checkpoint& checkpoint, const std::string& name,
                              const Shape& shape);

/// Read tensors of any stored floating dtype. Throw Error{input} naming a tensor that is
/// missing or of the wrong shape, Error{unsupported} for one of a type that is no float.
template <typename Real>
LayerWeights<Real> read_layer(const Checkpoint& checkpoint, const ModelSpec& spec, Index layer);
template <typename Real>
HeadWeights<Real> read_head(const Checkpoint& checkpoint, const ModelSpec& spec);

/// Copies rows of the tensor `name`, (vocab, d_model), to `hidden`, (tokens.size(), d_model).
/// Throws Error{usage} for an id outside the vocabulary.
template <typename Real>
void read_embedding(const Checkpoint& checkpoint, const std::string& name, Index vocab,
                    Index d_model, std::span<const std::int32_t> tokens, std::span<Real> hidden);

/// The same for the embedding of a Mamba-1 model.
template <typename Real>
void read_embedding(const Checkpoint& checkpoint, const ModelSpec& spec,
                    std::span<const std::int32_t> tokens, std::span<Real> hidden) {
  read_embedding(checkpoint, spec.embedding(), spec.vocab, spec.d_model, tokens, hidden);
}

}  // namespace icd
