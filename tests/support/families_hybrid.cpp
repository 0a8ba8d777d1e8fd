#include <algorithm>
#include <limits>
#include <utility>

#include "families.h"
#include "support/families_zamba.h"
#include "support/hybrid_parts.h"

namespace icd::testing {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The tensors that begin with experts + "3." for those that begin with experts + "0.", ...
void move_experts(NaiveTensors& tensors, const std::string& experts,
                  const std::vector<Index>& order) {
  NaiveTensors moved = tensors;
  for (std::size_t e = 0; e < order.size(); ++e) {
    const std::string from = experts + std::to_string(order[e]) + ".";
    for (auto at = tensors.lower_bound(from);
         at != tensors.end() && at->first.compare(0, from.size(), from) == 0; ++at) {
      moved.at(experts + std::to_string(e) + "." + at->first.substr(from.size())) = at->second;
    }
  }
  tensors = std::move(moved);
}

/// The k experts of largest logit, by softmax over all experts (Jamba) or over the chosen
/// (Granite).
enum class Softmax { over_all, over_chosen };

Rows experts_by_softmax(const Rows& x, const NaiveTensor& router, std::size_t k, Softmax softmax_of,
                        const std::function<Rows(const Rows&, std::size_t e)>& expert) {
  Rows y;
  for (const Row& token : x) {
    const Row logits = linear(token, router);
    const auto chosen = top_k(logits, k);
    Row weights(logits.size(), -kInfinity);
    for (std::size_t e = 0; e < logits.size(); ++e) {
      const bool is_chosen = std::find(chosen.begin(), chosen.end(), e) != chosen.end();
      if (is_chosen || softmax_of == Softmax::over_all) weights[e] = logits[e];
    }
    weights = softmax(weights);
    Row total(token.size());
    for (const std::size_t e : chosen)
      total = sum(total, scaled(expert({token}, e)[0], weights[e]));
    y.push_back(total);
  }
  return y;
}

// ---- Jamba ----

Rows jamba_mixer(const Rows& x, const Scope& mixer) {
  Mamba1Core core = mamba1_core(mixer);
  const auto by = [&](const char* name) {
    return [weight = mixer.at(name)](const Row& row) { return rms_norm(row, &weight); };
  };
  core.dt_norm = by("dt_layernorm.weight");
  core.b_norm = by("b_layernorm.weight");
  core.c_norm = by("c_layernorm.weight");
  return naive_mamba1(x, mixer, core);
}

Family jamba() {
  const Mamba1Sizes mixer;
  const AttentionSizes attention;
  constexpr std::int64_t kHidden = 14;
  constexpr std::int64_t kExperts = 5;
  constexpr std::int64_t kChosen = 2;
  const auto is_attention = [](std::int64_t i) { return i % 4 == 2; };
  const auto has_experts = [](std::int64_t i) { return i % 2 == 1; };

  HybridStack stack{.layers = 4};
  const std::int64_t d = stack.d_model;
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    maker.norm(layer + "input_layernorm", d);
    maker.norm(layer + "pre_ff_layernorm", d);
    if (is_attention(i)) {
      make_attention(maker, layer + "self_attn.", attention, d, d);
    } else {
      make_mamba1(maker, layer + "mamba.", mixer);
      maker.norm(layer + "mamba.dt_layernorm", mixer.dt_rank);
      maker.norm(layer + "mamba.b_layernorm", mixer.d_state);
      maker.norm(layer + "mamba.c_layernorm", mixer.d_state);
    }
    if (!has_experts(i)) return make_gated_mlp(maker, layer + "feed_forward.", d, kHidden);
    maker.linear(layer + "feed_forward.router", kExperts, d);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      make_gated_mlp(maker, layer + "feed_forward.experts." + std::to_string(e) + ".", d, kHidden);
    }
  };
  stack.layer = [=](Rows x, const Scope& model, std::int64_t i, const Rows&) {
    const Scope layer = model.in(layer_part(i));
    const Rows in = norm(x, layer, "input_layernorm");
    x = sum(x, is_attention(i) ? naive_attention(in, layer.in("self_attn"), attention.options())
                               : jamba_mixer(in, layer.in("mamba")));
    const Rows y = norm(x, layer, "pre_ff_layernorm");
    const Scope mlp = layer.in("feed_forward");
    if (!has_experts(i)) return sum(x, gated_mlp(y, mlp));
    return sum(x, experts_by_softmax(y, mlp.at("router.weight"), kChosen, Softmax::over_all,
                                     [&](const Rows& token, std::size_t e) {
                                       return gated_mlp(token,
                                                        mlp.in("experts." + std::to_string(e)));
                                     }));
  };
  const Json config = {{"architectures", {"JambaForCausalLM"}},
                       {"model_type", "jamba"},
                       {"attn_layer_offset", 2},
                       {"attn_layer_period", 4},
                       {"expert_layer_offset", 1},
                       {"expert_layer_period", 2},
                       {"hidden_act", "silu"},
                       {"intermediate_size", kHidden},
                       {"mamba_conv_bias", true},
                       {"mamba_d_conv", mixer.d_conv},
                       {"mamba_d_state", mixer.d_state},
                       {"mamba_dt_rank", mixer.dt_rank},
                       {"mamba_expand", mixer.d_inner / d},
                       {"mamba_proj_bias", false},
                       {"num_attention_heads", attention.heads},
                       {"num_key_value_heads", attention.kv_heads},
                       {"num_experts", kExperts},
                       {"num_experts_per_tok", kChosen},
                       {"rms_norm_eps", 1e-5}};

  const std::string mamba = stack.layer_name(0) + "mamba.";
  const std::string moe = stack.layer_name(1) + "feed_forward.";
  const auto rank = static_cast<std::size_t>(mixer.dt_rank);
  const auto state = static_cast<std::size_t>(mixer.d_state);
  Wrong wrong = wrong_attention(stack.layer_name(2) + "self_attn.", attention);
  wrong["d_inner: only the x half of in_proj"] = [=](NaiveTensors& tensors) {
    std::vector<Move> moves = mamba1_inner_moves(tensors, mamba);
    std::erase_if(moves, [](const Move& move) { return move.first > 0; });
    move_axes(tensors, moves, rotation(static_cast<Index>(mixer.d_inner)));
  };
  wrong["d_state without its norms"] = [=](NaiveTensors& tensors) {
    move_axes(tensors,
              {{mamba + "x_proj.weight", 0, rank},
               {mamba + "x_proj.weight", 0, rank + state},
               {mamba + "A_log", 1}},
              rotation(static_cast<Index>(state)));
  };
  wrong["dt_rank without its norm"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, {{mamba + "x_proj.weight", 0}, {mamba + "dt_proj.weight", 1}},
              rotation(static_cast<Index>(rank)));
  };
  wrong["experts without their router"] = [=](NaiveTensors& tensors) {
    move_experts(tensors, moe + "experts.", rotation(static_cast<Index>(kExperts)));
  };
  wrong["hidden of an expert: up without gate"] = [=](NaiveTensors& tensors) {
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const std::string expert = moe + "experts." + std::to_string(e) + ".";
      move_axes(tensors, {{expert + "up_proj.weight", 0}, {expert + "down_proj.weight", 1}},
                rotation(static_cast<Index>(kHidden)));
    }
  };
  return hybrid_family("jamba", config, stack, std::move(wrong));
}

