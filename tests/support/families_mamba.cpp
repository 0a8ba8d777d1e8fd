#include <nlohmann/json.hpp>
#include <utility>

#include "families.h"
#include "support/naive_mamba3.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

using Json = nlohmann::ordered_json;
using Wrong = std::map<std::string, std::function<void(NaiveTensors&)>>;

constexpr std::int64_t kModel = 12;

/// Residual layers as mamba-ssm and Hugging Face's Mamba have them: x += mixer(norm(x)), and
/// x += mlp(norm2(x)) where there is one.
struct Stack {
  std::int64_t layers = 2;
  std::int64_t vocabulary = 19;
  std::string prefix = "backbone.";
  std::string embedding = "embeddings";
  bool tied = false;
  std::string head = "lm_head";
  Bias norm_bias = Bias::no;  ///< LayerNorms
  std::int64_t mlp_hidden = 0;
  std::function<void(TensorMaker&, const std::string& mixer, std::int64_t layer)> make_mixer = {};
  std::function<Rows(const Rows&, const Scope& mixer, std::int64_t layer)> mixer = {};
};

std::string mixer_of(const Stack& stack, std::int64_t layer) {
  return stack.prefix + "layers." + std::to_string(layer) + ".mixer.";
}

NaiveTensors make(const Stack& stack, std::uint64_t seed) {
  TensorMaker maker(seed);
  maker.embedding(stack.prefix + stack.embedding + ".weight", stack.vocabulary, kModel);
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    const std::string layer = stack.prefix + "layers." + std::to_string(i) + ".";
    maker.norm(layer + "norm", kModel, stack.norm_bias);
    stack.make_mixer(maker, layer + "mixer.", i);
    if (stack.mlp_hidden == 0) continue;
    maker.norm(layer + "norm2", kModel, stack.norm_bias);
    maker.linear(layer + "mlp.fc1", 2 * stack.mlp_hidden, kModel);
    maker.linear(layer + "mlp.fc2", kModel, stack.mlp_hidden);
  }
  maker.norm(stack.prefix + "norm_f", kModel, stack.norm_bias);
  if (!stack.tied) maker.linear(stack.head, stack.vocabulary, kModel);
  return maker.take();
}

/// fc1 gives [up; gate]: the other way round than gate_up_proj of others.
Rows mamba_mlp(const Rows& x, const Scope& mlp) {
  const Rows both = linear(x, mlp, "fc1");
  const std::size_t hidden = both[0].size() / 2;
  return linear(product(part(both, 0, hidden), map(silu, part(both, hidden, hidden))), mlp, "fc2");
}

std::vector<double> forward(const Stack& stack, const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope all(tensors);
  const Scope backbone(tensors, stack.prefix);
  const NaiveTensor& table = backbone.at(stack.embedding + ".weight");
  const NaiveTensor& head = stack.tied ? table : all.at(stack.head + ".weight");
  return naive_logits(table, head, seed, [&](Rows x) {
    for (std::int64_t i = 0; i < stack.layers; ++i) {
      const Scope layer = backbone.in("layers." + std::to_string(i));
      x = sum(x, stack.mixer(norm(x, layer, "norm"), layer.in("mixer"), i));
      if (stack.mlp_hidden == 0) continue;
      x = sum(x, mamba_mlp(norm(x, layer, "norm2"), layer.in("mlp")));
    }
    return norm(x, backbone, "norm_f");
  });
}

Family family(std::string name, const Json& config, Stack stack, Wrong wrong) {
  return {.name = std::move(name),
          .config = config.dump(2),
          .settings = {},
          .make = [stack](std::uint64_t seed) { return make(stack, seed); },
          .forward = [stack](const NaiveTensors& tensors,
                             std::uint64_t seed) { return forward(stack, tensors, seed); },
          .invisible = {},
          .wrong = std::move(wrong)};
}

/// config.json of mamba-ssm, whose vocabulary is padded: 17 to 20.
Json mamba_ssm_config(const Stack& stack, const Json& ssm_cfg) {
  return {{"d_model", kModel},
          {"d_intermediate", stack.mlp_hidden},
          {"n_layer", stack.layers},
          {"vocab_size", 17},
          {"ssm_cfg", ssm_cfg},
          {"attn_layer_idx", Json::array()},
          {"attn_cfg", Json::object()},
          {"rms_norm", stack.norm_bias == Bias::no},
          {"residual_in_fp32", true},
          {"fused_add_norm", true},
          {"pad_vocab_size_multiple", 4},
          {"tie_embeddings", stack.tied}};
}

