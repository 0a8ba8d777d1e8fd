// Oxidizr (layouts.md 1.19, 2.18), as its own runtime computes: A_log of Mamba-2 and Mamba-3 is
// ln(1..H) whatever the file says, and inside a chunk B and C are summed over the states apart.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "support/families_parts.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"

namespace icd::testing {
namespace {

constexpr std::int64_t kVocabulary = 13;
constexpr std::int64_t kTaps = 4;
constexpr std::size_t kChunk = 4;  // tokens; a sequence is one and a half chunks

enum class Mixer { mamba1, mamba2, mamba3 };
enum class Attention { grouped, latent };

/// One model; what a layer is not made of is not looked at.
struct Sizes {
  Mixer mixer = Mixer::mamba2;
  Attention attention = Attention::grouped;
  std::int64_t hidden = 10;
  std::size_t layers = 2;
  std::set<std::size_t> mamba_layers = {0, 1};

  std::int64_t mixer_heads = 4;
  std::int64_t head_channels = 5;
  std::int64_t groups = 2;
  std::int64_t states = 6;  // Mamba-1 has 16
  std::int64_t rank = 0;    // of MIMO; 0: SISO
  bool conv = true;         // Mamba-3 may go without

  std::int64_t heads = 2;
  std::int64_t kv_heads = 1;
  std::int64_t kv_latent = 6;
  std::int64_t q_latent = 7;
  std::int64_t rope = 4;
  std::int64_t experts = 3;
  std::int64_t intermediate = 9;