// ---- Bamba ----

Family bamba() {
  // A head of 8 of which Bamba rotates half, whatever the config says.
  const Mamba2Sizes mixer{.d_model = 32, .heads = 16, .proj_bias = Bias::yes};
  const AttentionSizes attention{.headdim = 8, .rotary = 4};
  constexpr std::int64_t kHidden = 14;
  HybridStack stack{.d_model = 32, .layers = 3};
  const std::int64_t d = stack.d_model;
  const auto is_attention = [](std::int64_t i) { return i == 1; };
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    maker.norm(layer + "input_layernorm", d);
    maker.norm(layer + "pre_ff_layernorm", d);
    make_gated_mlp(maker, layer + "feed_forward.", d, kHidden);
    if (is_attention(i)) return make_attention(maker, layer + "self_attn.", attention, d, d);
    make_mamba2(maker, layer + "mamba.", mixer);
  };
  stack.layer = [=](Rows x, const Scope& model, std::int64_t i, const Rows&) {
    const Scope layer = model.in(layer_part(i));
    const Rows in = norm(x, layer, "input_layernorm");
    x = sum(x, is_attention(i) ? naive_attention(in, layer.in("self_attn"), attention.options())
                               : naive_mamba2(in, layer.in("mamba"),
                                              {.groups = static_cast<std::size_t>(mixer.groups)}));
    return sum(x, gated_mlp(norm(x, layer, "pre_ff_layernorm"), layer.in("feed_forward")));
  };
  Json config = {
      {"architectures", {"BambaForCausalLM"}},
      {"model_type", "bamba"},
      {"attention_bias", false},
      {"attn_layer_indices", {1}},
      {"hidden_act", "silu"},
      {"intermediate_size", kHidden},
      {"mlp_bias", false},
      {"num_attention_heads", attention.heads},
      {"num_key_value_heads", attention.kv_heads},
      {"partial_rotary_factor", 0.5},
      {"rope_parameters",
       {{"partial_rotary_factor", 0.5}, {"rope_theta", 10000.0}, {"rope_type", "default"}}},
      {"rms_norm_eps", 1e-5}};
  extend(config, mamba2_config(mixer));
  Wrong wrong = wrong_mamba2(stack.layer_name(0) + "mamba.", mixer);
  wrong.merge(wrong_attention(stack.layer_name(1) + "self_attn.", attention));
  return hybrid_family("bamba", config, stack, std::move(wrong));
}

