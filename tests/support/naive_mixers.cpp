#include "support/naive_mixers.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <iterator>
#include <string>
#include <utility>

namespace icd::testing {
namespace {

/// Channel pairs (i, i + rotary_dim / 2) of every head turn by token * 10000^(-2 i / rotary_dim).
Row rotated(Row x, std::size_t token, std::size_t headdim, std::size_t rotary_dim) {
  const std::size_t pairs = rotary_dim / 2;
  for (std::size_t head = 0; head < x.size(); head += headdim) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const double angle =
          static_cast<double>(token) *
          std::pow(10000.0, -2 * static_cast<double>(i) / static_cast<double>(rotary_dim));
      double& a = x[head + i];
      double& b = x[head + i + pairs];
      const double turned = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = turned;
    }
  }
  return x;
}

double dot(const Row& a, std::size_t a_first, const Row& b, std::size_t b_first,
           std::size_t count) {
  double result = 0;
  for (std::size_t i = 0; i < count; ++i) result += a[a_first + i] * b[b_first + i];
  return result;
}

}  // namespace

void make_mamba1(TensorMaker& maker, const std::string& mixer, const Mamba1Sizes& s) {
  maker.linear(mixer + "in_proj", 2 * s.d_inner, s.d_model, s.proj_bias);
  maker.conv(mixer + "conv1d", s.d_inner, s.d_conv, s.conv_bias);
  maker.linear(mixer + "x_proj", s.dt_rank + 2 * s.d_state, s.d_inner);
  maker.linear(mixer + "dt_proj", s.d_inner, s.dt_rank, Bias::yes);
  maker.tensor(mixer + "A_log", {s.d_inner, s.d_state}, 0, 0.5);
  maker.tensor(mixer + "D", {s.d_inner}, 0.5, 0.5);
  maker.linear(mixer + "out_proj", s.d_model, s.d_inner, s.proj_bias);
}

std::vector<Move> mamba1_inner_moves(const NaiveTensors& tensors, const std::string& mixer) {
  const std::size_t d_inner = extent(tensors.at(mixer + "A_log"), 0);
  const std::vector<Move> all = {{mixer + "in_proj.weight", 0, 0},
                                 {mixer + "in_proj.weight", 0, d_inner},
                                 {mixer + "in_proj.bias", 0, 0},
                                 {mixer + "in_proj.bias", 0, d_inner},
                                 {mixer + "conv1d.weight", 0},
                                 {mixer + "conv1d.bias", 0},
                                 {mixer + "x_proj.weight", 1},
                                 {mixer + "dt_proj.weight", 0},
                                 {mixer + "dt_proj.bias", 0},
                                 {mixer + "A_log", 0},
                                 {mixer + "D", 0},
                                 {mixer + "out_proj.weight", 1}};
  std::vector<Move> moves;
  std::copy_if(all.begin(), all.end(), std::back_inserter(moves),
               [&](const Move& move) { return tensors.count(move.tensor) == 1; });
  return moves;
}

Mamba1Core mamba1_core(const Scope& mixer, std::string_view suffix) {
  const std::string end(suffix);
  return {.conv_weight = mixer.at("conv1d" + end + ".weight"),
          .conv_bias = mixer.find("conv1d" + end + ".bias"),
          .x_proj = mixer.at("x_proj" + end + ".weight"),
          .dt_weight = mixer.at("dt_proj" + end + ".weight"),
          .dt_bias = mixer.at("dt_proj" + end + ".bias"),
          .A_log = mixer.at("A" + end + "_log"),
          .D = mixer.at("D" + end),
          .dt_norm = {},
          .b_norm = {},
          .c_norm = {}};
}