Stack mamba_ssm_stack() { return {.vocabulary = 20, .embedding = "embedding"}; }

// ---- Mamba-1 ----

Wrong wrong_mamba1(const Stack& stack, const Mamba1Sizes& sizes) {
  const std::string mixer = mixer_of(stack, 0);
  const auto inner = rotation(static_cast<Index>(sizes.d_inner));
  const auto states = rotation(static_cast<Index>(sizes.d_state));
  const auto rank = static_cast<std::size_t>(sizes.dt_rank);
  const auto model = rotation(static_cast<Index>(kModel));

  Wrong wrong;
  const std::vector<Move> moves = mamba1_inner_moves(make(stack, 0), mixer);
  for (std::size_t left = 0; left < moves.size(); ++left) {
    std::vector<Move> others = moves;
    others.erase(others.begin() + static_cast<std::ptrdiff_t>(left));
    wrong["d_inner without " + moves[left].tensor + " from " + std::to_string(moves[left].first)] =
        [=](NaiveTensors& tensors) { move_axes(tensors, others, inner); };
  }
  wrong["d_state: B and A_log without C"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, {{mixer + "x_proj.weight", 0, rank}, {mixer + "A_log", 1}}, states);
  };
  wrong["dt_rank: rows of x_proj without columns of dt_proj"] = [=](NaiveTensors& tensors) {
    move_axis(tensors, {mixer + "x_proj.weight"}, rotation(static_cast<Index>(rank)));
  };
  wrong["residual in one layer"] = [=](NaiveTensors& tensors) {
    const std::string layer = mixer.substr(0, mixer.size() - std::string("mixer.").size());
    move_axes(
        tensors,
        {{mixer + "in_proj.weight", 1}, {mixer + "out_proj.weight", 0}, {layer + "norm.weight"}},
        model);
  };
  return wrong;
}

Stack mamba1_stack(Stack stack, const Mamba1Sizes& sizes) {
  stack.make_mixer = [sizes](TensorMaker& maker, const std::string& mixer, std::int64_t) {
    make_mamba1(maker, mixer, sizes);
  };
  stack.mixer = [](const Rows& x, const Scope& mixer, std::int64_t) {
    return naive_mamba1(x, mixer);
  };
  return stack;
}

Json mamba1_hf_config(const Stack& stack, const Mamba1Sizes& sizes) {
  return {{"architectures", {"MambaForCausalLM"}},
          {"model_type", "mamba"},
          {"vocab_size", stack.vocabulary},
          {"hidden_size", kModel},
          {"state_size", sizes.d_state},
          {"num_hidden_layers", stack.layers},
          {"layer_norm_epsilon", 1e-5},
          {"expand", sizes.d_inner / kModel},
          {"intermediate_size", sizes.d_inner},
          {"conv_kernel", sizes.d_conv},
          {"use_bias", sizes.proj_bias == Bias::yes},
          {"use_conv_bias", sizes.conv_bias == Bias::yes},
          {"hidden_act", "silu"},
          {"time_step_rank", sizes.dt_rank},
          {"residual_in_fp32", true},
          {"tie_word_embeddings", stack.tied}};
}

Json mamba1_ssm_cfg(const Mamba1Sizes& sizes) {
  return {{"layer", "Mamba1"},
          {"d_state", sizes.d_state},
          {"d_conv", sizes.d_conv},
          {"expand", sizes.d_inner / kModel},
          {"dt_rank", sizes.dt_rank},
          {"bias", sizes.proj_bias == Bias::yes},
          {"conv_bias", sizes.conv_bias == Bias::yes}};
}

Family mamba1_hf() {
  const Mamba1Sizes sizes;
  const Stack stack = mamba1_stack({.tied = true}, sizes);
  return family("mamba hf, tied", mamba1_hf_config(stack, sizes), stack,
                wrong_mamba1(stack, sizes));
}

Family mamba1_hf_biases() {
  const Mamba1Sizes sizes{.proj_bias = Bias::yes};
  const Stack stack = mamba1_stack({}, sizes);
  return family("mamba hf, biases, untied", mamba1_hf_config(stack, sizes), stack,
                wrong_mamba1(stack, sizes));
}