// ---- Nemotron-H ----

struct NemotronSizes {
  std::string pattern = "M*-E";  ///< Mamba-2, attention, MLP, experts
  Mamba2Sizes mixer = {};
  AttentionSizes attention = {.headdim = 7};
  std::int64_t hidden = 14;
  std::int64_t shared_hidden = 11;
  std::int64_t expert_hidden = 9;
  std::int64_t latent = 10;  ///< 0: experts read the stream
  std::int64_t experts = 6;
  std::int64_t chosen = 3;
  std::int64_t router_groups = 3;
  std::int64_t chosen_groups = 2;
  Bias mlp_bias = Bias::no;
};

Rows relu_mlp(const Rows& x, const Scope& mlp) {
  return linear(map(relu_squared, linear(x, mlp, "up_proj")), mlp, "down_proj");
}

/// The best experts of the best router groups, a group being as good as its best two.
std::vector<std::size_t> nemotron_choice(const Row& scores, const NemotronSizes& s) {
  const auto size = static_cast<std::size_t>(s.experts / s.router_groups);
  Row group_scores;
  for (std::size_t first = 0; first < scores.size(); first += size) {
    const Row own = part(scores, first, size);
    double best = 0;
    for (const std::size_t e : top_k(own, 2)) best += own[e];
    group_scores.push_back(best);
  }
  Row allowed(scores.size(), -kInfinity);
  for (const std::size_t g : top_k(group_scores, static_cast<std::size_t>(s.chosen_groups))) {
    for (std::size_t e = g * size; e < (g + 1) * size; ++e) allowed[e] = scores[e];
  }
  return top_k(allowed, static_cast<std::size_t>(s.chosen));
}

Rows nemotron_experts(const Rows& x, const Scope& moe, const NemotronSizes& s) {
  const Rows in = s.latent > 0 ? linear(x, moe, "fc1_latent_proj") : x;
  Rows y;
  for (std::size_t t = 0; t < x.size(); ++t) {
    const Row scores = map(sigmoid, linear(x[t], moe.at("gate.weight")));
    const auto chosen =
        nemotron_choice(sum(scores, moe.at("gate.e_score_correction_bias").values), s);
    double all = 0;
    for (const std::size_t e : chosen) all += scores[e];
    Row total(in[t].size());
    for (const std::size_t e : chosen) {
      const Scope expert = moe.in("experts." + std::to_string(e));
      total = sum(total, scaled(relu_mlp({in[t]}, expert)[0], scores[e] / all));
    }
    y.push_back(total);
  }
  if (s.latent > 0) y = linear(y, moe, "fc2_latent_proj");
  return sum(y, relu_mlp(x, moe.in("shared_experts")));
}