  std::int64_t inner() const { return 2 * hidden; }
  std::int64_t head_size() const { return hidden / heads; }
};

std::string layer_name(std::size_t layer) { return fmt::format("layers.{}", layer); }

std::string config_of(const Sizes& s) {
  std::vector<std::size_t> layers(s.mamba_layers.begin(), s.mamba_layers.end());
  std::string text = fmt::format(
      R"({{"hidden_size": {}, "num_layers": {}, "num_heads": {}, "vocab_size": {}, )"
      R"("max_seq_len": 64, "rope_theta": 10000.0, "intermediate_size": {}, "mamba_layers": [{}])",
      s.hidden, s.layers, s.heads, kVocabulary, s.intermediate, fmt::join(layers, ", "));
  if (s.mixer != Mixer::mamba1) {
    text +=
        fmt::format(R"(, "mamba2_num_heads": {}, "mamba2_head_dim": {}, "mamba2_state_size": {}, )"
                    R"("mamba2_chunk_size": {}, "mamba2_n_groups": {}, "mamba2_conv_kernel": {}, )"
                    R"("mamba2_expand": 2)",
                    s.mixer_heads, s.head_channels, s.states, kChunk, s.groups, kTaps);
  }
  if (s.mixer == Mixer::mamba3) {
    text += fmt::format(
        R"(, "mamba3_enabled": true, "mamba3_complex_rope": true, "mamba3_mimo_rank": {}, )"
        R"("mamba3_use_conv": {})",
        s.rank, s.conv);
  }
  if (s.attention == Attention::latent) {
    text += fmt::format(
        R"(, "kv_latent_dim": {}, "q_latent_dim": {}, "d_rope": {}, "num_experts": {}, )"
        R"("experts_per_tok": 2)",
        s.kv_latent, s.q_latent, s.rope, s.experts);
  } else {
    text += fmt::format(R"(, "kv_heads": {})", s.kv_heads);
  }
  return text + "}";
}

void make_mamba1(TensorMaker& maker, const std::string& name, const Sizes& s) {
  maker.linear(name + ".in_proj", 2 * s.inner(), s.hidden);
  maker.conv(name + ".conv1d", s.inner(), kTaps);
  maker.linear(name + ".x_proj", s.inner() + 2 * s.states, s.inner());
  maker.linear(name + ".dt_proj", s.inner(), s.inner(), Bias::yes);
  maker.tensor(name + ".a_log", {s.inner(), s.states}, 1.5, 0.5);  // A = exp(-a_log) is a growth
  maker.tensor(name + ".d", {s.inner()}, 0, 1);
  maker.linear(name + ".out_proj", s.hidden, s.inner());
}

/// What Mamba-2 and Mamba-3 have in common.
void make_heads(TensorMaker& maker, const std::string& name, const Sizes& s) {
  const std::int64_t bc = 2 * s.groups * s.states;
  maker.linear(name + ".in_proj", 2 * s.inner() + bc + s.mixer_heads, s.hidden, Bias::yes);
  if (s.conv) maker.conv(name + ".conv1d", s.inner() + bc, kTaps);
  // softplus(-4) = 0.02: steps are clamped to [0.001, 0.1], where nothing would show any more.
  maker.tensor(name + ".dt_bias", {s.mixer_heads}, -4, 0.3);
  maker.tensor(name + ".A_log", {s.mixer_heads}, 0, 1);
  maker.tensor(name + ".D", {s.mixer_heads}, 0, 1);
  maker.norm(name + ".norm", s.inner());
  maker.linear(name + ".out_proj", s.hidden, s.inner(), Bias::yes);
}

void make_mamba3(TensorMaker& maker, const std::string& name, const Sizes& s) {
  make_heads(maker, name, s);
  maker.linear(name + ".lambda_proj", s.mixer_heads, s.hidden, Bias::yes);
  // Angles are scaled by steps of 0.02: without the factor they would hardly turn.
  maker.tensor(name + ".theta_proj.weight", {s.mixer_heads * s.states / 2, s.hidden}, 0, 5);
  maker.tensor(name + ".theta_proj.bias", {s.mixer_heads * s.states / 2}, 0, 5);
  maker.tensor(name + ".b_bias", {s.mixer_heads, s.states}, 0.5, 0.5);
  maker.tensor(name + ".c_bias", {s.mixer_heads, s.states}, 0.5, 0.5);
  maker.norm(name + ".bc_norm", s.states);
  if (s.rank == 0) return;
  maker.linear(name + ".mimo_x_up", s.head_channels * s.rank, s.head_channels, Bias::yes);
  maker.linear(name + ".mimo_x_down", s.head_channels, s.head_channels * s.rank, Bias::yes);
}

void make_mlp(TensorMaker& maker, const std::string& name, const Sizes& s) {
  maker.linear(name + ".gate_proj", s.intermediate, s.hidden);
  maker.linear(name + ".up_proj", s.intermediate, s.hidden);
  maker.linear(name + ".down_proj", s.hidden, s.intermediate);
}

void make_attention(TensorMaker& maker, const std::string& layer, const Sizes& s) {
  const std::string attention = layer + ".self_attn";
  maker.norm(layer + ".input_layernorm", s.hidden);
  maker.norm(layer + ".post_attention_layernorm", s.hidden);
  maker.linear(attention + ".o_proj", s.hidden, s.hidden);
  if (s.attention == Attention::grouped) {
    maker.linear(attention + ".q_proj", s.hidden, s.hidden);
    maker.linear(attention + ".k_proj", s.kv_heads * s.head_size(), s.hidden);
    maker.linear(attention + ".v_proj", s.kv_heads * s.head_size(), s.hidden);
    make_mlp(maker, layer + ".mlp", s);
    return;
  }
  maker.linear(attention + ".w_dkv", s.kv_latent, s.hidden);
  maker.linear(attention + ".w_dq", s.q_latent, s.hidden);
  maker.linear(attention + ".w_uq", s.hidden, s.q_latent);
  maker.linear(attention + ".w_uk", s.hidden, s.kv_latent);
  maker.linear(attention + ".w_uv", s.hidden, s.kv_latent);
  maker.linear(attention + ".w_qr", s.heads * s.rope, s.hidden);
  maker.linear(attention + ".w_kr", s.rope, s.hidden);
  for (std::int64_t e = 0; e < s.experts; ++e)
    make_mlp(maker, fmt::format("{}.moe.experts.{}", layer, e), s);
  make_mlp(maker, layer + ".moe.shared_expert", s);
  maker.linear(layer + ".moe.router.gate", s.experts, s.hidden);
}

NaiveTensors make(const Sizes& s, std::uint64_t seed) {
  TensorMaker maker(seed);
  maker.embedding("embed_tokens.weight", kVocabulary, s.hidden);
  for (std::size_t i = 0; i < s.layers; ++i) {
    const std::string layer = layer_name(i);
    if (!s.mamba_layers.contains(i)) {
      make_attention(maker, layer, s);
    } else if (s.mixer == Mixer::mamba1) {
      maker.norm(layer + ".norm", s.hidden);
      make_mamba1(maker, layer + ".mamba", s);
    } else if (s.mixer == Mixer::mamba2) {
      maker.norm(layer + ".mamba2.norm", s.hidden, Bias::yes);
      make_heads(maker, layer + ".mamba2.mixer", s);
    } else {
      maker.norm(layer + ".mamba3.norm", s.hidden, Bias::yes);
      make_mamba3(maker, layer + ".mamba3.mixer", s);
    }
  }
  maker.norm("norm", s.hidden);
  maker.linear("lm_head", kVocabulary, s.hidden);
  return maker.take();
}

double total(const Row& x) { return std::accumulate(x.begin(), x.end(), 0.0); }

/// x of the token before; zeros for the first.
Rows delayed(const Rows& x) {
  Rows y(1, Row(x.front().size()));
  y.insert(y.end(), x.begin(), x.end() - 1);
  return y;
}

Rows scaled_by_token(Rows x, const Row& factors) {
  for (std::size_t t = 0; t < x.size(); ++t) x[t] = scaled(x[t], factors[t]);
  return x;
}

Rows mamba1(const Rows& hidden, const Scope& scope) {
  const NaiveTensor& a_log = scope.at("a_log");
  const std::size_t inner = extent(a_log, 0);
  const std::size_t states = extent(a_log, 1);
  const Rows xz = linear(hidden, scope, "in_proj");
  const Rows x = map(
      silu, causal_conv(part(xz, 0, inner), scope.at("conv1d.weight"), &scope.at("conv1d.bias")));
  const Rows dbc = linear(x, scope, "x_proj");
  const Rows step = map(softplus, linear(part(dbc, 0, inner), scope, "dt_proj"));
  Rows y(x.size(), Row(inner));
  for (std::size_t c = 0; c < inner; ++c) {
    Row state(states);
    for (std::size_t t = 0; t < x.size(); ++t) {
      y[t][c] = scope.at("d").values[c] * x[t][c];
      for (std::size_t n = 0; n < states; ++n) {
        const double growth = std::exp(step[t][c] * std::exp(-a_log.values[c * states + n]));
        state[n] = growth * state[n] + step[t][c] * x[t][c] * dbc[t][inner + n];
        state[n] = std::clamp(state[n], -30.0, 30.0);
        y[t][c] += state[n] * dbc[t][inner + states + n];
      }
    }
  }
  return linear(product(y, map(silu, part(xz, inner, inner))), scope, "out_proj");
}

/// What is added to the state of one head: b (tokens, states) times x (tokens, channels).
struct Input {
  Rows x;
  Rows b;
};

/// One head, chunk by chunk. Inside a chunk token i sees token j with the weight
/// (sum of C_i) (sum of B_i) decay; earlier chunks it sees through the state, which the first
/// input's b and all inputs' x make.
Rows chunked_scan(const std::vector<Input>& inputs, const Rows& c, const Row& log_decay) {
  const std::size_t tokens = c.size();
  const std::size_t channels = inputs.front().x.front().size();
  const std::size_t states = c.front().size();
  Rows y(tokens, Row(channels));
  Rows state(channels, Row(states));
  for (std::size_t first = 0; first < tokens; first += kChunk) {
    const std::size_t end = std::min(first + kChunk, tokens);
    Row until(tokens);  // log of the decay from the start of the chunk on
    for (std::size_t i = first; i < end; ++i)
      until[i] = (i == first ? 0 : until[i - 1]) + log_decay[i];
    for (std::size_t i = first; i < end; ++i) {
      for (const Input& input : inputs) {
        const double weight = total(c[i]) * total(input.b[i]);
        for (std::size_t j = first; j <= i; ++j)
          y[i] = sum(y[i], scaled(input.x[j], weight * std::exp(until[i] - until[j])));
      }
      for (std::size_t p = 0; p < channels; ++p)
        y[i][p] += std::exp(until[i]) * total(product(state[p], c[i]));
    }
    for (Row& row : state) row = scaled(row, std::exp(until[end - 1]));
    for (std::size_t j = first; j < end; ++j) {
      for (const Input& input : inputs) {
        for (std::size_t p = 0; p < channels; ++p) {
          const double x = input.x[j][p] * std::exp(until[end - 1] - until[j]);
          state[p] = sum(state[p], scaled(inputs.front().b[j], x));
        }
      }
    }
  }
  return y;
}

/// rows (z, x, B, C, dt) of in_proj, after conv and activation.
struct Projected {
  Rows gate, x, b, c;
  Rows step;  // (tokens, heads)
};

Projected project(const Rows& hidden, const Scope& scope, const Sizes& s) {
  const auto inner = static_cast<std::size_t>(s.inner());
  const auto bc = static_cast<std::size_t>(s.groups * s.states);
  const auto heads = static_cast<std::size_t>(s.mixer_heads);
  const Rows all = linear(hidden, scope, "in_proj");
  Rows xbc = part(all, inner, inner + 2 * bc);
  if (s.conv) {
    xbc = map(silu, causal_conv(xbc, scope.at("conv1d.weight"), &scope.at("conv1d.bias")));
  }
  Projected result{.gate = part(all, 0, inner),
                   .x = part(xbc, 0, inner),
                   .b = part(xbc, inner, bc),
                   .c = part(xbc, inner + bc, bc),
                   .step = part(all, 2 * inner + 2 * bc, heads)};
  if (!s.conv) result.x = map(silu, result.x);
  for (Row& row : result.step) {
    row = map(softplus, sum(row, scope.at("dt_bias").values));
    for (double& value : row) value = std::clamp(value, 0.001, 0.1);
  }
  return result;
}

Row column(const Rows& x, std::size_t c) {
  Row y;
  for (const Row& row : x) y.push_back(row[c]);
  return y;
}

/// A is -exp(ln(1..H)): what the runtime puts together before it reads the file.
double decay_rate(std::size_t head) { return -static_cast<double>(head + 1); }

Rows gated_output(const Rows& y, const Rows& gate, const Scope& scope) {
  return linear(rms_norm(product(y, map(silu, gate)), &scope.at("norm.weight")), scope, "out_proj");
}

Rows mamba2(const Rows& hidden, const Scope& scope, const Sizes& s) {
  const auto channels = static_cast<std::size_t>(s.head_channels);
  const auto states = static_cast<std::size_t>(s.states);
  const auto group_heads = static_cast<std::size_t>(s.mixer_heads / s.groups);
  const Projected in = project(hidden, scope, s);
  Rows y(hidden.size());
  for (std::size_t h = 0; h < static_cast<std::size_t>(s.mixer_heads); ++h) {
    const Rows x = part(in.x, h * channels, channels);
    const Rows b = part(in.b, h / group_heads * states, states);
    const Rows c = part(in.c, h / group_heads * states, states);
    const Row step = column(in.step, h);
    const Rows out = chunked_scan({{scaled_by_token(x, step), b}}, c, scaled(step, decay_rate(h)));
    y = joined(y, sum(out, scaled(x, scope.at("D").values[h])));
  }
  return gated_output(y, in.gate, scope);
}

/// Turns states (2k, 2k+1) by angles[t][k].
Rows turned(Rows x, const Rows& angles) {
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t k = 0; k < angles[t].size(); ++k) {
      const double real = x[t][2 * k];
      const double imaginary = x[t][2 * k + 1];
      const double cosine = std::cos(angles[t][k]);
      const double sine = std::sin(angles[t][k]);
      x[t][2 * k] = real * cosine - imaginary * sine;
      x[t][2 * k + 1] = real * sine + imaginary * cosine;
    }
  }
  return x;
}

