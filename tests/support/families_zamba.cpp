#include "support/families_zamba.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "support/hybrid_parts.h"

namespace icd::testing {
namespace {

constexpr std::int64_t kModel = 12;
constexpr std::int64_t kHidden = 14;

bool ends_with(const std::string& name, const std::string& end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

/// Everything on the residual stream. The shared block reads the stream and, behind it, the
/// embeddings; its own outputs are not on the stream.
std::vector<Move> residual_moves(const NaiveTensors& tensors,
                                 const std::vector<std::size_t>& halves) {
  std::vector<Move> moves;
  for (const auto& [name, tensor] : tensors) {
    const bool wide = tensor.shape.back() == 2 * kModel;
    const bool reads =
        ends_with(name, "q_proj.weight") || ends_with(name, "k_proj.weight") ||
        ends_with(name, "v_proj.weight") ||
        (name.find("self_attn.linear_") != std::string::npos && ends_with(name, ".0.weight"));
    if (reads || (wide && ends_with(name, "input_layernorm.weight"))) {
      for (const std::size_t half : halves) moves.push_back({name, reads ? 1u : 0u, half});
    } else if (ends_with(name, "input_layernorm.weight") ||
               ends_with(name, "mamba.out_proj.weight") || ends_with(name, "mamba.out_proj.bias") ||
               ends_with(name, ".linear.weight") || ends_with(name, "final_layernorm.weight")) {
      moves.push_back({name, 0});
    } else if (ends_with(name, "mamba.in_proj.weight") || ends_with(name, "embed_tokens.weight")) {
      moves.push_back({name, 1});
    }
  }
  return moves;
}

Wrong wrong_shared_block(const std::string& o_proj) {
  const auto order = rotation(static_cast<Index>(kModel));
  const auto both = std::vector<std::size_t>{0, static_cast<std::size_t>(kModel)};
  Wrong wrong;
  wrong["residual in the first half of the concatenation only"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, residual_moves(tensors, {0}), order);
  };
  wrong["rows of o_proj on the residual"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, residual_moves(tensors, both), order);
    move_axis(tensors, {o_proj + ".weight"}, order);
  };
  wrong["rows of down_proj on the residual"] = [=](NaiveTensors& tensors) {
    move_axes(tensors, residual_moves(tensors, both), order);
    const std::string block = o_proj.substr(0, o_proj.find("self_attn"));
    move_axis(tensors, {block + "feed_forward.down_proj.weight"}, order);
  };
  return wrong;
}

// ---- Zamba-1 ----

struct ZambaMixer {
  std::int64_t heads = 2;
  std::int64_t headdim = 12;
  std::int64_t d_state = 5;
  std::int64_t dt_rank = 3;
  std::int64_t d_conv = 4;
  std::int64_t d_inner() const { return heads * headdim; }
};

void make_zamba_mixer(TensorMaker& maker, const std::string& mixer, const ZambaMixer& s) {
  maker.linear(mixer + "in_proj", 2 * s.d_inner(), kModel);
  maker.conv(mixer + "conv1d", s.d_inner(), s.d_conv);
  maker.tensor(mixer + "x_proj_weight", {s.heads, s.dt_rank + 2 * s.d_state, s.headdim}, 0, 0.3);
  maker.tensor(mixer + "dt_proj_weight", {s.heads, s.headdim, s.dt_rank}, 0, 0.5);
  maker.tensor(mixer + "dt_proj_bias", {s.heads, s.headdim}, 0, 0.5);
  maker.tensor(mixer + "A_log", {s.heads, s.headdim, s.d_state}, 0, 0.5);
  maker.tensor(mixer + "D", {s.heads, s.headdim}, 0.5, 0.5);
  maker.linear(mixer + "out_proj", kModel, s.d_inner());
}

/// Each head is a Mamba-1 of its own. Row 2c of in_proj is x, row 2c + 1 the gate of channel c.
Rows zamba_mixer(const Rows& hidden, const Scope& mixer, const ZambaMixer& s) {
  const Rows both = linear(hidden, mixer, "in_proj");
  const auto headdim = static_cast<std::size_t>(s.headdim);
  const NaiveTensor conv_bias = mixer.at("conv1d.bias");
  Rows joined_heads(hidden.size());
  for (std::size_t m = 0; m < static_cast<std::size_t>(s.heads); ++m) {
    Rows x(hidden.size(), Row(headdim));
    Rows gate = x;
    for (std::size_t t = 0; t < hidden.size(); ++t) {
      for (std::size_t c = 0; c < headdim; ++c) {
        x[t][c] = both[t][2 * (m * headdim + c)];
        gate[t][c] = both[t][2 * (m * headdim + c) + 1];
      }
    }
    const NaiveTensor bias = rows_of(conv_bias, m * headdim, headdim);
    const Rows y =
        mamba1_scan(x, {.conv_weight = rows_of(mixer.at("conv1d.weight"), m * headdim, headdim),
                        .conv_bias = &bias,
                        .x_proj = slice(mixer.at("x_proj_weight"), m),
                        .dt_weight = slice(mixer.at("dt_proj_weight"), m),
                        .dt_bias = slice(mixer.at("dt_proj_bias"), m),
                        .A_log = slice(mixer.at("A_log"), m),
                        .D = slice(mixer.at("D"), m),
                        .dt_norm = {},
                        .b_norm = {},
                        .c_norm = {}});
    joined_heads = joined(joined_heads, product(y, map(silu, gate)));
  }
  return linear(joined_heads, mixer, "out_proj");
}

Wrong wrong_zamba_mixer(const std::string& mixer, const ZambaMixer& s) {
  const auto headdim = static_cast<std::size_t>(s.headdim);
  const auto channels = rotation(static_cast<Index>(headdim));
  Wrong wrong;
  wrong["in_proj as two halves"] = [=](NaiveTensors& tensors) {
    move_axis(tensors, {mixer + "in_proj.weight"}, channels);
    move_axis(tensors, {mixer + "in_proj.weight", 0, static_cast<std::size_t>(s.d_inner())},
              channels);
    for (const char* name : {"conv1d.weight", "conv1d.bias"}) {
      move_axis(tensors, {mixer + name}, channels);
    }
    move_axis(tensors, {mixer + "out_proj.weight", 1}, channels);
    // Head 0 of what has an axis of heads.
    const auto move_head = [&](const char* name, std::size_t axis) {
      NaiveTensor& all = tensors.at(mixer + name);
      NaiveTensors own = {{"head", slice(all, 0)}};
      move_axis(own, {"head", axis}, channels);
      std::copy(own.at("head").values.begin(), own.at("head").values.end(), all.values.begin());
    };
    move_head("x_proj_weight", 1);
    for (const char* name : {"dt_proj_weight", "dt_proj_bias", "A_log", "D"}) move_head(name, 0);
  };
  wrong["d_inner across Mamba heads"] = [=](NaiveTensors& tensors) {
    // Channel c of one head for channel c of the other, in all but x_proj and dt_proj's heads.
    const auto flat = rotation(static_cast<Index>(s.d_inner()));
    move_axis(tensors, {mixer + "in_proj.weight", 0, 0, 2}, flat);
    for (const char* name : {"conv1d.weight", "conv1d.bias"})
      move_axis(tensors, {mixer + name}, flat);
    move_axis(tensors, {mixer + "out_proj.weight", 1}, flat);
    for (const char* name : {"dt_proj_weight", "dt_proj_bias", "A_log", "D"}) {
      NaiveTensor& tensor = tensors.at(mixer + name);
      const Shape shape = tensor.shape;
      tensor.shape.erase(tensor.shape.begin());
      tensor.shape[0] *= shape[0];
      move_axis(tensors, {mixer + name}, flat);
      tensor.shape = shape;
    }
    move_axis(tensors, {mixer + "x_proj_weight", 2}, channels);
  };
  wrong["d_state of one head in all of A_log"] = [=](NaiveTensors& tensors) {
    move_axis(tensors, {mixer + "A_log", 2}, rotation(static_cast<Index>(s.d_state)));
  };
  return wrong;
}

}  // namespace