void make_nemotron_experts(TensorMaker& maker, const std::string& moe, std::int64_t d,
                           const NemotronSizes& s) {
  const std::int64_t in = s.latent > 0 ? s.latent : d;
  // Scores far apart and a bias less than that: every expert gets tokens, and the bias decides
  // some.
  maker.tensor(moe + "gate.weight", {s.experts, d}, 0, 1);
  maker.tensor(moe + "gate.e_score_correction_bias", {s.experts}, 0, 0.15);
  for (std::int64_t e = 0; e < s.experts; ++e) {
    const std::string expert = moe + "experts." + std::to_string(e) + ".";
    maker.linear(expert + "up_proj", s.expert_hidden, in);
    maker.linear(expert + "down_proj", in, s.expert_hidden);
  }
  maker.linear(moe + "shared_experts.up_proj", s.shared_hidden, d, s.mlp_bias);
  maker.linear(moe + "shared_experts.down_proj", d, s.shared_hidden, s.mlp_bias);
  if (s.latent == 0) return;
  maker.linear(moe + "fc1_latent_proj", s.latent, d, s.mlp_bias);
  maker.linear(moe + "fc2_latent_proj", d, s.latent, s.mlp_bias);
}

Wrong wrong_nemotron_experts(const std::string& moe, const NemotronSizes& s) {
  const auto move_all = [=](NaiveTensors& tensors) {
    const auto order = rotation(static_cast<Index>(s.experts));
    move_experts(tensors, moe + "experts.", order);
    move_axes(tensors, {{moe + "gate.weight"}, {moe + "gate.e_score_correction_bias"}}, order);
  };
  Wrong wrong;
  if (s.router_groups > 1) wrong["experts across router groups"] = move_all;
  wrong["experts without e_score_correction_bias"] = [=](NaiveTensors& tensors) {
    const NaiveTensor bias = tensors.at(moe + "gate.e_score_correction_bias");
    move_all(tensors);
    tensors.at(moe + "gate.e_score_correction_bias") = bias;
  };
  if (s.latent > 0) {
    wrong["latent in and latent out as one"] = [=](NaiveTensors& tensors) {
      const auto order = rotation(static_cast<Index>(s.latent));
      move_axes(tensors, {{moe + "fc1_latent_proj.weight"}, {moe + "fc2_latent_proj.weight", 1}},
                order);
    };
  }
  return wrong;
}

Family nemotron_h(std::string name, const NemotronSizes& s, const Json& layer_kinds) {
  HybridStack stack{.layers = static_cast<std::int64_t>(s.pattern.size()),
                    .prefix = "backbone.",
                    .embedding = "embeddings",
                    .final_norm = "norm_f"};
  const std::int64_t d = stack.d_model;
  const auto groups = static_cast<std::size_t>(s.mixer.groups);
  const auto kind = [=](std::int64_t i) { return s.pattern[static_cast<std::size_t>(i)]; };
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    const std::string mixer = layer + "mixer.";
    maker.norm(layer + "norm", d);
    if (kind(i) == 'M') make_mamba2(maker, mixer, s.mixer);
    if (kind(i) == '*') make_attention(maker, mixer, s.attention, d, d);
    if (kind(i) == 'E') make_nemotron_experts(maker, mixer, d, s);
    if (kind(i) == '-') {
      maker.linear(mixer + "up_proj", s.hidden, d, s.mlp_bias);
      maker.linear(mixer + "down_proj", d, s.hidden, s.mlp_bias);
    }
  };
  stack.layer = [=](const Rows& x, const Scope& model, std::int64_t i, const Rows&) {
    const Scope layer = model.in(layer_part(i));
    const Scope mixer = layer.in("mixer");
    const Rows in = norm(x, layer, "norm");
    if (kind(i) == 'M') {
      return sum(x, naive_mamba2(in, mixer, {.groups = groups, .norm_groups = groups}));
    }
    if (kind(i) == '*') return sum(x, naive_attention(in, mixer, s.attention.options()));
    return sum(x, kind(i) == 'E' ? nemotron_experts(in, mixer, s) : relu_mlp(in, mixer));
  };
  Json config = {{"architectures", {"NemotronHForCausalLM"}},
                 {"model_type", "nemotron_h"},
                 {"attention_bias", false},
                 {"chunk_size", 128},
                 {"conv_kernel", s.mixer.d_conv},
                 {"expand", 2},
                 {"head_dim", s.attention.headdim},
                 {"intermediate_size", s.hidden},
                 {"layer_norm_epsilon", 1e-5},
                 {"mamba_head_dim", s.mixer.headdim},
                 {"mamba_hidden_act", "silu"},
                 {"mamba_num_heads", s.mixer.heads},
                 {"mamba_proj_bias", false},
                 {"mlp_bias", s.mlp_bias == Bias::yes},
                 {"mlp_hidden_act", "relu2"},
                 {"moe_intermediate_size", s.expert_hidden},
                 {"moe_latent_size", s.latent > 0 ? Json(s.latent) : Json(nullptr)},
                 {"moe_shared_expert_intermediate_size", s.shared_hidden},
                 {"n_group", s.router_groups},
                 {"n_groups", s.mixer.groups},
                 {"n_routed_experts", s.experts},
                 {"n_shared_experts", 1},
                 {"norm_topk_prob", true},
                 {"num_attention_heads", s.attention.heads},
                 {"num_experts_per_tok", s.chosen},
                 {"num_key_value_heads", s.attention.kv_heads},
                 {"routed_scaling_factor", 1.0},
                 {"ssm_state_size", s.mixer.d_state},
                 {"topk_group", s.chosen_groups},
                 {"use_bias", s.mixer.proj_bias == Bias::yes},
                 {"use_conv_bias", true}};
  extend(config, layer_kinds);
  Wrong wrong;
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    const std::string mixer = stack.layer_name(i) + "mixer.";
    if (kind(i) == 'M') wrong.merge(wrong_mamba2(mixer, s.mixer));
    if (kind(i) == '*') wrong.merge(wrong_attention(mixer, s.attention));
    if (kind(i) == 'E') wrong.merge(wrong_nemotron_experts(mixer, s));
  }
  return hybrid_family(std::move(name), std::move(config), stack, std::move(wrong));
}