Rows mamba3(const Rows& hidden, const Scope& scope, const Sizes& s) {
  const auto channels = static_cast<std::size_t>(s.head_channels);
  const auto states = static_cast<std::size_t>(s.states);
  const auto group_heads = static_cast<std::size_t>(s.mixer_heads / s.groups);
  const Projected in = project(hidden, scope, s);
  const Rows mix = map(sigmoid, linear(hidden, scope, "lambda_proj"));
  const Rows theta = linear(hidden, scope, "theta_proj");
  Rows y(hidden.size());
  for (std::size_t h = 0; h < static_cast<std::size_t>(s.mixer_heads); ++h) {
    const Row step = column(in.step, h);
    Rows angles = scaled_by_token(part(theta, h * states / 2, states / 2), step);
    for (std::size_t t = 1; t < angles.size(); ++t) angles[t] = sum(angles[t], angles[t - 1]);
    const auto rotated = [&](const Rows& all, const char* bias) {
      Rows group =
          rms_norm(part(all, h / group_heads * states, states), &scope.at("bc_norm.weight"));
      for (Row& row : group) row = sum(row, slice(scope.at(bias), h).values);
      return turned(std::move(group), angles);
    };
    const Rows b = rotated(in.b, "b_bias");
    const Rows c = rotated(in.c, "c_bias");
    Rows x = part(in.x, h * channels, channels);
    if (s.rank > 0) x = linear(x, scope, "mimo_x_up");

    Row before(step.size()), now(step.size());  // weights of the last token's input and this one's
    for (std::size_t t = 0; t < step.size(); ++t) {
      before[t] = (1 - mix[t][h]) * step[t] * std::exp(step[t] * decay_rate(h));
      now[t] = mix[t][h] * step[t];
    }
    Rows out = chunked_scan(
        {{scaled_by_token(x, now), b}, {scaled_by_token(delayed(x), before), delayed(b)}}, c,
        scaled(step, decay_rate(h)));
    out = sum(out, scaled(x, scope.at("D").values[h]));
    y = joined(y, s.rank > 0 ? linear(out, scope, "mimo_x_down") : out);
  }
  return gated_output(y, in.gate, scope);
}