Family zamba() {
  const ZambaMixer mixer;
  const AttentionSizes attention{
      .heads = 4, .kv_heads = 4, .headdim = 6, .scale = 1 / std::sqrt(3.0)};
  const auto is_hybrid = [](std::int64_t i) { return i == 2 || i == 4; };
  HybridStack stack{.d_model = kModel, .layers = 5, .tied = true};
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    const std::string own = is_hybrid(i) ? layer + "mamba_decoder." : layer;
    maker.norm(own + "input_layernorm", kModel);
    make_zamba_mixer(maker, own + "mamba.", mixer);
    if (!is_hybrid(i)) return;
    maker.linear(layer + "linear", kModel, kModel);
    if (i != 2) return;  // the block is stored with the first layer that uses it
    maker.norm(layer + "shared_transf.input_layernorm", 2 * kModel);
    maker.norm(layer + "shared_transf.pre_ff_layernorm", kModel);
    make_attention(maker, layer + "shared_transf.self_attn.", attention, 2 * kModel, kModel);
    make_gated_mlp(maker, layer + "shared_transf.feed_forward.", kModel, kHidden);
  };
  stack.layer = [=](const Rows& x, const Scope& model, std::int64_t i, const Rows& embedded) {
    const Scope layer = model.in(layer_part(i));
    const Scope own = is_hybrid(i) ? layer.in("mamba_decoder") : layer;
    Rows in = x;
    if (is_hybrid(i)) {
      const Scope block = model.in(layer_part(2)).in("shared_transf");
      Rows y = norm(joined(x, embedded), block, "input_layernorm");
      y = naive_attention(y, block.in("self_attn"), attention.options());
      y = norm(y, block, "pre_ff_layernorm");
      const Scope mlp = block.in("feed_forward");
      y = product(map(gelu, linear(y, mlp, "gate_proj")), linear(y, mlp, "up_proj"));
      in = sum(x, linear(linear(y, mlp, "down_proj"), layer, "linear"));
    }
    return sum(x, zamba_mixer(norm(in, own, "input_layernorm"), own.in("mamba"), mixer));
  };
  const Json config = {
      {"architectures", {"ZambaForCausalLM"}},
      {"model_type", "zamba"},
      {"attention_head_dim", attention.headdim},
      {"attention_hidden_size", 2 * kModel},
      {"attn_layer_offset", 1},
      {"attn_layer_period", 3},
      {"hidden_act", "gelu"},
      {"hidden_mamba_act", "silu"},
      {"intermediate_size", kHidden},
      {"layers_block_type",
       {"linear_attention", "linear_attention", "hybrid", "linear_attention", "hybrid"}},
      {"mamba_conv_bias", true},
      {"mamba_d_conv", mixer.d_conv},
      {"mamba_d_state", mixer.d_state},
      {"mamba_dt_rank", mixer.dt_rank},
      {"mamba_expand", mixer.d_inner() / kModel},
      {"mamba_proj_bias", false},
      {"n_mamba_heads", mixer.heads},
      {"num_attention_heads", attention.heads},
      {"num_key_value_heads", attention.kv_heads},
      {"rms_norm_eps", 1e-5}};
  Wrong wrong = wrong_zamba_mixer(stack.layer_name(0) + "mamba.", mixer);
  wrong.merge(wrong_shared_block(stack.layer_name(2) + "shared_transf.self_attn.o_proj"));
  wrong.merge(wrong_attention(stack.layer_name(2) + "shared_transf.self_attn.", attention));
  return hybrid_family("zamba", config, stack, std::move(wrong));
}