Family nemotron_h_latent() {
  return nemotron_h("nemotron_h, latent experts in router groups", {.mlp_bias = Bias::yes},
                    {{"layers_block_type", {"linear_attention", "full_attention", "mlp", "moe"}}});
}

/// As published earlier: the pattern as text, experts on the stream, one router group.
Family nemotron_h_plain() {
  const NemotronSizes sizes{.pattern = "ME*",
                            .mixer = {.proj_bias = Bias::yes},
                            .latent = 0,
                            .experts = 5,
                            .chosen = 3,
                            .router_groups = 1,
                            .chosen_groups = 1};
  return nemotron_h("nemotron_h, plain experts", sizes, {{"hybrid_override_pattern", "ME*"}});
}

// ---- GraniteMoeHybrid ----

struct GraniteSizes {
  Mamba2Sizes mixer = {.d_model = 16, .heads = 4, .headdim = 8};
  AttentionSizes attention = {.headdim = 4, .scale = 0.4};
  std::int64_t experts = 0;
  std::int64_t chosen = 2;
  std::int64_t expert_hidden = 14;
  std::int64_t shared_hidden = 9;
};

Rows granite_mlp(const Rows& x, const Scope& layer, const GraniteSizes& s) {
  const Scope shared = layer.in("shared_mlp");
  const Rows y = fused_mlp(x, shared.at("input_linear.weight"), shared.at("output_linear.weight"));
  if (s.experts == 0) return y;
  const Scope moe = layer.in("block_sparse_moe");
  return sum(
      y, experts_by_softmax(x, moe.at("router.layer.weight"), static_cast<std::size_t>(s.chosen),
                            Softmax::over_chosen, [&](const Rows& token, std::size_t e) {
                              return fused_mlp(token, slice(moe.at("input_linear.weight"), e),
                                               slice(moe.at("output_linear.weight"), e));
                            }));
}