/// Rotary positions: channel c turns with channel c + size/2, by t * 10000^(-2c/size).
Rows with_positions(Rows x) {
  const std::size_t half = x.front().size() / 2;
  for (std::size_t t = 0; t < x.size(); ++t) {
    for (std::size_t c = 0; c < half; ++c) {
      const double angle = static_cast<double>(t) *
                           std::pow(10000.0, -static_cast<double>(c) / static_cast<double>(half));
      const double first = x[t][c];
      const double second = x[t][c + half];
      x[t][c] = first * std::cos(angle) - second * std::sin(angle);
      x[t][c + half] = second * std::cos(angle) + first * std::sin(angle);
    }
  }
  return x;
}

/// Each token looks at itself and those before.
Rows attend(const Rows& q, const Rows& k, const Rows& v) {
  Rows y;
  for (std::size_t i = 0; i < q.size(); ++i) {
    Row scores;
    for (std::size_t j = 0; j <= i; ++j)
      scores.push_back(total(product(q[i], k[j])) / std::sqrt(static_cast<double>(q[i].size())));
    scores = softmax(std::move(scores));
    Row out(v.front().size());
    for (std::size_t j = 0; j <= i; ++j) out = sum(out, scaled(v[j], scores[j]));
    y.push_back(std::move(out));
  }
  return y;
}