Rows mamba1_scan(const Rows& x, const Mamba1Core& core) {
  const std::size_t d_inner = extent(core.A_log, 0);
  const std::size_t d_state = extent(core.A_log, 1);
  const std::size_t dt_rank = extent(core.dt_weight, 1);
  const auto normed = [](const std::function<Row(Row)>& norm, Row row) {
    return norm ? norm(std::move(row)) : row;
  };
  const Rows u = map(silu, causal_conv(x, core.conv_weight, core.conv_bias));
  Rows y(u.size(), Row(d_inner));
  Row state(d_inner * d_state);
  for (std::size_t t = 0; t < u.size(); ++t) {
    const Row projected = linear(u[t], core.x_proj);
    const Row low = normed(core.dt_norm, part(projected, 0, dt_rank));
    const Row B = normed(core.b_norm, part(projected, dt_rank, d_state));
    const Row C = normed(core.c_norm, part(projected, dt_rank + d_state, d_state));
    const Row dt = map(softplus, linear(low, core.dt_weight, &core.dt_bias));
    for (std::size_t c = 0; c < d_inner; ++c) {
      y[t][c] = core.D.values[c] * u[t][c];
      for (std::size_t n = 0; n < d_state; ++n) {
        double& h = state[c * d_state + n];
        const double A = -std::exp(core.A_log.values[c * d_state + n]);
        h = std::exp(dt[c] * A) * h + dt[c] * B[n] * u[t][c];
        y[t][c] += C[n] * h;
      }
    }
  }
  return y;
}

Rows naive_mamba1(const Rows& hidden, const Scope& mixer, const Mamba1Core& core) {
  const std::size_t d_inner = extent(core.A_log, 0);
  const Rows xz = linear(hidden, mixer, "in_proj");
  const Rows y = mamba1_scan(part(xz, 0, d_inner), core);
  return linear(product(y, map(silu, part(xz, d_inner, d_inner))), mixer, "out_proj");
}

Rows naive_mamba1(const Rows& hidden, const Scope& mixer) {
  return naive_mamba1(hidden, mixer, mamba1_core(mixer));
}

void make_mamba2(TensorMaker& maker, const std::string& mixer, const Mamba2Sizes& s) {
  const std::int64_t bc = s.groups * s.d_state;
  const std::int64_t d_inner = s.d_mlp + s.d_ssm();
  maker.linear(mixer + "in_proj", 2 * d_inner + 2 * bc + s.heads, s.d_model, s.proj_bias);
  maker.conv(mixer + "conv1d", s.d_ssm() + 2 * bc, s.d_conv, s.conv_bias);
  maker.tensor(mixer + "dt_bias", {s.heads}, 0, 0.5);
  maker.tensor(mixer + "A_log", {s.heads}, 0, 0.5);
  maker.tensor(mixer + "D", {s.D_has_hdim ? s.d_ssm() : s.heads}, 0.5, 0.5);
  if (s.rmsnorm) maker.norm(mixer + "norm", s.d_ssm());
  maker.linear(mixer + "out_proj", s.d_model, d_inner, s.proj_bias);
}