Family granite(std::string name, const GraniteSizes& s, const std::vector<std::string>& kinds) {
  constexpr double kResidual = 0.7;
  HybridStack stack{.d_model = s.mixer.d_model,
                    .layers = static_cast<std::int64_t>(kinds.size()),
                    .final_norm = "norm",
                    .embedding_multiplier = 1.5,
                    .logits_multiplier = 0.5};
  const std::int64_t d = stack.d_model;
  const auto is_attention = [=](std::int64_t i) {
    return kinds[static_cast<std::size_t>(i)] == "full_attention";
  };
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    maker.norm(layer + "input_layernorm", d);
    maker.norm(layer + "post_attention_layernorm", d);
    if (is_attention(i)) {
      make_attention(maker, layer + "self_attn.", s.attention, d, d);
    } else {
      make_mamba2(maker, layer + "mamba.", s.mixer);
    }
    maker.linear(layer + "shared_mlp.input_linear", 2 * s.shared_hidden, d);
    maker.linear(layer + "shared_mlp.output_linear", d, s.shared_hidden);
    if (s.experts == 0) return;
    const std::string moe = layer + "block_sparse_moe.";
    maker.linear(moe + "router.layer", s.experts, d);
    maker.tensor(moe + "input_linear.weight", {s.experts, 2 * s.expert_hidden, d}, 0, 0.3);
    maker.tensor(moe + "output_linear.weight", {s.experts, d, s.expert_hidden}, 0, 0.3);
  };
  stack.layer = [=](Rows x, const Scope& model, std::int64_t i, const Rows&) {
    const Scope layer = model.in(layer_part(i));
    const Rows in = norm(x, layer, "input_layernorm");
    const Rows mixed = is_attention(i)
                           ? naive_attention(in, layer.in("self_attn"), s.attention.options())
                           : naive_mamba2(in, layer.in("mamba"),
                                          {.groups = static_cast<std::size_t>(s.mixer.groups)});
    x = sum(x, scaled(mixed, kResidual));
    const Rows y = granite_mlp(norm(x, layer, "post_attention_layernorm"), layer, s);
    return sum(x, scaled(y, kResidual));
  };
  Json config = {{"architectures", {"GraniteMoeHybridForCausalLM"}},
                 {"model_type", "granitemoehybrid"},
                 {"attention_bias", s.attention.bias == Bias::yes},
                 {"attention_multiplier", s.attention.scale},
                 {"embedding_multiplier", stack.embedding_multiplier},
                 {"hidden_act", "silu"},
                 {"intermediate_size", s.expert_hidden},
                 {"layer_types", kinds},
                 {"logits_scaling", 1 / stack.logits_multiplier},
                 {"num_attention_heads", s.attention.heads},
                 {"num_experts_per_tok", s.chosen},
                 {"num_key_value_heads", s.attention.kv_heads},
                 {"num_local_experts", s.experts},
                 {"position_embedding_type", s.attention.rotary > 0 ? Json("rope") : Json("nope")},
                 {"residual_multiplier", kResidual},
                 {"rms_norm_eps", 1e-5},
                 {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}},
                 {"shared_intermediate_size", s.shared_hidden}};
  extend(config, mamba2_config(s.mixer));

  Wrong wrong;
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    const std::string layer = stack.layer_name(i);
    wrong.merge(is_attention(i) ? wrong_attention(layer + "self_attn.", s.attention)
                                : wrong_mamba2(layer + "mamba.", s.mixer));
  }
  const std::string shared = stack.layer_name(0) + "shared_mlp.";
  wrong["shared MLP: gate half only"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, {{shared + "input_linear.weight", 0}, {shared + "output_linear.weight", 1}},
              rotation(static_cast<Index>(s.shared_hidden)));
  };
  if (s.experts > 0) {
    const std::string moe = stack.layer_name(0) + "block_sparse_moe.";
    wrong["hidden of the experts: gate half only"] = [=](NaiveTensors& tensors) {
      move_axes(tensors, {{moe + "input_linear.weight", 1}, {moe + "output_linear.weight", 2}},
                rotation(static_cast<Index>(s.expert_hidden)));
    };
    wrong["experts without their router"] = [=](NaiveTensors& tensors) {
      move_axes(tensors, {{moe + "input_linear.weight"}, {moe + "output_linear.weight"}},
                rotation(static_cast<Index>(s.experts)));
    };
  }
  return hybrid_family(std::move(name), std::move(config), stack, std::move(wrong));
}

Family granite_rope() {
  GraniteSizes sizes{.experts = 5};
  sizes.attention.rotary = sizes.attention.headdim;
  return granite("granitemoehybrid, RoPE, experts", sizes, {"linear_attention", "full_attention"});
}

Family granite_nope() {
  GraniteSizes sizes;
  sizes.attention.bias = Bias::yes;
  Family result = granite("granitemoehybrid, no positions, no experts", sizes,
                          {"linear_attention", "full_attention", "linear_attention"});
  result.invisible["self_attn.k_proj.bias"] =
      "without RoPE it adds the same score to every key, which softmax removes";
  return result;
}

// ---- Falcon-H1 ----