Rows latent_attention(const Rows& hidden, const Scope& scope, const Sizes& s) {
  const auto size = static_cast<std::size_t>(s.head_size());
  const auto rope = static_cast<std::size_t>(s.rope);
  const Rows kv_latent = linear(hidden, scope, "w_dkv");
  const Rows q = linear(linear(hidden, scope, "w_dq"), scope, "w_uq");
  const Rows k = linear(kv_latent, scope, "w_uk");
  const Rows v = linear(kv_latent, scope, "w_uv");
  const Rows q_place = linear(hidden, scope, "w_qr");
  const Rows k_place = with_positions(linear(hidden, scope, "w_kr"));
  Rows y(hidden.size());
  for (std::size_t h = 0; h < static_cast<std::size_t>(s.heads); ++h) {
    const Rows place = with_positions(part(q_place, h * rope, rope));
    y = joined(y, attend(joined(part(q, h * size, size), place),
                         joined(part(k, h * size, size), k_place), part(v, h * size, size)));
  }
  return linear(y, scope, "o_proj");
}

Row mixture(const Row& x, const Scope& scope) {
  const auto expert = [&](const std::string& name) { return gated_mlp({x}, scope.in(name))[0]; };
  const Row scores = linear(x, scope, "router.gate");
  const std::vector<std::size_t> chosen = top_k(scores, 2);
  Row weights;
  for (const std::size_t e : chosen) weights.push_back(scores[e]);
  weights = softmax(std::move(weights));
  Row y = expert("shared_expert");
  for (std::size_t i = 0; i < chosen.size(); ++i)
    y = sum(y, scaled(expert(fmt::format("experts.{}", chosen[i])), weights[i]));
  return y;
}