std::map<std::string, std::function<void(NaiveTensors&)>> wrong_mamba2(const std::string& mixer,
                                                                       const Mamba2Sizes& s) {
  const auto mlp = static_cast<std::size_t>(s.d_mlp);
  const auto d_ssm = static_cast<std::size_t>(s.d_ssm());
  const auto headdim = static_cast<std::size_t>(s.headdim);
  const auto bc = static_cast<std::size_t>(s.groups * s.d_state);
  const std::size_t z = 2 * mlp;
  const std::size_t x = z + d_ssm;
  const std::size_t B = x + d_ssm;
  const std::size_t dt = B + 2 * bc;

  // Channels, in runs of `block`; and what there is once a head.
  const auto channel_moves = [=](const NaiveTensors& tensors, std::size_t block) {
    std::vector<Move> moves = {{mixer + "in_proj.weight", 0, z, block},
                               {mixer + "in_proj.weight", 0, x, block},
                               {mixer + "conv1d.weight", 0, 0, block},
                               {mixer + "out_proj.weight", 1, mlp, block}};
    if (s.proj_bias == Bias::yes) {
      moves.push_back({mixer + "in_proj.bias", 0, z, block});
      moves.push_back({mixer + "in_proj.bias", 0, x, block});
    }
    if (s.conv_bias == Bias::yes) moves.push_back({mixer + "conv1d.bias", 0, 0, block});
    if (s.rmsnorm) moves.push_back({mixer + "norm.weight", 0, 0, block});
    if (extent(tensors.at(mixer + "D"), 0) == d_ssm) moves.push_back({mixer + "D", 0, 0, block});
    return moves;
  };
  const auto head_moves = [=](const NaiveTensors& tensors) {
    std::vector<Move> moves = channel_moves(tensors, headdim);
    moves.push_back({mixer + "in_proj.weight", 0, dt});
    if (s.proj_bias == Bias::yes) moves.push_back({mixer + "in_proj.bias", 0, dt});
    for (const char* name : {"dt_bias", "A_log"}) moves.push_back({mixer + name});
    if (!s.D_has_hdim) moves.push_back({mixer + "D"});
    return moves;
  };
  const auto heads = rotation(static_cast<Index>(s.heads));
  const auto channels = rotation(static_cast<Index>(d_ssm));
  const auto states = rotation(static_cast<Index>(s.d_state));

  std::map<std::string, std::function<void(NaiveTensors&)>> wrong;
  if (s.groups > 1) {
    wrong["heads across groups"] = [=](NaiveTensors& t) { move_axes(t, head_moves(t), heads); };
  }
  wrong["flat d_inner across heads"] = [=](NaiveTensors& t) {
    move_axes(t, channel_moves(t, 1), channels);
  };
  wrong["d_state: B without C"] = [=](NaiveTensors& t) {
    move_axis(t, {mixer + "in_proj.weight", 0, B}, states);
    move_axis(t, {mixer + "conv1d.weight", 0, d_ssm}, states);
    if (s.proj_bias == Bias::yes) move_axis(t, {mixer + "in_proj.bias", 0, B}, states);
    if (s.conv_bias == Bias::yes) move_axis(t, {mixer + "conv1d.bias", 0, d_ssm}, states);
  };
  wrong["d_state without the rows of conv1d"] = [=](NaiveTensors& t) {
    move_axis(t, {mixer + "in_proj.weight", 0, B}, states);
    move_axis(t, {mixer + "in_proj.weight", 0, B + bc}, states);
  };
  return wrong;
}

Rows naive_mamba2(const Rows& hidden, const Scope& mixer, const Mamba2Options& options) {
  return linear(mamba2_inner(linear(hidden, mixer, "in_proj"), mixer, options), mixer, "out_proj");
}

