#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/families.h"
#include "support/naive_mixers.h"

/// What the hybrid families of Hugging Face share: a stack of layers between embed_tokens and
/// lm_head, attention with a projection each for q, k, v and o, MLPs and experts.
namespace icd::testing {

using Json = nlohmann::ordered_json;
using Wrong = std::map<std::string, std::function<void(NaiveTensors&)>>;

struct HybridStack {
  std::int64_t d_model = 12;
  std::int64_t layers = 2;
  std::int64_t vocabulary = 19;
  std::string prefix = "model.";
  std::string embedding = "embed_tokens";
  std::string final_norm = "final_layernorm";
  bool tied = false;
  double embedding_multiplier = 1;
  double logits_multiplier = 1;

  /// Makes the tensors of layer i, of which the names begin with `layer`.
  std::function<void(TensorMaker&, const std::string& layer, std::int64_t i)> make_layer = {};

  /// The residual stream after layer i from the one before it; `shared` is the scope of all
  /// layers, `embedded` the stream before layer 0.
  std::function<Rows(const Rows& x, const Scope& shared, std::int64_t i, const Rows& embedded)>
      layer = {};

  std::string layer_name(std::int64_t i) const {
    return prefix + "layers." + std::to_string(i) + ".";
  }
};

/// "layers.3" for Scope::in.
std::string layer_part(std::int64_t i);

/// The family that runs `stack`. `config` gets vocab_size, hidden_size, num_hidden_layers and
/// tie_word_embeddings from it.
Family hybrid_family(std::string name, Json config, const HybridStack& stack, Wrong wrong);

struct AttentionSizes {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t headdim = 3;
  std::int64_t rotary = 0;  ///< leading channels of each head that are rotated
  Bias bias = Bias::no;     ///< of q, k, v and o
  double scale = 0;         ///< 0: headdim^-1/2

  AttentionOptions options() const;
};

/// q_proj, k_proj, v_proj from `in` channels, o_proj to `out`.
void make_attention(TensorMaker& maker, const std::string& attention, const AttentionSizes& sizes,
                    std::int64_t in, std::int64_t out);

/// Query heads across kv heads, v channels of one query head alone; with a rotation the rotated
/// channels of q and k, one by one and as pairs.
Wrong wrong_attention(const std::string& attention, const AttentionSizes& sizes);

/// gate_proj, up_proj, down_proj.
void make_gated_mlp(TensorMaker& maker, const std::string& mlp, std::int64_t channels,
                    std::int64_t hidden, Bias bias = Bias::no);

/// The parts of Mamba-2's keys in config.json that Bamba, Granite and Falcon-H1 spell alike.
Json mamba2_config(const Mamba2Sizes& sizes);

/// Adds the entries of `more` to `config`.
void extend(Json& config, const Json& more);

}  // namespace icd::testing