// ---- Zamba2 ----

namespace {

struct Zamba2Sizes {
  std::vector<bool> hybrid;  ///< by layer
  std::int64_t blocks = 1;   ///< shared blocks, which take turns
  std::int64_t adapter_rank = 7;
  bool attention_adapters = false;
  AttentionSizes attention;
  Mamba2Sizes mixer = {};

  /// How many hybrid layers there are before layer i: the number of its adapters.
  std::int64_t turn(std::int64_t i) const {
    return std::count(hybrid.begin(), hybrid.begin() + i, true);
  }

  /// The layer that block b is stored with, which is the first that uses it.
  std::int64_t home(std::int64_t b) const {
    std::int64_t i = 0;
    while (!hybrid[static_cast<std::size_t>(i)] || turn(i) != b) ++i;
    return i;
  }
};

constexpr std::array<const char*, 3> kProjections = {"q", "k", "v"};

std::string adapter(const std::string& list, std::int64_t turn) {
  return list + "_adapter_list." + std::to_string(turn) + ".";
}

void make_block(TensorMaker& maker, const std::string& block, std::int64_t b,
                const Zamba2Sizes& s) {
  const std::int64_t wide = 2 * kModel;
  maker.norm(block + "input_layernorm", wide);
  maker.norm(block + "pre_ff_layernorm", kModel);
  make_attention(maker, block + "self_attn.", s.attention, wide, kModel);
  maker.linear(block + "feed_forward.gate_up_proj", 2 * kHidden, kModel, s.mixer.proj_bias);
  maker.linear(block + "feed_forward.down_proj", kModel, kHidden, s.mixer.proj_bias);
  const std::int64_t turns = std::count(s.hybrid.begin(), s.hybrid.end(), true);
  for (std::int64_t u = b; u < turns; u += s.blocks) {
    const std::string mlp = adapter(block + "feed_forward.gate_up_proj", u);
    maker.linear(mlp + "0", s.adapter_rank, kModel);
    maker.linear(mlp + "1", 2 * kHidden, s.adapter_rank);
    if (!s.attention_adapters) continue;
    for (const std::string which : kProjections) {
      const std::string list = adapter(block + "self_attn.linear_" + which, u);
      maker.linear(list + "0", s.adapter_rank, wide);
      maker.linear(list + "1", wide, s.adapter_rank);
    }
  }
}

Rows adapted(const Rows& x, const Scope& scope, const std::string& list, std::int64_t turn) {
  const std::string name = adapter(list, turn);
  return linear(linear(x, scope, name + "0"), scope, name + "1");
}

Rows block_forward(const Rows& both, const Scope& block, std::int64_t turn, const Zamba2Sizes& s) {
  const Rows x = norm(both, block, "input_layernorm");
  const Scope attention = block.in("self_attn");
  std::array<Rows, 3> qkv;
  for (std::size_t i = 0; i < qkv.size(); ++i) {
    const std::string which = kProjections[i];
    qkv[i] = linear(x, attention, which + "_proj");
    if (s.attention_adapters) {
      qkv[i] = sum(qkv[i], adapted(x, attention, "linear_" + which, turn));
    }
  }
  Rows y = naive_attention(qkv[0], qkv[1], qkv[2], s.attention.options());
  y = norm(linear(y, attention, "o_proj"), block, "pre_ff_layernorm");
  const Scope mlp = block.in("feed_forward");
  y = sum(linear(y, mlp, "gate_up_proj"), adapted(y, mlp, "gate_up_proj", turn));
  const auto hidden = static_cast<std::size_t>(kHidden);
  y = product(map(gelu, part(y, 0, hidden)), part(y, hidden, hidden));
  return linear(y, mlp, "down_proj");
}

Family zamba2_family(std::string name, const Zamba2Sizes& s) {
  const auto groups = static_cast<std::size_t>(s.mixer.groups);
  HybridStack stack{
      .d_model = kModel, .layers = static_cast<std::int64_t>(s.hybrid.size()), .tied = true};
  const auto is_hybrid = [=](std::int64_t i) { return s.hybrid[static_cast<std::size_t>(i)]; };
  stack.make_layer = [=](TensorMaker& maker, const std::string& layer, std::int64_t i) {
    const std::string own = is_hybrid(i) ? layer + "mamba_decoder." : layer;
    maker.norm(own + "input_layernorm", kModel);
    make_mamba2(maker, own + "mamba.", s.mixer);
    if (!is_hybrid(i)) return;
    maker.linear(layer + "linear", kModel, kModel);
    const std::int64_t b = s.turn(i) % s.blocks;
    if (i == s.home(b)) make_block(maker, layer + "shared_transformer.", b, s);
  };
  stack.layer = [=](const Rows& x, const Scope& model, std::int64_t i, const Rows& embedded) {
    const Scope layer = model.in(layer_part(i));
    const Scope own = is_hybrid(i) ? layer.in("mamba_decoder") : layer;
    Rows in = x;
    if (is_hybrid(i)) {
      const std::int64_t home = s.home(s.turn(i) % s.blocks);
      const Scope block = model.in(layer_part(home)).in("shared_transformer");
      const Rows y = block_forward(joined(x, embedded), block, s.turn(i), s);
      in = sum(x, linear(y, layer, "linear"));
    }
    return sum(x, naive_mamba2(norm(in, own, "input_layernorm"), own.in("mamba"),
                               {.groups = groups, .norm_groups = groups}));
  };
  Json kinds = Json::array();
  Json hybrid_ids = Json::array();
  for (std::int64_t i = 0; i < stack.layers; ++i) {
    kinds.push_back(is_hybrid(i) ? "hybrid" : "linear_attention");
    if (is_hybrid(i)) hybrid_ids.push_back(i);
  }
  const Json config = {{"architectures", {"Zamba2ForCausalLM"}},
                       {"model_type", "zamba2"},
                       {"adapter_rank", s.adapter_rank},
                       {"add_bias_linear", s.mixer.proj_bias == Bias::yes},
                       {"attention_head_dim", s.attention.headdim},
                       {"attention_hidden_size", 2 * kModel},
                       {"chunk_size", 256},
                       {"hidden_act", "gelu"},
                       {"hybrid_layer_ids", hybrid_ids},
                       {"intermediate_size", kHidden},
                       {"layers_block_type", kinds},
                       {"mamba_d_conv", s.mixer.d_conv},
                       {"mamba_d_state", s.mixer.d_state},
                       {"mamba_expand", s.mixer.d_ssm() / kModel},
                       {"mamba_headdim", s.mixer.headdim},
                       {"mamba_ngroups", s.mixer.groups},
                       {"n_mamba_heads", s.mixer.heads},
                       {"num_attention_heads", s.attention.heads},
                       {"num_key_value_heads", s.attention.kv_heads},
                       {"num_mem_blocks", s.blocks},
                       {"rms_norm_eps", 1e-5},
                       {"rope_parameters", {{"rope_theta", 10000.0}, {"rope_type", "default"}}},
                       {"use_conv_bias", true},
                       {"use_mem_rope", s.attention.rotary > 0},
                       {"use_shared_attention_adapter", s.attention_adapters}};
  const std::string block = stack.layer_name(s.home(0)) + "shared_transformer.";
  Wrong wrong = wrong_mamba2(stack.layer_name(0) + "mamba.", s.mixer);
  wrong.merge(wrong_shared_block(block + "self_attn.o_proj"));
  wrong.merge(wrong_attention(block + "self_attn.", s.attention));
  wrong["MLP hidden: gate_up_proj without its adapters"] = [=](NaiveTensors& tensors) {
    const auto order = rotation(static_cast<Index>(kHidden));
    for (const std::size_t half : {std::size_t{0}, static_cast<std::size_t>(kHidden)}) {
      move_axis(tensors, {block + "feed_forward.gate_up_proj.weight", 0, half}, order);
      if (s.mixer.proj_bias == Bias::no) continue;
      move_axis(tensors, {block + "feed_forward.gate_up_proj.bias", 0, half}, order);
    }
    move_axis(tensors, {block + "feed_forward.down_proj.weight", 1}, order);
  };
  return hybrid_family(std::move(name), config, stack, std::move(wrong));
}

}  // namespace

Family zamba2() {
  return zamba2_family(
      "zamba2, two blocks",
      {.hybrid = {false, true, false, true, true},
       .blocks = 2,
       .attention_adapters = true,
       .attention = {.heads = 4, .kv_heads = 4, .headdim = 6, .scale = 1 / std::sqrt(3.0)}});
}

Family zamba2_one_block() {
  return zamba2_family("zamba2, RoPE, biases", {.hybrid = {false, true, true},
                                                .attention = {.heads = 4,
                                                              .kv_heads = 4,
                                                              .headdim = 6,
                                                              .rotary = 6,
                                                              .scale = 1 / std::sqrt(3.0)},
                                                .mixer = {.proj_bias = Bias::yes}});
}

}  // namespace icd::testing