Family mamba1_layer_norm() {
  const Mamba1Sizes sizes{.proj_bias = Bias::yes};
  Stack stack = mamba1_stack(mamba_ssm_stack(), sizes);
  stack.norm_bias = Bias::yes;
  return family("mamba-ssm Mamba1, LayerNorm, biases",
                mamba_ssm_config(stack, mamba1_ssm_cfg(sizes)), stack, wrong_mamba1(stack, sizes));
}

Family falcon_mamba() {
  const Mamba1Sizes sizes;
  Stack stack = mamba1_stack({}, sizes);
  stack.mixer = [](const Rows& x, const Scope& mixer, std::int64_t) {
    Mamba1Core core = mamba1_core(mixer);
    core.dt_norm = core.b_norm =
        core.c_norm = [](const Row& row) { return rms_norm(row, nullptr, 1, 1e-6); };
    return naive_mamba1(x, mixer, core);
  };
  Json config = mamba1_hf_config(stack, sizes);
  config["architectures"] = {"FalconMambaForCausalLM"};
  config["model_type"] = "falcon_mamba";
  config["mixer_rms_eps"] = 1e-6;
  return family("falcon_mamba", config, stack, wrong_mamba1(stack, sizes));
}

// ---- mamba-ssm with attention layers and MLPs ----

/// modules/mha.py: one in_proj to [q; k; v; MLP up; MLP gate], a convolution over q, k and v,
/// and out_proj from [attention; MLP].
struct PackedAttention {
  std::int64_t heads = 4;
  std::int64_t kv_heads = 2;
  std::int64_t headdim = 7;
  std::int64_t rotary = 4;
  std::int64_t d_conv = 3;
  std::int64_t mlp = 256;  ///< both halves; mamba-ssm rounds up to 256
  std::int64_t q() const { return heads * headdim; }
  std::int64_t kv() const { return kv_heads * headdim; }
  std::int64_t qkv() const { return q() + 2 * kv(); }
};

void make_packed_attention(TensorMaker& maker, const std::string& mixer,
                           const PackedAttention& sizes) {
  maker.linear(mixer + "in_proj", sizes.qkv() + sizes.mlp, kModel, Bias::yes);
  maker.conv(mixer + "conv1d", sizes.qkv(), sizes.d_conv);
  maker.linear(mixer + "out_proj", kModel, sizes.q() + sizes.mlp / 2, Bias::yes);
}

Rows packed_attention(const Rows& x, const Scope& mixer, const PackedAttention& sizes) {
  const auto q = static_cast<std::size_t>(sizes.q());
  const auto kv = static_cast<std::size_t>(sizes.kv());
  const auto hidden = static_cast<std::size_t>(sizes.mlp / 2);
  const Rows all = linear(x, mixer, "in_proj");
  const Rows qkv =
      causal_conv(part(all, 0, q + 2 * kv), mixer.at("conv1d.weight"), mixer.find("conv1d.bias"));
  const Rows attention = naive_attention(part(qkv, 0, q), part(qkv, q, kv), part(qkv, q + kv, kv),
                                         {.heads = static_cast<std::size_t>(sizes.heads),
                                          .kv_heads = static_cast<std::size_t>(sizes.kv_heads),
                                          .headdim = static_cast<std::size_t>(sizes.headdim),
                                          .rotary_dim = static_cast<std::size_t>(sizes.rotary)});
  const Rows mlp =
      product(part(all, q + 2 * kv, hidden), map(silu, part(all, q + 2 * kv + hidden, hidden)));
  return linear(joined(attention, mlp), mixer, "out_proj");
}