Rows mamba2_inner(const Rows& projected, const Scope& mixer, const Mamba2Options& options) {
  const NaiveTensor& A_log = mixer.at("A_log");
  const NaiveTensor& dt_bias = mixer.at("dt_bias");
  const NaiveTensor& D = mixer.at("D");
  const NaiveTensor* norm = mixer.find("norm.weight");
  const NaiveTensor* init_states = mixer.find("init_states");

  const std::size_t heads = extent(A_log, 0);
  const std::size_t d_inner = extent(mixer.at("out_proj.weight"), 1);
  const std::size_t bc = (projected[0].size() - heads - 2 * d_inner) / 2;  // of B, all groups
  const std::size_t d_state = bc / options.groups;
  const std::size_t conv_channels = extent(mixer.at("conv1d.weight"), 0);
  const std::size_t d_ssm = conv_channels - 2 * bc;
  const std::size_t d_mlp = d_inner - d_ssm;
  const std::size_t headdim = d_ssm / heads;

  const Rows z = part(projected, 2 * d_mlp, d_ssm);
  const Rows xbc = map(silu, causal_conv(part(projected, 2 * d_mlp + d_ssm, conv_channels),
                                         mixer.at("conv1d.weight"), mixer.find("conv1d.bias")));
  const Rows raw_dt = part(projected, 2 * d_mlp + d_ssm + conv_channels, heads);

  Rows y(projected.size(), Row(d_ssm));
  Row state(d_ssm * d_state);  // (heads, headdim, d_state)
  if (init_states) state = init_states->values;
  for (std::size_t t = 0; t < projected.size(); ++t) {
    for (std::size_t channel = 0; channel < d_ssm; ++channel) {
      const std::size_t head = channel / headdim;
      const std::size_t group = head / (heads / options.groups);
      const double x = xbc[t][channel];
      const double dt = std::clamp(softplus(raw_dt[t][head] + dt_bias.values[head]), options.dt_min,
                                   options.dt_max);
      const double decay = std::exp(-dt * std::exp(A_log.values[head]));
      y[t][channel] = D.values[D.values.size() == heads ? head : channel] * x;
      for (std::size_t n = 0; n < d_state; ++n) {
        double& h = state[channel * d_state + n];
        h = decay * h + dt * xbc[t][d_ssm + group * d_state + n] * x;
        y[t][channel] += xbc[t][d_ssm + bc + group * d_state + n] * h;
      }
    }
  }
  const Rows gate = map(silu, z);
  if (!norm) {
    y = product(y, gate);
  } else if (options.gate == Mamba2Options::Gate::before_norm) {
    y = rms_norm(product(y, gate), norm, options.norm_groups, options.epsilon);
  } else {
    y = product(rms_norm(y, norm, options.norm_groups, options.epsilon), gate);
  }
  if (d_mlp == 0) return y;
  return joined(product(map(silu, part(projected, 0, d_mlp)), part(projected, d_mlp, d_mlp)), y);
}

Rows naive_attention(const Rows& q, const Rows& k, const Rows& v, const AttentionOptions& options) {
  const std::size_t hd = options.headdim;
  const std::size_t rep = options.heads / options.kv_heads;
  const double scale = options.scale != 0 ? options.scale : 1 / std::sqrt(static_cast<double>(hd));
  Rows query;
  Rows key;
  for (std::size_t t = 0; t < q.size(); ++t) {
    query.push_back(rotated(q[t], t, hd, options.rotary_dim));
    key.push_back(rotated(k[t], t, hd, options.rotary_dim));
  }
  Rows y(q.size(), Row(options.heads * hd));
  for (std::size_t t = 0; t < q.size(); ++t) {
    const std::size_t seen = options.mask == AttentionOptions::Mask::causal ? t + 1 : q.size();
    for (std::size_t head = 0; head < options.heads; ++head) {
      const std::size_t kv = head / rep;
      Row score(seen);
      for (std::size_t s = 0; s < seen; ++s) {
        score[s] = scale * dot(query[t], head * hd, key[s], kv * hd, hd);
      }
      score = softmax(std::move(score));
      for (std::size_t s = 0; s < seen; ++s) {
        for (std::size_t c = 0; c < hd; ++c) y[t][head * hd + c] += score[s] * v[s][kv * hd + c];
      }
    }
  }
  return y;
}

Rows naive_attention(const Rows& hidden, const Scope& self_attn, const AttentionOptions& options) {
  const Rows y =
      naive_attention(linear(hidden, self_attn, "q_proj"), linear(hidden, self_attn, "k_proj"),
                      linear(hidden, self_attn, "v_proj"), options);
  return linear(y, self_attn, "o_proj");
}

Rows gated_mlp(const Rows& x, const Scope& mlp) {
  const Rows gate = map(silu, linear(x, mlp, "gate_proj"));
  return linear(product(gate, linear(x, mlp, "up_proj")), mlp, "down_proj");
}

Rows fused_mlp(const Rows& x, const NaiveTensor& gate_up, const NaiveTensor& down,
               double (*activation)(double)) {
  const std::size_t hidden = extent(gate_up, 0) / 2;
  const Rows both = linear(x, gate_up);
  return linear(product(map(activation, part(both, 0, hidden)), part(both, hidden, hidden)), down);
}

}  // namespace icd::testing
