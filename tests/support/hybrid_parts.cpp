#include "support/hybrid_parts.h"

#include <utility>

namespace icd::testing {
namespace {

NaiveTensors make(const HybridStack& stack, std::uint64_t seed) {
  TensorMaker maker(seed);
  maker.embedding(stack.prefix + stack.embedding + ".weight", stack.vocabulary, stack.d_model);
  for (std::int64_t i = 0; i < stack.layers; ++i) stack.make_layer(maker, stack.layer_name(i), i);
  maker.norm(stack.prefix + stack.final_norm, stack.d_model);
  if (!stack.tied) maker.linear("lm_head", stack.vocabulary, stack.d_model);
  return maker.take();
}

std::vector<double> forward(const HybridStack& stack, const NaiveTensors& tensors,
                            std::uint64_t seed) {
  const Scope model(tensors, stack.prefix);
  const NaiveTensor& table = model.at(stack.embedding + ".weight");
  const NaiveTensor& head = stack.tied ? table : Scope(tensors).at("lm_head.weight");
  return scaled(naive_logits(table, head, seed,
                             [&](const Rows& rows) {
                               const Rows embedded = scaled(rows, stack.embedding_multiplier);
                               Rows x = embedded;
                               for (std::int64_t i = 0; i < stack.layers; ++i) {
                                 x = stack.layer(x, model, i, embedded);
                               }
                               return norm(x, model, stack.final_norm);
                             }),
                stack.logits_multiplier);
}

}  // namespace

std::string layer_part(std::int64_t i) { return "layers." + std::to_string(i); }

Family hybrid_family(std::string name, Json config, const HybridStack& stack, Wrong wrong) {
  extend(config, {{"vocab_size", stack.vocabulary},
                  {"hidden_size", stack.d_model},
                  {"num_hidden_layers", stack.layers},
                  {"tie_word_embeddings", stack.tied}});
  return {.name = std::move(name),
          .config = config.dump(2),
          .settings = {},
          .make = [stack](std::uint64_t seed) { return make(stack, seed); },
          .forward = [stack](const NaiveTensors& tensors,
                             std::uint64_t seed) { return forward(stack, tensors, seed); },
          .invisible = {},
          .wrong = std::move(wrong)};
}

AttentionOptions AttentionSizes::options() const {
  return {.heads = static_cast<std::size_t>(heads),
          .kv_heads = static_cast<std::size_t>(kv_heads),
          .headdim = static_cast<std::size_t>(headdim),
          .rotary_dim = static_cast<std::size_t>(rotary),
          .scale = scale};
}

void make_attention(TensorMaker& maker, const std::string& attention, const AttentionSizes& sizes,
                    std::int64_t in, std::int64_t out) {
  const std::int64_t q = sizes.heads * sizes.headdim;
  const std::int64_t kv = sizes.kv_heads * sizes.headdim;
  maker.linear(attention + "q_proj", q, in, sizes.bias);
  maker.linear(attention + "k_proj", kv, in, sizes.bias);
  maker.linear(attention + "v_proj", kv, in, sizes.bias);
  maker.linear(attention + "o_proj", out, q, sizes.bias);
}

Wrong wrong_attention(const std::string& attention, const AttentionSizes& sizes) {
  const auto headdim = static_cast<std::size_t>(sizes.headdim);
  const auto rep = static_cast<std::size_t>(sizes.heads / sizes.kv_heads);
  const auto rows = [=](NaiveTensors& tensors, const std::string& layer, std::size_t first,
                        std::size_t block, const std::vector<Index>& order) {
    move_axis(tensors, {attention + layer + ".weight", 0, first, block}, order);
    if (sizes.bias == Bias::no) return;
    move_axis(tensors, {attention + layer + ".bias", 0, first, block}, order);
  };

  Wrong wrong;
  if (sizes.kv_heads > 1) {
    wrong["query heads across kv heads"] = [=](NaiveTensors& tensors) {
      const auto heads = rotation(static_cast<Index>(sizes.heads));
      rows(tensors, "q_proj", 0, headdim, heads);
      move_axis(tensors, {attention + "o_proj.weight", 1, 0, headdim}, heads);
    };
  }
  if (rep > 1) {
    wrong["v channels with the columns of one query head"] = [=](NaiveTensors& tensors) {
      const auto channels = rotation(static_cast<Index>(headdim));
      rows(tensors, "v_proj", 0, 1, channels);
      move_axis(tensors, {attention + "o_proj.weight", 1}, channels);
    };
  }
  const auto qk_channels = [=](NaiveTensors& tensors, std::size_t first, std::size_t count) {
    const auto order = rotation(static_cast<Index>(count));
    rows(tensors, "k_proj", first, 1, order);
    for (std::size_t h = 0; h < rep; ++h) {
      rows(tensors, "q_proj", h * headdim + first, 1, order);
    }
  };
  const auto rotary = static_cast<std::size_t>(sizes.rotary);
  if (rotary > 0) {
    wrong["rotated q and k channels"] = [=](NaiveTensors& tensors) {
      qk_channels(tensors, 0, rotary);
    };
  }
  if (rotary > 2) {
    wrong["rotary pairs as units"] = [=](NaiveTensors& tensors) {
      qk_channels(tensors, 0, rotary / 2);
      qk_channels(tensors, rotary / 2, rotary / 2);
    };
  }
  return wrong;
}

void make_gated_mlp(TensorMaker& maker, const std::string& mlp, std::int64_t channels,
                    std::int64_t hidden, Bias bias) {
  maker.linear(mlp + "gate_proj", hidden, channels, bias);
  maker.linear(mlp + "up_proj", hidden, channels, bias);
  maker.linear(mlp + "down_proj", channels, hidden, bias);
}

Json mamba2_config(const Mamba2Sizes& sizes) {
  return {{"mamba_n_heads", sizes.heads},
          {"mamba_d_head", sizes.headdim},
          {"mamba_n_groups", sizes.groups},
          {"mamba_d_state", sizes.d_state},
          {"mamba_d_conv", sizes.d_conv},
          {"mamba_expand", sizes.d_ssm() / sizes.d_model},
          {"mamba_chunk_size", 256},
          {"mamba_conv_bias", sizes.conv_bias == Bias::yes},
          {"mamba_proj_bias", sizes.proj_bias == Bias::yes}};
}

void extend(Json& config, const Json& more) {
  for (const auto& [key, value] : more.items()) config[key] = value;
}

}  // namespace icd::testing