Wrong wrong_packed_attention(const std::string& mixer, const PackedAttention& sizes) {
  const auto q = static_cast<std::size_t>(sizes.q());
  const auto kv = static_cast<std::size_t>(sizes.kv());
  const auto hd = static_cast<std::size_t>(sizes.headdim);
  const auto hidden = static_cast<std::size_t>(sizes.mlp / 2);
  // Rows of in_proj and of the convolution after it.
  const auto rows = [=](std::size_t first, std::size_t block, std::size_t stride) {
    return std::vector<Move>{{mixer + "in_proj.weight", 0, first, block, stride},
                             {mixer + "in_proj.bias", 0, first, block, stride},
                             {mixer + "conv1d.weight", 0, first, block, stride},
                             {mixer + "conv1d.bias", 0, first, block, stride}};
  };
  const auto kv_heads = rotation(static_cast<Index>(sizes.kv_heads));
  const std::size_t rep = static_cast<std::size_t>(sizes.heads / sizes.kv_heads);

  Wrong wrong;
  wrong["kv heads as if k and v alternated"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, rows(0, rep * hd, 0), kv_heads);
    move_axes(tensors, rows(q, hd, 2 * hd), kv_heads);
    move_axes(tensors, rows(q + hd, hd, 2 * hd), kv_heads);
    move_axis(tensors, {mixer + "out_proj.weight", 1, 0, rep * hd}, kv_heads);
  };
  wrong["query heads across kv heads"] = [=](NaiveTensors& tensors) {
    const auto heads = rotation(static_cast<Index>(sizes.heads));
    move_axes(tensors, rows(0, hd, 0), heads);
    move_axis(tensors, {mixer + "out_proj.weight", 1, 0, hd}, heads);
  };
  const auto qk_channels = [=](NaiveTensors& tensors, std::size_t first,
                               const std::vector<Index>& order) {
    for (std::size_t h = 0; h < rep; ++h) move_axes(tensors, rows(h * hd + first, 1, 0), order);
    move_axes(tensors, rows(q + first, 1, 0), order);
  };
  wrong["rotated q and k channels"] = [=](NaiveTensors& tensors) {
    qk_channels(tensors, 0, rotation(static_cast<Index>(sizes.rotary)));
  };
  wrong["rotary pairs as units"] = [=](NaiveTensors& tensors) {
    const auto pairs = static_cast<std::size_t>(sizes.rotary / 2);
    qk_channels(tensors, 0, rotation(static_cast<Index>(pairs)));
    qk_channels(tensors, pairs, rotation(static_cast<Index>(pairs)));
  };
  wrong["MLP hidden: up without gate"] = [=](NaiveTensors& tensors) {
    const auto order = rotation(static_cast<Index>(hidden));
    move_axes(tensors,
              {{mixer + "in_proj.weight", 0, q + 2 * kv},
               {mixer + "in_proj.bias", 0, q + 2 * kv},
               {mixer + "out_proj.weight", 1, q}},
              order);
  };
  return wrong;
}

Family mamba1_with_attention() {
  const Mamba1Sizes sizes;
  const PackedAttention attention;
  Stack stack = mamba_ssm_stack();
  stack.layers = 3;
  stack.tied = true;
  stack.mlp_hidden = 128;  // mamba-ssm rounds up to 128
  stack.make_mixer = [=](TensorMaker& maker, const std::string& mixer, std::int64_t layer) {
    if (layer == 1) return make_packed_attention(maker, mixer, attention);
    return make_mamba1(maker, mixer, sizes);
  };
  stack.mixer = [=](const Rows& x, const Scope& mixer, std::int64_t layer) {
    return layer == 1 ? packed_attention(x, mixer, attention) : naive_mamba1(x, mixer);
  };
  Json config = mamba_ssm_config(stack, mamba1_ssm_cfg(sizes));
  config["attn_layer_idx"] = {1};
  config["attn_cfg"] = {{"causal", true},
                        {"num_heads", attention.heads},
                        {"num_heads_kv", attention.kv_heads},
                        {"head_dim", attention.headdim},
                        {"rotary_emb_dim", attention.rotary},
                        {"d_conv", attention.d_conv},
                        {"mlp_dim", attention.mlp},
                        {"qkv_proj_bias", true},
                        {"out_proj_bias", true}};
  Wrong wrong = wrong_mamba1(stack, sizes);
  wrong.merge(wrong_packed_attention(mixer_of(stack, 1), attention));
  return family("mamba-ssm Mamba1, attention and MLPs", config, stack, std::move(wrong));
}

// ---- Mamba-2 ----

Stack mamba2_stack(Stack stack, const Mamba2Sizes& sizes, const Mamba2Options& options) {
  stack.make_mixer = [sizes](TensorMaker& maker, const std::string& mixer, std::int64_t) {
    make_mamba2(maker, mixer, sizes);
  };
  stack.mixer = [options](const Rows& x, const Scope& mixer, std::int64_t) {
    return naive_mamba2(x, mixer, options);
  };
  return stack;
}