Rows falcon_h1_mixer(const Rows& x, const Scope& mixer, const Mamba2Sizes& s,
                     const std::vector<double>& multipliers) {
  const auto groups = static_cast<std::size_t>(s.groups);
  Rows projected = linear(scaled(x, 1.1), mixer, "in_proj");
  const std::vector<std::int64_t> zones = {s.d_ssm(), s.d_ssm(), s.groups * s.d_state,
                                           s.groups * s.d_state, s.heads};
  for (Row& row : projected) {
    std::size_t at = 0;
    for (std::size_t zone = 0; zone < zones.size(); ++zone) {
      for (std::int64_t i = 0; i < zones[zone]; ++i) row[at++] *= multipliers[zone];
    }
  }
  const Rows y = mamba2_inner(
      projected, mixer,
      {.groups = groups, .norm_groups = groups, .gate = Mamba2Options::Gate::after_norm});
  return linear(y, mixer, "out_proj");
}

Family falcon_h1() {
  const Mamba2Sizes mixer{.proj_bias = Bias::yes};
  const AttentionSizes attention{.headdim = 8, .rotary = 8, .bias = Bias::yes};
  constexpr std::int64_t kHidden = 14;
  const std::vector<double> ssm_multipliers = {0.5, 0.6, 0.7, 0.8, 0.9};
  HybridStack stack{.embedding_multiplier = 1.5, .logits_multiplier = 0.6};
  const std::int64_t d = stack.d_model;
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t) {
    maker.norm(layer + "input_layernorm", d);
    maker.norm(layer + "pre_ff_layernorm", d);
    make_mamba2(maker, layer + "mamba.", mixer);
    make_attention(maker, layer + "self_attn.", attention, d, d);
    make_gated_mlp(maker, layer + "feed_forward.", d, kHidden, Bias::yes);
  };
  stack.layer = [=](Rows x, const Scope& model, std::int64_t i, const Rows&) {
    const Scope layer = model.in(layer_part(i));
    const Rows in = norm(x, layer, "input_layernorm");
    const Scope attn = layer.in("self_attn");
    const Rows scaled_in = scaled(in, 1.3);
    const Rows attended = naive_attention(linear(scaled_in, attn, "q_proj"),
                                          scaled(linear(scaled_in, attn, "k_proj"), 0.8),
                                          linear(scaled_in, attn, "v_proj"), attention.options());
    x = sum(x, sum(scaled(falcon_h1_mixer(in, layer.in("mamba"), mixer, ssm_multipliers), 1.2),
                   scaled(linear(attended, attn, "o_proj"), 0.7)));
    const Rows y = norm(x, layer, "pre_ff_layernorm");
    const Scope mlp = layer.in("feed_forward");
    const Rows gate = map(silu, scaled(linear(y, mlp, "gate_proj"), 0.9));
    const Rows hidden = product(gate, linear(y, mlp, "up_proj"));
    return sum(x, scaled(linear(hidden, mlp, "down_proj"), 1.1));
  };
  Json config = {{"architectures", {"FalconH1ForCausalLM"}},
                 {"model_type", "falcon_h1"},
                 {"attention_bias", true},
                 {"attention_in_multiplier", 1.3},
                 {"attention_out_multiplier", 0.7},
                 {"embedding_multiplier", stack.embedding_multiplier},
                 {"head_dim", attention.headdim},
                 {"hidden_act", "silu"},
                 {"intermediate_size", kHidden},
                 {"key_multiplier", 0.8},
                 {"lm_head_multiplier", stack.logits_multiplier},
                 {"mamba_d_ssm", mixer.d_ssm()},
                 {"mamba_norm_before_gate", true},
                 {"mamba_rms_norm", true},
                 {"mlp_bias", true},
                 {"mlp_multipliers", {0.9, 1.1}},
                 {"num_attention_heads", attention.heads},
                 {"num_key_value_heads", attention.kv_heads},
                 {"projectors_bias", true},
                 {"rms_norm_eps", 1e-5},
                 {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}},
                 {"ssm_in_multiplier", 1.1},
                 {"ssm_multipliers", ssm_multipliers},
                 {"ssm_out_multiplier", 1.2}};
  extend(config, mamba2_config(mixer));
  Wrong wrong = wrong_mamba2(stack.layer_name(0) + "mamba.", mixer);
  wrong.merge(wrong_attention(stack.layer_name(1) + "self_attn.", attention));
  return hybrid_family("falcon_h1", config, stack, std::move(wrong));
}

}  // namespace

std::vector<Family> hybrid_families() {
  return {zamba(),
          zamba2(),
          zamba2_one_block(),
          jamba(),
          bamba(),
          nemotron_h_latent(),
          nemotron_h_plain(),
          granite_rope(),
          granite_nope(),
          falcon_h1()};
}

}  // namespace icd::testing
