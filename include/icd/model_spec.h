#pragma once

#include <map>
#include <string>
#include <string_view>

#include "icd/checkpoint.h"
#include "icd/permutation.h"

namespace icd {

/// What a model is: which architecture, in which dialect of names, and its sizes.
/// Taken from config.json and from the tensors, which have to agree.
struct ModelSpec {
  enum class Norm { rms, layer };

  std::string architecture;    ///< row of the architecture table: "mamba1"
  std::string dialect;         ///< "mamba-ssm" or "hf"
  std::string prefix;          ///< before lm_head.weight and the backbone: "", "model.", ...
  std::string backbone;        ///< before every other name: "backbone.", "model.backbone.", ""
  std::string embedding_name;  ///< after the backbone: "embedding.weight", "embeddings.weight"
  Index n_layer = 0;
  Index vocab = 0;  ///< rows of the embedding, padding included
  Index d_model = 0;
  Index d_inner = 0;
  Index d_state = 0;
  Index d_conv = 0;
  Index dt_rank = 0;
  Norm norm = Norm::rms;
  double norm_epsilon = 1e-5;
  bool tied_head = true;  ///< lm_head shares the embedding
  bool conv_bias = true;
  bool proj_bias = false;  ///< in_proj and out_proj have biases

  /// The name of a tensor of the backbone, "norm_f.weight", or of layer i,
  /// "mixer.in_proj.weight", as this checkpoint spells it.
  std::string tensor(std::string_view leaf) const;
  std::string tensor(Index layer, std::string_view leaf) const;
  std::string embedding() const;
  std::string head() const;  ///< lm_head.weight, whether or not it is stored

  /// The size of a dimension by the name that the architecture table uses ("d_inner", ...).
  std::map<std::string, Index, std::less<>> dimensions() const;

  /// Throws Error{unsupported} for a model of no known architecture, Error{input} when
  /// config.json and the tensors disagree, one message per kind of disagreement.
  static ModelSpec of(const Checkpoint& checkpoint);
};

}  // namespace icd