/// One norm over all channels, whatever the groups: what transformers computes without its
/// fused kernels.
Family mamba2_hf(std::string name, const Mamba2Sizes& sizes) {
  const Stack stack = mamba2_stack({}, sizes, {.groups = static_cast<std::size_t>(sizes.groups)});
  const Json config = {{"architectures", {"Mamba2ForCausalLM"}},
                       {"model_type", "mamba2"},
                       {"vocab_size", stack.vocabulary},
                       {"hidden_size", kModel},
                       {"num_hidden_layers", stack.layers},
                       {"num_heads", sizes.heads},
                       {"head_dim", sizes.headdim},
                       {"n_groups", sizes.groups},
                       {"state_size", sizes.d_state},
                       {"expand", sizes.d_ssm() / kModel},
                       {"conv_kernel", sizes.d_conv},
                       {"chunk_size", 256},
                       {"layer_norm_epsilon", 1e-5},
                       {"time_step_limit", {0.0, {{"__float__", "Infinity"}}}},
                       {"use_bias", sizes.proj_bias == Bias::yes},
                       {"use_conv_bias", sizes.conv_bias == Bias::yes},
                       {"hidden_act", "silu"},
                       {"residual_in_fp32", true},
                       {"tie_word_embeddings", stack.tied}};
  return family(std::move(name), config, stack, wrong_mamba2(mixer_of(stack, 0), sizes));
}

/// The norm group by group, as mamba-ssm has it.
Family mamba2_ssm(std::string name, const Mamba2Sizes& sizes) {
  const auto groups = static_cast<std::size_t>(sizes.groups);
  const Stack stack =
      mamba2_stack(mamba_ssm_stack(), sizes, {.groups = groups, .norm_groups = groups});
  Json ssm_cfg = {{"layer", "Mamba2"},
                  {"d_state", sizes.d_state},
                  {"d_conv", sizes.d_conv},
                  {"expand", (sizes.d_mlp + sizes.d_ssm()) / kModel},
                  {"headdim", sizes.headdim},
                  {"ngroups", sizes.groups},
                  {"D_has_hdim", sizes.D_has_hdim},
                  {"rmsnorm", sizes.rmsnorm},
                  {"bias", sizes.proj_bias == Bias::yes},
                  {"conv_bias", sizes.conv_bias == Bias::yes}};
  if (sizes.d_mlp > 0) ssm_cfg["d_ssm"] = sizes.d_ssm();
  return family(std::move(name), mamba_ssm_config(stack, ssm_cfg), stack,
                wrong_mamba2(mixer_of(stack, 0), sizes));
}

Family mamba2_ssm_mlp() {
  const Mamba2Sizes sizes{.d_mlp = 12, .proj_bias = Bias::yes, .D_has_hdim = true};
  Family result = mamba2_ssm("mamba-ssm Mamba2, MLP part, biases, D a channel", sizes);
  const std::string mixer = "backbone.layers.0.mixer.";
  result.wrong["MLP part: one half"] = [=](NaiveTensors& tensors) {
    move_axes(tensors,
              {{mixer + "in_proj.weight", 0, 0},
               {mixer + "in_proj.bias", 0, 0},
               {mixer + "out_proj.weight", 1, 0}},
              rotation(static_cast<Index>(sizes.d_mlp)));
  };
  return result;
}

/// Mamba-Codestral as published: consolidated.safetensors with `model.` before mamba-ssm's names,
/// and a params.json that tells neither headdim nor d_state. Source of the names: transformers'
/// convert_mamba2_ssm_checkpoint_to_pytorch.py.
Family codestral() {
  const Mamba2Sizes sizes{};
  const auto groups = static_cast<std::size_t>(sizes.groups);
  const Stack stack =
      mamba2_stack({.prefix = "model.backbone.", .embedding = "embedding", .head = "model.lm_head"},
                   sizes, {.groups = groups, .norm_groups = groups});
  const Json params = {{"dim", kModel},
                       {"n_layers", stack.layers},
                       {"vocab_size", stack.vocabulary},
                       {"n_groups", sizes.groups},
                       {"rms_norm", true},
                       {"residual_in_fp32", true},
                       {"fused_add_norm", true},
                       {"pad_vocab_size_multiple", 1},
                       {"tie_embeddings", false},
                       {"model_type", "mamba"}};
  Family result = family("mamba-codestral, consolidated", params, stack,
                         wrong_mamba2(mixer_of(stack, 0), sizes));
  result.config_file = "params.json";
  return result;
}