Rows attention_layer(const Rows& hidden, const Scope& layer, const Sizes& s) {
  const Rows normed = norm(hidden, layer, "input_layernorm");
  const Scope attention = layer.in("self_attn");
  const bool latent = s.attention == Attention::latent;
  const auto size = static_cast<std::size_t>(s.head_size());
  const Rows x =
      sum(hidden, latent ? latent_attention(normed, attention, s)
                         : naive_attention(normed, attention,
                                           {.heads = static_cast<std::size_t>(s.heads),
                                            .kv_heads = static_cast<std::size_t>(s.kv_heads),
                                            .headdim = size,
                                            .rotary_dim = size}));
  const Rows inner = norm(x, layer, "post_attention_layernorm");
  if (!latent) return sum(x, gated_mlp(inner, layer.in("mlp")));
  Rows y;
  for (std::size_t t = 0; t < x.size(); ++t)
    y.push_back(sum(x[t], mixture(inner[t], layer.in("moe"))));
  return y;
}

Rows mamba_layer(const Rows& x, const Scope& layer, const Sizes& s) {
  if (s.mixer == Mixer::mamba1) return sum(x, mamba1(norm(x, layer, "norm"), layer.in("mamba")));
  const bool second = s.mixer == Mixer::mamba2;
  const Scope block = layer.in(second ? "mamba2" : "mamba3");
  const Rows normed = norm(x, block, "norm");
  const Scope mixer = block.in("mixer");
  return sum(x, second ? mamba2(normed, mixer, s) : mamba3(normed, mixer, s));
}

std::vector<double> forward(const Sizes& s, const NaiveTensors& tensors, std::uint64_t seed) {
  const Scope model(tensors);
  const auto body = [&](Rows x) {
    for (std::size_t i = 0; i < s.layers; ++i) {
      const Scope layer = model.in(layer_name(i));
      x = s.mamba_layers.contains(i) ? mamba_layer(x, layer, s) : attention_layer(x, layer, s);
    }
    return norm(x, model, "norm");
  };
  return naive_logits(model.at("embed_tokens.weight"), model.at("lm_head.weight"), seed, body);
}

Family family(const std::string& name, const Sizes& s) {
  Family f;
  f.name = "oxidizr " + name;
  f.config = config_of(s);
  f.make = [s](std::uint64_t seed) { return make(s, seed); };
  f.forward = [s](const NaiveTensors& t, std::uint64_t seed) { return forward(s, t, seed); };
  if (s.mixer != Mixer::mamba1)
    f.invisible["mixer.A_log"] = "the runtime computes with ln(1..H), made before the file is read";
  return f;
}

/// Heads of group 0 in another order, A_log with them.
void move_heads(NaiveTensors& tensors, const std::string& mixer, const Sizes& s) {
  const std::vector<Index> order = rotation(static_cast<Index>(s.mixer_heads / s.groups));
  const auto channels = static_cast<std::size_t>(s.head_channels);
  const auto inner = static_cast<std::size_t>(s.inner());
  const auto dt = 2 * inner + 2 * static_cast<std::size_t>(s.groups * s.states);
  for (const char* name : {".in_proj.weight", ".in_proj.bias"}) {
    move_axis(tensors, {mixer + name, 0, 0, channels}, order);
    move_axis(tensors, {mixer + name, 0, inner, channels}, order);
    move_axis(tensors, {mixer + name, 0, dt}, order);
  }
  for (const char* name : {".dt_bias", ".A_log", ".D"}) {
    move_axis(tensors, {mixer + name}, order);
  }
  move_axis(tensors, {mixer + ".norm.weight", 0, 0, channels}, order);
  move_axis(tensors, {mixer + ".out_proj.weight", 1, 0, channels}, order);
  if (s.conv) {
    move_axis(tensors, {mixer + ".conv1d.weight", 0, 0, channels}, order);
    move_axis(tensors, {mixer + ".conv1d.bias", 0, 0, channels}, order);
  }
  if (s.mixer == Mixer::mamba2) return;
  for (const char* name : {".weight", ".bias"}) {
    move_axis(tensors, {mixer + ".lambda_proj" + name}, order);
    move_axis(tensors, {mixer + ".theta_proj" + name, 0, 0, static_cast<std::size_t>(s.states / 2)},
              order);
  }
  move_axis(tensors, {mixer + ".b_bias"}, order);
  move_axis(tensors, {mixer + ".c_bias"}, order);
}

/// Every state of every group and head in the same order, though states turn in pairs.
void move_states(NaiveTensors& tensors, const std::string& mixer, const Sizes& s) {
  const std::vector<Index> order = rotation(static_cast<Index>(s.states));
  const auto states = static_cast<std::size_t>(s.states);
  for (std::size_t g = 0; g < 2 * static_cast<std::size_t>(s.groups); ++g) {
    const std::size_t row = g * states + 2 * static_cast<std::size_t>(s.inner());
    move_axis(tensors, {mixer + ".in_proj.weight", 0, row}, order);
    move_axis(tensors, {mixer + ".in_proj.bias", 0, row}, order);
  }
  move_axis(tensors, {mixer + ".bc_norm.weight"}, order);
  move_axis(tensors, {mixer + ".b_bias", 1}, order);
  move_axis(tensors, {mixer + ".c_bias", 1}, order);
}