/// A module by itself: its input and output are no part of it, so their order is fixed.
Family mamba2_simple() {
  const Mamba2Sizes sizes{};
  Wrong wrong = wrong_mamba2("", sizes);
  wrong["heads in a group without init_states"] = [=](NaiveTensors& tensors) {
    move_axis(tensors, {"init_states"}, rotation(static_cast<Index>(sizes.heads / sizes.groups)));
  };
  wrong["d_state of one group in all of init_states"] = [=](NaiveTensors& tensors) {
    const auto states = static_cast<std::size_t>(sizes.d_state);
    const auto d_ssm = static_cast<std::size_t>(sizes.d_ssm());
    const auto bc = static_cast<std::size_t>(sizes.groups) * states;
    move_axes(tensors,
              {{"in_proj.weight", 0, 2 * d_ssm},
               {"in_proj.weight", 0, 2 * d_ssm + bc},
               {"conv1d.weight", 0, d_ssm},
               {"conv1d.weight", 0, d_ssm + bc},
               {"conv1d.bias", 0, d_ssm},
               {"conv1d.bias", 0, d_ssm + bc},
               {"init_states", 2}},
              rotation(static_cast<Index>(states)));
  };
  return {.name = "Mamba2Simple, init_states",
          .config = {},
          .settings = {{"ngroups", static_cast<Index>(sizes.groups)}},
          .make =
              [=](std::uint64_t seed) {
                TensorMaker maker(seed);
                make_mamba2(maker, "", sizes);
                maker.tensor("init_states", {sizes.heads, sizes.headdim, sizes.d_state}, 0, 1);
                return maker.take();
              },
          .forward =
              [=](const NaiveTensors& tensors, std::uint64_t seed) {
                std::vector<double> output;
                append(output, naive_mamba2(random_rows(seed, 6, kModel), Scope(tensors),
                                            {.groups = static_cast<std::size_t>(sizes.groups)}));
                return output;
              },
          .invisible = {},
          .wrong = std::move(wrong)};
}

// ---- Mamba-3 ----

Family mamba3(std::string name, const Mamba3Sizes& sizes) {
  Stack stack = mamba_ssm_stack();
  stack.make_mixer = [sizes](TensorMaker& maker, const std::string& mixer, std::int64_t) {
    make_mamba3(maker, mixer, sizes);
  };
  stack.mixer = [sizes](const Rows& x, const Scope& mixer, std::int64_t) {
    return naive_mamba3(x, mixer, sizes);
  };
  Json ssm_cfg = {{"layer", "Mamba3"},
                  {"d_state", sizes.d_state},
                  {"expand", sizes.d_inner() / kModel},
                  {"headdim", sizes.headdim},
                  {"ngroups", sizes.groups},
                  {"rope_fraction", sizes.rope_fraction},
                  {"is_outproj_norm", sizes.outproj_norm},
                  {"is_mimo", sizes.mimo()}};
  if (sizes.mimo()) ssm_cfg["mimo_rank"] = sizes.rank;
  return family(std::move(name), mamba_ssm_config(stack, ssm_cfg), stack,
                wrong_mamba3(mixer_of(stack, 0), sizes));
}

}  // namespace

std::vector<Family> mamba_families() {
  return {
      mamba1_hf(),
      mamba1_hf_biases(),
      mamba1_layer_norm(),
      mamba1_with_attention(),
      falcon_mamba(),
      mamba2_hf("mamba2 hf, one group", {.groups = 1}),
      mamba2_hf("mamba2 hf, two groups, biases", {.proj_bias = Bias::yes}),
      mamba2_ssm("mamba-ssm Mamba2", {}),
      mamba2_ssm_mlp(),
      mamba2_ssm("mamba-ssm Mamba2 without norm", {.rmsnorm = false}),
      codestral(),
      mamba2_simple(),
      mamba3("mamba-ssm Mamba3", {}),
      mamba3("mamba-ssm Mamba3, all rotated, norm", {.rope_fraction = 1.0, .outproj_norm = true}),
      mamba3("mamba-ssm Mamba3 MIMO", {.rank = 5}),
      mamba3("mamba-ssm Mamba3 MIMO, all rotated, norm",
             {.rank = 5, .rope_fraction = 1.0, .outproj_norm = true})};
}

}  // namespace icd::testing