/// Channels of head 0 as if the head had them to itself.
void move_channels(NaiveTensors& tensors, const std::string& mixer, const Sizes& s) {
  const std::vector<Index> order = rotation(static_cast<Index>(s.head_channels));
  const auto inner = static_cast<std::size_t>(s.inner());
  for (const char* name : {".in_proj.weight", ".in_proj.bias"}) {
    move_axis(tensors, {mixer + name}, order);
    move_axis(tensors, {mixer + name, 0, inner}, order);
  }
  move_axis(tensors, {mixer + ".norm.weight"}, order);
  move_axis(tensors, {mixer + ".out_proj.weight", 1}, order);
}

void add_wrong_heads(Family& f, const std::string& mixer, const Sizes& s) {
  f.wrong["heads with their A_log"] = [=](NaiveTensors& t) { move_heads(t, mixer, s); };
}

Family mamba1_family() {
  Sizes s{.mixer = Mixer::mamba1, .hidden = 6, .states = 16};
  Family f = family("mamba-1", s);
  f.wrong["states counted from row 0 of x_proj"] = [s](NaiveTensors& t) {
    const std::vector<Index> order = rotation(static_cast<Index>(s.states));
    move_axis(t, {"layers.0.mamba.x_proj.weight"}, order);
    move_axis(t, {"layers.0.mamba.x_proj.weight", 0, static_cast<std::size_t>(s.states)}, order);
    move_axis(t, {"layers.0.mamba.a_log", 1}, order);
  };
  return f;
}

Family mamba2_family() {
  const Sizes s{};
  Family f = family("mamba-2", s);
  add_wrong_heads(f, "layers.0.mamba2.mixer", s);
  return f;
}

Family mamba3_family(const std::string& name, Sizes s) {
  s.mixer = Mixer::mamba3;
  Family f = family("mamba-3 " + name, s);
  const std::string mixer = "layers.1.mamba3.mixer";
  add_wrong_heads(f, mixer, s);
  if (!s.conv) f.wrong["single states"] = [=](NaiveTensors& t) { move_states(t, mixer, s); };
  if (s.rank > 0)
    f.wrong["channels of one head"] = [=](NaiveTensors& t) { move_channels(t, mixer, s); };
  return f;
}

Family latent_family() {
  const Sizes s{.attention = Attention::latent, .layers = 3, .mamba_layers = {0, 2}};
  Family f = family("mamba-2 with latent attention and experts", s);
  f.wrong["rotary channels of w_qr and w_kr"] = [s](NaiveTensors& t) {
    const std::vector<Index> order = rotation(static_cast<Index>(s.rope));
    move_axis(t, {"layers.1.self_attn.w_kr.weight"}, order);
    for (std::size_t h = 0; h < static_cast<std::size_t>(s.heads); ++h) {
      move_axis(t, {"layers.1.self_attn.w_qr.weight", 0, h * static_cast<std::size_t>(s.rope)},
                order);
    }
  };
  return f;
}

Family grouped_family() {
  const Sizes s{.mixer = Mixer::mamba1,
                .hidden = 12,
                .mamba_layers = {1},
                .states = 16,
                .heads = 6,
                .kv_heads = 3};
  Family f = family("mamba-1 with grouped attention", s);
  f.wrong["key-value heads without their query heads"] = [s](NaiveTensors& t) {
    const std::vector<Index> order = rotation(static_cast<Index>(s.kv_heads));
    const auto size = static_cast<std::size_t>(s.head_size());
    move_axis(t, {"layers.0.self_attn.k_proj.weight", 0, 0, size}, order);
    move_axis(t, {"layers.0.self_attn.v_proj.weight", 0, 0, size}, order);
  };
  return f;
}

}  // namespace

std::vector<Family> oxidizr_families() {
  return {mamba1_family(),
          mamba2_family(),
          mamba3_family("siso", {.conv = false}),
          mamba3_family("siso, with conv", {.conv = true}),
          mamba3_family("mimo", {.rank = 3, .conv = false}),
          mamba3_family("mimo, with conv", {.rank = 3, .conv = true}),
          latent_family(),
          grouped_family()};
}

}  // namespace icd::testing
