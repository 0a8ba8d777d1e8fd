#include "icd/block_forward.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "support/files.h"
#include "support/naive_mamba3.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using testing::AttentionOptions;
using testing::Bias;
using testing::extent;
using testing::linear;
using testing::Mamba1Core;
using testing::Mamba1Sizes;
using testing::Mamba2Options;
using testing::Mamba2Sizes;
using testing::Mamba3Sizes;
using testing::map;
using testing::NaiveTensor;
using testing::NaiveTensors;
using testing::part;
using testing::product;
using testing::reversed;
using testing::Row;
using testing::Rows;
using testing::Scope;
using testing::ScratchFolder;
using testing::silu;
using testing::sum;
using testing::TensorMaker;

using Sizes = std::map<std::string, Index, std::less<>>;
using Numbers = std::map<std::string, double, std::less<>>;

constexpr char kPrefix[] = "m.";

/// A block by its tensors, and the same computed by the loops of the test families, which know
/// nothing of icd.
struct Case {
  std::string name;
  std::string type;
  Sizes sizes;
  Numbers numbers;
  NaiveTensors tensors;
  std::function<Rows(const Rows&, const Scope&)> naive;
};

void PrintTo(const Case& one, std::ostream* out) { *out << one.name; }

std::string file_of(const NaiveTensors& tensors) {
  std::vector<testing::TinyTensor> stored;
  for (const auto& [name, tensor] : tensors) {
    std::string bytes(tensor.values.size() * sizeof(double), '\0');
    std::memcpy(bytes.data(), tensor.values.data(), bytes.size());
    stored.push_back({name, "F64", tensor.shape, std::move(bytes)});
  }
  return testing::safetensors_bytes(stored);
}

/// A case on disk, open; every tensor is in the role that its name says.
struct Written {
  ScratchFolder folder;
  Checkpoint checkpoint;
  Block block;

  explicit Written(const Case& one) : checkpoint(open(one.tensors, folder)) {
    block = {.type = one.type,
             .prefix = kPrefix,
             .layer = 0,
             .sizes = one.sizes,
             .tensors = {},
             .numbers = one.numbers};
    for (const auto& [name, tensor] : one.tensors) {
      block.tensors[name.substr(std::strlen(kPrefix))] = name;
    }
  }

  static Checkpoint open(const NaiveTensors& tensors, const ScratchFolder& folder) {
    testing::write_file(folder / "model.safetensors", file_of(tensors));
    return Checkpoint::open(folder / "model.safetensors");
  }

  template <typename Real>
  static std::vector<Real> run(const BlockForward<Real>& block, BatchShape shape,
                               const std::vector<double>& x) {
    const std::vector<Real> in(x.begin(), x.end());
    std::vector<Real> out(static_cast<std::size_t>(shape.rows() * block.outputs()));
    block.run(shape, in, out);
    return out;
  }

  std::vector<double> reference(BatchShape shape, const std::vector<double>& x) const {
    return run(*reference_block(checkpoint, block), shape, x);
  }
  std::vector<float> fast(BatchShape shape, const std::vector<double>& x,
                          const FastModelOptions& options = {}) const {
    return run(*fast_block(checkpoint, block, options), shape, x);
  }
};

std::vector<double> values(BatchShape shape, Index width, std::uint64_t seed = 3) {
  std::vector<double> out;
  testing::append(out, testing::random_rows(seed, static_cast<std::size_t>(shape.rows()),
                                            static_cast<std::size_t>(width)));
  // Exact in float, so that both arithmetics start from the same.
  for (double& value : out) value = static_cast<float>(value);
  return out;
}

std::vector<double> naive(const Case& one, BatchShape shape, const std::vector<double>& x) {
  const auto width = static_cast<std::size_t>(one.sizes.at("in"));
  const Scope scope(one.tensors, kPrefix);
  std::vector<double> out;
  for (std::size_t s = 0; s < static_cast<std::size_t>(shape.sequences); ++s) {
    Rows rows;
    for (std::size_t t = 0; t < static_cast<std::size_t>(shape.length); ++t) {
      const auto* row = x.data() + (s * static_cast<std::size_t>(shape.length) + t) * width;
      rows.emplace_back(row, row + width);
    }
    testing::append(out, one.naive(rows, scope));
  }
  return out;
}

/// max|found - exact| / max|exact|
template <typename Real>
double relative_error(const std::vector<Real>& found, const std::vector<double>& exact) {
  if (found.size() != exact.size()) return INFINITY;
  double largest = 0;
  double gap = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest, std::abs(exact[i]));
    const double difference = std::abs(static_cast<double>(found[i]) - exact[i]);
    gap = std::isnan(difference) ? INFINITY : std::max(gap, difference);
  }
  return gap / largest;
}

Sizes mamba1_sizes(const Mamba1Sizes& s) {
  return {{"in", static_cast<Index>(s.d_model)},      {"out", static_cast<Index>(s.d_model)},
          {"d_inner", static_cast<Index>(s.d_inner)}, {"d_state", static_cast<Index>(s.d_state)},
          {"dt_rank", static_cast<Index>(s.dt_rank)}, {"d_conv", static_cast<Index>(s.d_conv)}};
}

Case mamba1(const std::string& name, const Mamba1Sizes& sizes) {
  TensorMaker maker(11);
  testing::make_mamba1(maker, kPrefix, sizes);
  return {.name = name,
          .type = "mamba1",
          .sizes = mamba1_sizes(sizes),
          .numbers = {},
          .tensors = maker.take(),
          .naive = [](const Rows& x, const Scope& m) { return testing::naive_mamba1(x, m); }};
}

Case falcon_mamba() {
  Case one = mamba1("FalconMamba", {});
  one.numbers = {{"mixer_norm_eps", 1e-3}};
  one.naive = [](const Rows& x, const Scope& m) {
    Mamba1Core core = testing::mamba1_core(m);
    core.dt_norm = core.b_norm =
        core.c_norm = [](Row row) { return testing::rms_norm(row, nullptr, 1, 1e-3); };
    return testing::naive_mamba1(x, m, core);
  };
  return one;
}

Case jamba() {
  Case one = mamba1("Jamba", {});
  one.numbers = {{"mixer_norm_eps", 1e-5}};
  TensorMaker maker(12);
  maker.norm("m.dt_layernorm", 3);
  maker.norm("m.b_layernorm", 5);
  maker.norm("m.c_layernorm", 5);
  one.tensors.merge(maker.take());
  one.naive = [](const Rows& x, const Scope& m) {
    Mamba1Core core = testing::mamba1_core(m);
    const auto norm = [&m](const std::string& role) {
      return [weight = &m.at(role)](const Row& row) { return testing::rms_norm(row, weight); };
    };
    core.dt_norm = norm("dt_layernorm.weight");
    core.b_norm = norm("b_layernorm.weight");
    core.c_norm = norm("c_layernorm.weight");
    return testing::naive_mamba1(x, m, core);
  };
  return one;
}

Case vim_v2(const std::string& name, double divide_out) {
  TensorMaker maker(13);
  const Mamba1Sizes sizes = {.d_inner = 20};
  testing::make_mamba1(maker, kPrefix, sizes);
  NaiveTensors tensors = maker.take();
  // The second direction has sizes of its own.
  TensorMaker second(14);
  testing::make_mamba1(second, "b.", {.d_inner = 20, .d_state = 7, .dt_rank = 2});
  for (auto& [key, tensor] : second.take()) {
    const std::string role = key.substr(2);
    if (role.starts_with("in_proj") || role.starts_with("out_proj")) continue;
    const std::size_t dot = role.find('.');
    const std::string own = role == "A_log" ? "A_b_log"
                            : dot == std::string::npos
                                ? role + "_b"
                                : role.substr(0, dot) + "_b" + role.substr(dot);
    tensors[kPrefix + own] = tensor;
  }
  return {.name = name,
          .type = "mamba1_bidirectional",
          .sizes = mamba1_sizes(sizes),
          .numbers = {{"divide_out", divide_out}},
          .tensors = tensors,
          .naive = [divide_out](const Rows& in, const Scope& m) {
            const Rows xz = linear(in, m, "in_proj");
            const Rows x = part(xz, 0, 20);
            const Rows gate = map(silu, part(xz, 20, 20));
            const Rows forward = testing::mamba1_scan(x, testing::mamba1_core(m));
            const Rows backward =
                reversed(testing::mamba1_scan(reversed(x), testing::mamba1_core(m, "_b")));
            const Rows both = product(sum(forward, backward), gate);
            return linear(testing::scaled(both, divide_out != 0 ? 0.5 : 1), m, "out_proj");
          }};
}

/// Vim's v1: the backward scan reads the forward one's x, dt, B and C.
Case vim_v1() {
  TensorMaker maker(15);
  const Mamba1Sizes sizes = {.d_inner = 20};
  testing::make_mamba1(maker, kPrefix, sizes);
  maker.tensor("m.A_b_log", {20, 5}, 0, 0.5);
  return {.name = "VimV1",
          .type = "mamba1_two_a",
          .sizes = mamba1_sizes(sizes),
          .numbers = {},
          .tensors = maker.take(),
          .naive = [](const Rows& in, const Scope& m) {
            const Rows xz = linear(in, m, "in_proj");
            const Rows u = map(silu, testing::causal_conv(part(xz, 0, 20), m.at("conv1d.weight"),
                                                          m.find("conv1d.bias")));
            const Rows features = linear(u, m.at("x_proj.weight"));
            const Rows dt = map(testing::softplus, linear(part(features, 0, 3), m, "dt_proj"));
            const auto scan = [&](const NaiveTensor& a_log, bool from_end) {
              std::vector<double> state(20 * 5);
              Rows y(u.size(), Row(20));
              for (std::size_t i = 0; i < u.size(); ++i) {
                const std::size_t t = from_end ? u.size() - 1 - i : i;
                for (std::size_t c = 0; c < 20; ++c) {
                  y[t][c] = m.at("D").values[c] * u[t][c];
                  for (std::size_t n = 0; n < 5; ++n) {
                    double& s = state[c * 5 + n];
                    s = std::exp(-std::exp(a_log.values[c * 5 + n]) * dt[t][c]) * s +
                        dt[t][c] * features[t][3 + n] * u[t][c];
                    y[t][c] += features[t][8 + n] * s;
                  }
                }
              }
              return y;
            };
            const Rows both = sum(scan(m.at("A_log"), false), scan(m.at("A_b_log"), true));
            return linear(product(both, map(silu, part(xz, 20, 20))), m, "out_proj");
          }};
}

/// Zamba: rows of in_proj are x and gate in turn; a scan of its own for every head.
Case zamba() {
  constexpr std::int64_t kHeads = 3;
  constexpr std::int64_t kHeaddim = 6;
  TensorMaker maker(16);
  maker.linear("m.in_proj", 2 * kHeads * kHeaddim, 10);
  maker.conv("m.conv1d", kHeads * kHeaddim, 4);
  maker.tensor("m.x_proj_weight", {kHeads, 3 + 2 * 5, kHeaddim}, 0, 0.4);
  maker.tensor("m.dt_proj_weight", {kHeads, kHeaddim, 3}, 0, 0.6);
  maker.tensor("m.dt_proj_bias", {kHeads, kHeaddim}, 0, 0.5);
  maker.tensor("m.A_log", {kHeads, kHeaddim, 5}, 0, 0.5);
  maker.tensor("m.D", {kHeads, kHeaddim}, 0.5, 0.5);
  maker.linear("m.out_proj", 12, kHeads * kHeaddim);
  return {.name = "Zamba",
          .type = "mamba1_heads",
          .sizes = {{"in", 10},
                    {"out", 12},
                    {"nheads", kHeads},
                    {"headdim", kHeaddim},
                    {"d_state", 5},
                    {"dt_rank", 3},
                    {"d_conv", 4}},
          .numbers = {},
          .tensors = maker.take(),
          .naive = [](const Rows& in, const Scope& m) {
            const Rows interleaved = linear(in, m, "in_proj");
            Rows mixed(in.size());
            for (std::size_t h = 0; h < kHeads; ++h) {
              Rows x(in.size());
              Rows gate(in.size());
              for (std::size_t t = 0; t < in.size(); ++t) {
                for (std::size_t c = h * kHeaddim; c < (h + 1) * kHeaddim; ++c) {
                  x[t].push_back(interleaved[t][2 * c]);
                  gate[t].push_back(interleaved[t][2 * c + 1]);
                }
              }
              const NaiveTensor conv_bias =
                  testing::rows_of(m.at("conv1d.bias"), h * kHeaddim, kHeaddim);
              const Mamba1Core core = {
                  .conv_weight = testing::rows_of(m.at("conv1d.weight"), h * kHeaddim, kHeaddim),
                  .conv_bias = &conv_bias,
                  .x_proj = testing::slice(m.at("x_proj_weight"), h),
                  .dt_weight = testing::slice(m.at("dt_proj_weight"), h),
                  .dt_bias = testing::slice(m.at("dt_proj_bias"), h),
                  .A_log = testing::slice(m.at("A_log"), h),
                  .D = testing::slice(m.at("D"), h),
                  .dt_norm = {},
                  .b_norm = {},
                  .c_norm = {}};
              mixed =
                  testing::joined(mixed, product(testing::mamba1_scan(x, core), map(silu, gate)));
            }
            return linear(mixed, m, "out_proj");
          }};
}

Case mamba2(const std::string& name, const Mamba2Sizes& s, const Mamba2Options& options) {
  TensorMaker maker(17);
  testing::make_mamba2(maker, kPrefix, s);
  Numbers numbers = {{"norm_eps", options.epsilon},
                     {"norm_groups", static_cast<double>(options.norm_groups)},
                     {"norm_before_gate", options.gate == Mamba2Options::Gate::after_norm ? 1 : 0},
                     {"dt_min", options.dt_min},
                     {"dt_max", options.dt_max}};
  return {.name = name,
          .type = "mamba2",
          .sizes = {{"in", static_cast<Index>(s.d_model)},
                    {"out", static_cast<Index>(s.d_model)},
                    {"ngroups", static_cast<Index>(s.groups)},
                    {"heads_per_group", static_cast<Index>(s.heads / s.groups)},
                    {"headdim", static_cast<Index>(s.headdim)},
                    {"d_state", static_cast<Index>(s.d_state)},
                    {"d_conv", static_cast<Index>(s.d_conv)},
                    {"d_mlp", static_cast<Index>(s.d_mlp)}},
          .numbers = numbers,
          .tensors = maker.take(),
          .naive = [options](const Rows& x, const Scope& m) {
            return testing::naive_mamba2(x, m, options);
          }};
}

Case mamba2_from_states() {
  Case one = mamba2("Mamba2FromLearnedStates", {}, {.groups = 2});
  TensorMaker maker(25);
  maker.tensor("m.init_states", {6, 4, 5}, 0, 1);
  one.tensors.merge(maker.take());
  return one;
}

Case mamba3(const std::string& name, const Mamba3Sizes& s) {
  TensorMaker maker(18);
  testing::make_mamba3(maker, kPrefix, s);
  return {.name = name,
          .type = s.mimo() ? "mamba3_mimo" : "mamba3",
          .sizes = {{"in", static_cast<Index>(s.d_model)},
                    {"out", static_cast<Index>(s.d_model)},
                    {"ngroups", static_cast<Index>(s.groups)},
                    {"heads_per_group", static_cast<Index>(s.heads / s.groups)},
                    {"headdim", static_cast<Index>(s.headdim)},
                    {"rope_angles", static_cast<Index>(s.angles())}},
          .numbers = {{"softplus_a", 1}, {"a_floor", 0}},
          .tensors = maker.take(),
          .naive = [s](const Rows& x, const Scope& m) { return testing::naive_mamba3(x, m, s); }};
}

Case attention(const std::string& name, const AttentionOptions& options, Bias bias,
               const Numbers& numbers) {
  const auto heads = static_cast<std::int64_t>(options.heads);
  const auto kv_heads = static_cast<std::int64_t>(options.kv_heads);
  const auto head_dim = static_cast<std::int64_t>(options.headdim);
  TensorMaker maker(19);
  maker.linear("m.q_proj", heads * head_dim, 12, bias);
  maker.linear("m.k_proj", kv_heads * head_dim, 12, bias);
  maker.linear("m.v_proj", kv_heads * head_dim, 12, bias);
  maker.linear("m.o_proj", 10, heads * head_dim, bias);
  return {.name = name,
          .type = options.rotary_dim > 0 ? "rotary_attention" : "attention",
          .sizes = {{"in", 12},
                    {"out", 10},
                    {"n_heads", static_cast<Index>(heads)},
                    {"n_kv_heads", static_cast<Index>(kv_heads)},
                    {"head_dim", static_cast<Index>(head_dim)}},
          .numbers = numbers,
          .tensors = maker.take(),
          .naive = [options](const Rows& x, const Scope& m) {
            return testing::naive_attention(x, m, options);
          }};
}

Case packed_attention(const std::string& name, std::int64_t d_mlp, std::int64_t d_conv,
                      double rotary_dim) {
  const AttentionOptions options = {
      .heads = 4, .kv_heads = 2, .headdim = 6, .rotary_dim = static_cast<std::size_t>(rotary_dim)};
  TensorMaker maker(20);
  maker.linear("m.in_proj", 48 + 2 * d_mlp, 12, Bias::yes);
  if (d_conv > 0) maker.conv("m.conv1d", 48, d_conv);
  maker.linear("m.out_proj", 12, 24 + d_mlp, Bias::yes);
  return {.name = name,
          .type = rotary_dim > 0 ? "rotary_attention_packed" : "attention_packed",
          .sizes = {{"in", 12},
                    {"out", 12},
                    {"n_heads", 4},
                    {"n_kv_heads", 2},
                    {"head_dim", 6},
                    {"d_mlp", static_cast<Index>(d_mlp)},
                    {"d_conv", static_cast<Index>(d_conv)}},
          .numbers = {{"rotary_dim", rotary_dim}},
          .tensors = maker.take(),
          .naive = [options, d_mlp](const Rows& x, const Scope& m) {
            const auto hidden = static_cast<std::size_t>(d_mlp);
            const Rows all = linear(x, m, "in_proj");
            Rows qkv = part(all, 0, 48);
            if (m.has("conv1d.weight")) {
              qkv = testing::causal_conv(qkv, m.at("conv1d.weight"), m.find("conv1d.bias"));
            }
            const Rows mixed = testing::naive_attention(part(qkv, 0, 24), part(qkv, 24, 12),
                                                        part(qkv, 36, 12), options);
            const Rows mlp =
                product(part(all, 48, hidden), map(silu, part(all, 48 + hidden, hidden)));
            return linear(testing::joined(mixed, mlp), m, "out_proj");
          }};
}

Case mlp(const std::string& name, const std::string& type, const Numbers& numbers,
         const std::function<void(TensorMaker&)>& make,
         const std::function<Rows(const Rows&, const Scope&)>& naive) {
  TensorMaker maker(21);
  make(maker);
  return {.name = name,
          .type = type,
          .sizes = {{"in", 12}, {"out", 10}},
          .numbers = numbers,
          .tensors = maker.take(),
          .naive = naive};
}

enum class Routing { softmax, softmax_after, sigmoid };

/// The experts of every row in turn, by their shares.
Rows naive_experts(const Rows& x, const Scope& m, const char* router, std::size_t top_k,
                   Routing routing, std::size_t groups,
                   const std::function<Row(std::size_t, const Row&)>& expert) {
  Rows out;
  for (const Row& row : x) {
    const Row logits = linear(row, m.at(router));
    const std::size_t experts = logits.size();
    Row score = logits;
    if (routing == Routing::softmax) score = testing::softmax(logits);
    if (routing == Routing::sigmoid) score = map(testing::sigmoid, logits);
    Row choice = score;
    if (routing == Routing::sigmoid)
      choice = sum(score, m.at("gate.e_score_correction_bias").values);
    if (groups > 1) {  // of two groups the better one stays
      const std::size_t size = experts / groups;
      std::size_t best = 0;
      double best_score = -INFINITY;
      for (std::size_t g = 0; g < groups; ++g) {
        const Row own = part(choice, g * size, size);
        const auto top = testing::top_k(own, 2);
        if (own[top[0]] + own[top[1]] > best_score) {
          best_score = own[top[0]] + own[top[1]];
          best = g;
        }
      }
      for (std::size_t e = 0; e < experts; ++e) {
        if (e / size != best) choice[e] = -INFINITY;
      }
    }
    const auto chosen = testing::top_k(choice, top_k);
    Row shares;
    for (const std::size_t e : chosen) shares.push_back(score[e]);
    if (routing == Routing::softmax_after) shares = testing::softmax(shares);
    if (routing == Routing::sigmoid) {
      double total = 0;
      for (const double share : shares) total += share;
      for (double& share : shares) share *= 2.5 / (total + 1e-20);
    }
    Row y;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const Row own = testing::scaled(expert(chosen[i], row), shares[i]);
      y = y.empty() ? own : sum(y, own);
    }
    out.push_back(y);
  }
  return out;
}

Case jamba_experts() {
  TensorMaker maker(22);
  maker.matrix("m.router.weight", 5, 12);
  for (int e = 0; e < 5; ++e) {
    const std::string expert = "m.experts." + std::to_string(e) + ".";
    maker.linear(expert + "gate_proj", 7, 12);
    maker.linear(expert + "up_proj", 7, 12);
    maker.linear(expert + "down_proj", 12, 7);
  }
  return {.name = "JambaExperts",
          .type = "experts",
          .sizes = {{"in", 12}, {"out", 12}},
          .numbers = {{"top_k", 2}},
          .tensors = maker.take(),
          .naive = [](const Rows& x, const Scope& m) {
            return naive_experts(
                x, m, "router.weight", 2, Routing::softmax, 1, [&](std::size_t e, const Row& row) {
                  return testing::gated_mlp({row}, m.in("experts").in(std::to_string(e)))[0];
                });
          }};
}

Case granite_experts() {
  TensorMaker maker(23);
  maker.matrix("m.router.layer.weight", 4, 12);
  maker.tensor("m.input_linear.weight", {4, 14, 12}, 0, 0.3);
  maker.tensor("m.output_linear.weight", {4, 12, 7}, 0, 0.3);
  return {.name = "GraniteExperts",
          .type = "granite_experts",
          .sizes = {{"in", 12}, {"out", 12}},
          .numbers = {{"top_k", 3}},
          .tensors = maker.take(),
          .naive = [](const Rows& x, const Scope& m) {
            return naive_experts(x, m, "router.layer.weight", 3, Routing::softmax_after, 1,
                                 [&](std::size_t e, const Row& row) {
                                   return testing::fused_mlp(
                                       {row}, testing::slice(m.at("input_linear.weight"), e),
                                       testing::slice(m.at("output_linear.weight"), e))[0];
                                 });
          }};
}

Case nemotron_experts(const std::string& name, std::size_t groups, Bias latent) {
  TensorMaker maker(24);
  const std::int64_t width = latent == Bias::yes ? 5 : 12;
  maker.matrix("m.gate.weight", 6, 12);
  maker.tensor("m.gate.e_score_correction_bias", {6}, 0, 0.5);
  for (int e = 0; e < 6; ++e) {
    const std::string expert = "m.experts." + std::to_string(e) + ".";
    maker.linear(expert + "up_proj", 7, width);
    maker.linear(expert + "down_proj", width, 7);
  }
  Sizes sizes = {{"in", 12}, {"out", 12}, {"n_group", static_cast<Index>(groups)}};
  if (latent == Bias::yes) {
    maker.linear("m.shared_experts.up_proj", 9, 12, Bias::yes);
    maker.linear("m.shared_experts.down_proj", 12, 9, Bias::yes);
    maker.linear("m.fc1_latent_proj", 5, 12, Bias::yes);
    maker.linear("m.fc2_latent_proj", 12, 5, Bias::yes);
  }
  return {
      .name = name,
      .type = latent == Bias::yes ? "nemotron_latent_experts" : "nemotron_experts",
      .sizes = sizes,
      .numbers = {{"top_k", 2},
                  {"norm_topk_prob", 1},
                  {"routed_scaling_factor", 2.5},
                  {"topk_group", 1}},
      .tensors = maker.take(),
      .naive = [groups, latent](const Rows& x, const Scope& m) {
        const auto expert = [&](std::size_t e, const Row& row) {
          const Scope own = m.in("experts").in(std::to_string(e));
          const Row in = latent == Bias::yes ? linear(row, m, "fc1_latent_proj") : row;
          return linear(map(testing::relu_squared, linear(in, own, "up_proj")), own, "down_proj");
        };
        const Rows mixed = naive_experts(x, m, "gate.weight", 2, Routing::sigmoid, groups, expert);
        if (latent == Bias::no) return mixed;
        const Scope shared = m.in("shared_experts");
        const Rows always =
            linear(map(testing::relu_squared, linear(x, shared, "up_proj")), shared, "down_proj");
        return sum(linear(mixed, m, "fc2_latent_proj"), always);
      }};
}

std::vector<Case> cases() {
  const auto gated = [](const Rows& x, const Scope& m) { return testing::gated_mlp(x, m); };
  const auto linear_mlp = [](TensorMaker& maker, Bias bias) {
    maker.linear("m.gate_proj", 14, 12, bias);
    maker.linear("m.up_proj", 14, 12, bias);
    maker.linear("m.down_proj", 10, 14, bias);
  };
  return {
      mamba1("Mamba1", {}),
      mamba1("Mamba1WithBiasesWideAndSixteenStates",
             {.d_inner = 272, .d_state = 16, .proj_bias = Bias::yes}),
      mamba1("Mamba1WithoutConvBias", {.d_inner = 16, .conv_bias = Bias::no}),
      falcon_mamba(),
      jamba(),
      vim_v2("VimV2", 0),
      vim_v2("VimV2Divided", 1),
      vim_v1(),
      zamba(),
      mamba2("Mamba2OneGroup", {.groups = 1}, {.groups = 1}),
      mamba2("Mamba2TwoGroupsUngroupedNorm", {}, {.groups = 2, .epsilon = 1e-2}),
      mamba2("Mamba2GroupedNorm", {}, {.groups = 2, .norm_groups = 2}),
      mamba2("Mamba2NormBeforeGate", {},
             {.groups = 2, .norm_groups = 2, .gate = Mamba2Options::Gate::after_norm}),
      mamba2("Mamba2WithoutNorm", {.conv_bias = Bias::no, .rmsnorm = false}, {.groups = 2}),
      mamba2("Mamba2ClampedWithMlpPartAndWideD",
             {.d_mlp = 9, .proj_bias = Bias::yes, .D_has_hdim = true},
             {.groups = 2, .norm_groups = 2, .dt_min = 0.4, .dt_max = 0.8}),
      mamba2_from_states(),
      mamba3("Mamba3", {}),
      mamba3("Mamba3AllRotatedOutprojNorm", {.rope_fraction = 1, .outproj_norm = true}),
      mamba3("Mamba3Mimo", {.rank = 3}),
      mamba3("Mamba3MimoAllRotatedOutprojNorm",
             {.rank = 2, .rope_fraction = 1, .outproj_norm = true}),
      attention("Attention", {.heads = 4, .kv_heads = 2, .headdim = 5}, Bias::yes, {}),
      attention("AttentionScaled", {.heads = 3, .kv_heads = 3, .headdim = 4, .scale = 0.3},
                Bias::no, {{"scale", 0.3}}),
      attention("AttentionRotated", {.heads = 4, .kv_heads = 2, .headdim = 6, .rotary_dim = 6},
                Bias::no, {}),
      attention("AttentionPartlyRotated",
                {.heads = 4, .kv_heads = 1, .headdim = 6, .rotary_dim = 4}, Bias::no,
                {{"rotary_fraction", 2.0 / 3}}),
      packed_attention("PackedAttention", 0, 0, 0),
      packed_attention("PackedAttentionWithMlpConvAndRotation", 8, 3, 4),
      mlp(
          "Mlp", "mlp", {}, [&](TensorMaker& maker) { linear_mlp(maker, Bias::yes); }, gated),
      mlp(
          "GraniteMlp", "granite_mlp", {},
          [](TensorMaker& maker) {
            maker.linear("m.input_linear", 28, 12);
            maker.linear("m.output_linear", 10, 14);
          },
          [](const Rows& x, const Scope& m) {
            return testing::fused_mlp(x, m.at("input_linear.weight"), m.at("output_linear.weight"));
          }),
      mlp(
          "MambaGatedMlp", "gated_mlp", {},
          [](TensorMaker& maker) {
            maker.linear("m.fc1", 28, 12, Bias::yes);
            maker.linear("m.fc2", 10, 14, Bias::yes);
          },
          [](const Rows& x, const Scope& m) {
            const Rows both = linear(x, m, "fc1");
            return linear(product(part(both, 0, 14), map(silu, part(both, 14, 14))), m, "fc2");
          }),
      mlp(
          "UngatedMlp", "ungated_mlp", {},
          [](TensorMaker& maker) {
            maker.linear("m.up_proj", 14, 12);
            maker.linear("m.down_proj", 10, 14);
          },
          [](const Rows& x, const Scope& m) {
            return linear(map(testing::relu_squared, linear(x, m, "up_proj")), m, "down_proj");
          }),
      jamba_experts(),
      granite_experts(),
      nemotron_experts("NemotronExperts", 1, Bias::no),
      nemotron_experts("NemotronExpertsInGroupsBehindALatent", 2, Bias::yes),
  };
}

const Case& find_case(const std::vector<Case>& all, std::string_view name) {
  return *std::ranges::find(all, name, &Case::name);
}

class EveryBlock : public ::testing::TestWithParam<Case> {};

TEST_P(EveryBlock, ComputesWhatPlainLoopsDo) {
  const Case& one = GetParam();
  const Written written(one);
  for (const BatchShape shape : {BatchShape{2, 9}, BatchShape{3, 1}}) {
    const auto x = values(shape, one.sizes.at("in"));
    EXPECT_LT(relative_error(written.reference(shape, x), naive(one, shape, x)), 1e-12);
  }
}

TEST_P(EveryBlock, InFloatAgreesWithTheReference) {
  const Case& one = GetParam();
  const Written written(one);
  const BatchShape shape = {.sequences = 3, .length = 33};
  const auto x = values(shape, one.sizes.at("in"));
  EXPECT_LT(relative_error(written.fast(shape, x), written.reference(shape, x)), 1e-5);
}

TEST_P(EveryBlock, HasTheSameBitsForAnyThreadsAndAnyCutOfTheBatch) {
  const Case& one = GetParam();
  const Written written(one);
  const BatchShape shape = {.sequences = 3, .length = 17};
  const auto x = values(shape, one.sizes.at("in"));
  const auto alone = written.fast(shape, x, {.threads = 1});
  EXPECT_EQ(alone, written.fast(shape, x, {.threads = 3}));

  std::vector<float> pieces;
  const auto rows = static_cast<std::ptrdiff_t>(17) * one.sizes.at("in");
  for (std::ptrdiff_t s = 0; s < 3; ++s) {
    const auto y = written.fast({.sequences = 1, .length = 17},
                                {x.begin() + s * rows, x.begin() + (s + 1) * rows});
    pieces.insert(pieces.end(), y.begin(), y.end());
  }
  EXPECT_EQ(alone, pieces);
}

/// Keeps all it is shown of one layer.
template <typename Real>
struct SiteRecorder : Observer<Real> {
  std::map<Site, std::vector<Real>> values;
  std::map<Site, Index> width;

  bool wants(Site) const override { return true; }
  void see(Index layer, Site site, std::span<const Real> shown, Index channels) override {
    EXPECT_EQ(layer, 4);
    values[site].insert(values[site].end(), shown.begin(), shown.end());
    width[site] = channels;
  }

  Rows rows(Site site) const {
    const auto channels = static_cast<std::size_t>(width.at(site));
    Rows rows;
    for (std::size_t i = 0; i < values.at(site).size(); i += channels) {
      const auto* row = values.at(site).data() + i;
      rows.emplace_back(row, row + channels);
    }
    return rows;
  }
};

template <typename Real>
SiteRecorder<Real> shown_by(const BlockForward<Real>& block, BatchShape shape,
                            const std::vector<double>& x) {
  SiteRecorder<Real> recorder;
  const std::vector<Real> in(x.begin(), x.end());
  std::vector<Real> out(static_cast<std::size_t>(shape.rows() * block.outputs()));
  block.run(shape, in, out, {&recorder, 4});
  return recorder;
}

TEST_P(EveryBlock, ShowsTheSitesThatItsTypeHas) {
  const Case& one = GetParam();
  const Written written(one);
  const BatchShape shape = {.sequences = 2, .length = 9};
  const auto x = values(shape, one.sizes.at("in"));
  const auto exact = shown_by(*reference_block(written.checkpoint, written.block), shape, x);
  const auto fast = shown_by(*fast_block(written.checkpoint, written.block), shape, x);

  std::map<Site, Index> width;
  for (const BlockSite& site : block_sites(written.block)) {
    const Shape& tensor = written.checkpoint.find(site.axis.tensor)->shape;
    width[site.site] = static_cast<Index>(tensor[static_cast<std::size_t>(site.axis.dim)]);
  }
  EXPECT_EQ(width[Site::normed], one.sizes.at("in"));
  width.erase(Site::normed);  // who normalises shows it
  EXPECT_EQ(exact.width, width);
  EXPECT_EQ(fast.width, width);
  for (const auto& [site, values] : exact.values) {
    EXPECT_LT(relative_error(fast.values.at(site), values), 1e-5) << static_cast<int>(site);
  }
  if (!width.contains(Site::gated)) return;
  std::vector<double> y;
  testing::append(y, linear(exact.rows(Site::gated), Scope(one.tensors, kPrefix), "out_proj"));
  EXPECT_LT(relative_error(written.reference(shape, x), y), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(BlockForward, EveryBlock, ::testing::ValuesIn(cases()),
                         [](const auto& one) { return one.param.name; });

/// Rows [begin, begin + count) of in_proj times `factor`: what a multiplier of one zone does.
void scale_rows(NaiveTensor& tensor, std::int64_t begin, std::int64_t count, double factor) {
  const std::int64_t columns = std::ssize(tensor.values) / tensor.shape[0];
  for (std::int64_t i = begin * columns; i < (begin + count) * columns; ++i) {
    tensor.values[static_cast<std::size_t>(i)] *= factor;
  }
}

double largest_gap(const Rows& a, const Rows& b) {
  double gap = a.size() == b.size() ? 0 : INFINITY;
  for (std::size_t t = 0; t < std::min(a.size(), b.size()); ++t) {
    EXPECT_EQ(a[t].size(), b[t].size());
    for (std::size_t c = 0; c < a[t].size(); ++c) gap = std::max(gap, std::abs(a[t][c] - b[t][c]));
  }
  return gap;
}

TEST(BlockForward, OfMamba2ShowsWhatPlainLoopsMakeOnTheWay) {
  const Mamba2Sizes sizes{.d_mlp = 12};  // 6 heads of 4 channels, 2 groups of 5 states
  const Mamba2Options options{.groups = 2, .norm_groups = 2, .dt_min = 0.4, .dt_max = 0.9};
  const Case one = mamba2("Mamba2", sizes, options);
  const Written written(one);
  const BatchShape shape = {.sequences = 1, .length = 11};
  const auto x = values(shape, 12);
  const auto found = shown_by(*reference_block(written.checkpoint, written.block), shape, x);

  const Scope mixer(one.tensors, kPrefix);
  Rows in;
  for (std::size_t i = 0; i < x.size(); i += 12) in.emplace_back(&x[i], &x[i] + 12);
  const Rows projected = linear(in, mixer, "in_proj");
  const Rows x_b_c =
      map(silu, testing::causal_conv(part(projected, 24 + 24, 24 + 2 * 2 * 5),
                                     mixer.at("conv1d.weight"), mixer.find("conv1d.bias")));
  Rows dt;
  Rows decay;
  for (const Row& row : part(projected, 24 + 24 + 44, 6)) {
    dt.push_back(map(testing::softplus, testing::sum(row, mixer.at("dt_bias").values)));
    decay.emplace_back();
    for (std::size_t head = 0; head < 6; ++head) {
      dt.back()[head] = std::clamp(dt.back()[head], options.dt_min, options.dt_max);
      decay.back().push_back(dt.back()[head] * std::exp(mixer.at("A_log").values[head]));
    }
  }
  EXPECT_LT(largest_gap(found.rows(Site::conv), x_b_c), 1e-13);
  EXPECT_LT(largest_gap(found.rows(Site::dt), dt), 1e-13);
  EXPECT_LT(largest_gap(found.rows(Site::decay), decay), 1e-13);
  EXPECT_LT(largest_gap(found.rows(Site::gated), testing::mamba2_inner(projected, mixer, options)),
            1e-13);
}

TEST(BlockForward, OfMamba1ShowsBAndCPastTheirNorms) {
  Case one = find_case(cases(), "Mamba1");
  one.numbers["mixer_norm_eps"] = 1e-6;
  const Written written(one);
  const BatchShape shape = {.sequences = 1, .length = 6};
  const auto found = shown_by(*reference_block(written.checkpoint, written.block), shape,
                              values(shape, one.sizes.at("in")));
  const auto d_state = static_cast<std::size_t>(one.sizes.at("d_state"));
  const auto dt_rank = static_cast<std::size_t>(one.sizes.at("dt_rank"));
  const Rows raw = linear(found.rows(Site::conv), Scope(one.tensors, kPrefix).at("x_proj.weight"));
  Rows normed;
  for (const Row& row : raw) {
    normed.push_back(testing::rms_norm(part(row, 0, dt_rank), nullptr, 1, 1e-6));
    for (const std::size_t first : {dt_rank, dt_rank + d_state}) {
      normed.back() = testing::joined(
          normed.back(), testing::rms_norm(part(row, first, d_state), nullptr, 1, 1e-6));
    }
  }
  EXPECT_LT(largest_gap(found.rows(Site::x_proj), normed), 1e-13);
}

TEST(BlockForward, MultipliersOfMamba2ScaleTheRowsOfTheirZone) {
  const auto all = cases();
  Case scaled = find_case(all, "Mamba2GroupedNorm");  // d_ssm 24, groups 2, d_state 5, heads 6
  const BatchShape shape = {.sequences = 1, .length = 7};
  const auto x = values(shape, 12);
  NaiveTensor& in_proj = scaled.tensors.at("m.in_proj.weight");
  scale_rows(in_proj, 0, 24, 0.25);
  scale_rows(in_proj, 24, 24, 0.5);
  scale_rows(in_proj, 48, 10, 2);
  scale_rows(in_proj, 58, 10, 4);
  scale_rows(in_proj, 68, 6, 0.125);
  Case multiplied = find_case(all, "Mamba2GroupedNorm");
  multiplied.numbers.merge(Numbers{{"z_multiplier", 0.25},
                                   {"x_multiplier", 0.5},
                                   {"b_multiplier", 2},
                                   {"c_multiplier", 4},
                                   {"dt_multiplier", 0.125}});
  // Powers of two: not even rounding differs.
  EXPECT_EQ(Written(multiplied).reference(shape, x), Written(scaled).reference(shape, x));
}

TEST(BlockForward, MultipliersOfInputKeysGateAndOutputScaleTheirWeights) {
  const BatchShape shape = {.sequences = 1, .length = 7};
  const auto x = values(shape, 12);
  const auto all = cases();
  Case one = find_case(all, "AttentionScaled");
  Case scaled = one;
  one.numbers.merge(Numbers{{"key_multiplier", 4}, {"in_multiplier", 0.5}, {"out_multiplier", 2}});
  for (const char* name : {"m.q_proj.weight", "m.k_proj.weight", "m.v_proj.weight"}) {
    scale_rows(scaled.tensors.at(name), 0, 12, 0.5);
  }
  scale_rows(scaled.tensors.at("m.k_proj.weight"), 0, 12, 4);
  scale_rows(scaled.tensors.at("m.o_proj.weight"), 0, 10, 2);
  EXPECT_EQ(Written(one).reference(shape, x), Written(scaled).reference(shape, x));

  Case mlp = find_case(all, "GraniteMlp");
  Case scaled_mlp = mlp;
  mlp.numbers = {{"gate_multiplier", 0.5}, {"down_multiplier", 4}};
  scale_rows(scaled_mlp.tensors.at("m.input_linear.weight"), 0, 14, 0.5);
  scale_rows(scaled_mlp.tensors.at("m.output_linear.weight"), 0, 10, 4);
  EXPECT_EQ(Written(mlp).reference(shape, x), Written(scaled_mlp).reference(shape, x));
}

/// Mamba-3 whose A is the same for all tokens: rows of dd_A are 0, and a bias says what it is.
std::vector<double> with_constant_a(double dd_a, double softplus_a) {
  const auto all = cases();
  Case one = find_case(all, "Mamba3");
  const Mamba3Sizes s;
  scale_rows(one.tensors.at("m.in_proj.weight"), s.A_row(), s.heads, 0);
  NaiveTensor bias = {.shape = {s.rows()},
                      .values = std::vector<double>(static_cast<std::size_t>(s.rows()))};
  std::fill_n(bias.values.begin() + s.A_row(), s.heads, dd_a);
  one.tensors["m.in_proj.bias"] = bias;
  one.numbers = {{"softplus_a", softplus_a}};
  const BatchShape shape = {.sequences = 1, .length = 8};
  return Written(one).reference(shape, values(shape, 12));
}

TEST(BlockForward, Mamba3DecaysByOnePlusXAndOneOverOneMinusX) {
  const auto of_rate = [](double rate) { return with_constant_a(std::log(std::expm1(rate)), 1); };
  EXPECT_LT(relative_error(with_constant_a(2, 0), of_rate(3)), 1e-12);
  EXPECT_LT(relative_error(with_constant_a(-1, 0), of_rate(0.5)), 1e-12);
  EXPECT_GT(relative_error(with_constant_a(2, 0), of_rate(2)), 1e-3);
}

TEST(BlockForward, MoreRowsThanPassAtOnceAreTheSameRows) {
  const Case one = mamba2("Mamba2", {}, {.groups = 2});
  const Written written(one);
  const BatchShape shape = {.sequences = 5, .length = 300};
  const auto x = values(shape, 12);
  const auto y = written.fast(shape, x);
  const std::vector<double> last(x.end() - 300 * 12, x.end());
  EXPECT_EQ(std::vector<float>(y.end() - 300 * 12, y.end()),
            written.fast({.sequences = 1, .length = 300}, last));
}

TEST(BlockForward, AnEmptyBatchGivesNothing) {
  const Case one = mamba2("Mamba2", {}, {.groups = 2});
  EXPECT_TRUE(Written(one).fast({.sequences = 0, .length = 5}, {}).empty());
  EXPECT_TRUE(Written(one).reference({.sequences = 5, .length = 0}, {}).empty());
}

TEST(BlockForward, RunsTheRecurrenceOfTheTextbooks) {
  // h' = A h + B x + b, y = C h' + D x with two states, one input and one output, in the head.
  const ScratchFolder scratch;
  const auto f64 = [](std::initializer_list<double> values) {
    return std::string(reinterpret_cast<const char*>(std::data(values)), 8 * values.size());
  };
  testing::write_file(scratch / "net.safetensors",
                      testing::safetensors_bytes({{"A.weight", "F64", {2, 2}, f64({0.5, 1, 0, 2})},
                                                  {"B.weight", "F64", {2, 1}, f64({1, 3})},
                                                  {"B.bias", "F64", {2}, f64({0, 1})},
                                                  {"C.weight", "F64", {1, 2}, f64({1, -1})},
                                                  {"D.weight", "F64", {1, 1}, f64({10})}}));
  const Checkpoint checkpoint = Checkpoint::open(scratch / "net.safetensors");
  const Layout layout = layout_of(checkpoint);
  ASSERT_EQ(layout.blocks.size(), 1u);
  const std::vector<double> x = {1, 0, 2, 0};  // two sequences of two tokens
  std::vector<double> y(4);
  reference_block(checkpoint, layout.blocks[0])->run({2, 2}, x, y);
  // h = (1, 4), then (0.5 + 4, 8 + 1); from zero again (2, 7), then (1 + 7, 14 + 1).
  EXPECT_EQ(y, (std::vector<double>{1 - 4 + 10, 4.5 - 9, 2 - 7 + 20, 8 - 15}));
  std::vector<float> y32(4);
  const std::vector<float> x32(x.begin(), x.end());
  fast_block(checkpoint, layout.blocks[0])->run({2, 2}, x32, y32);
  EXPECT_EQ(y32, (std::vector<float>{7, -4.5, 15, -7}));
}

TEST(BlockForward, KnowsWhichTypesItRuns) {
  for (const Case& one : cases()) EXPECT_TRUE(has_forward(one.type)) << one.type;
  EXPECT_FALSE(has_forward("oxidizr_mamba2"));
}

template <typename Call>
void expect_error(ErrorCode code, const std::string& what, Call call) {
  try {
    call();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(what));
  }
}

TEST(BlockForward, RefusesWhatItCannotRun) {
  Case other = mamba2("Mamba2", {}, {.groups = 2});
  other.type = "oxidizr_mamba2";
  const Written written(other);
  expect_error(ErrorCode::unsupported, "block 'm.': is a oxidizr_mamba2",
               [&] { reference_block(written.checkpoint, written.block); });
}

TEST(BlockForward, NamesTheSizeTheTensorOrTheShapeThatIsNotThere) {
  Written written(mamba2("Mamba2", {}, {.groups = 2}));
  Block without = written.block;
  without.sizes.erase("headdim");
  expect_error(ErrorCode::input, "block 'm.': a mamba2 without the size 'headdim'",
               [&] { fast_block(written.checkpoint, without); });
  without = written.block;
  without.tensors.erase("A_log");
  expect_error(ErrorCode::input, "block 'm.': a mamba2 without the tensor 'A_log'",
               [&] { fast_block(written.checkpoint, without); });
  without = written.block;
  without.tensors["A_log"] = "m.absent";
  expect_error(ErrorCode::input, "tensor 'm.absent': missing",
               [&] { fast_block(written.checkpoint, without); });
  without = written.block;
  without.sizes["d_state"] = 6;
  expect_error(ErrorCode::input, "tensor 'm.conv1d.weight': shape is (44, 1, 3), expected (48, 1",
               [&] { reference_block(written.checkpoint, without); });
}

TEST(BlockForward, RefusesSpansThatDoNotFitTheShape) {
  const Written written(mamba2("Mamba2", {}, {.groups = 2}));
  const auto block = reference_block(written.checkpoint, written.block);
  std::vector<double> x(2 * 12);
  std::vector<double> y(2 * 12);
  expect_error(ErrorCode::usage, "inputs: has 24 elements, expected 36",
               [&] { block->run({.sequences = 1, .length = 3}, x, y); });
  y.pop_back();
  expect_error(ErrorCode::usage, "outputs: has 23 elements, expected 24",
               [&] { block->run({.sequences = 1, .length = 2}, x, y); });
}

TEST(BlockForward, RefusesARouterThatChoosesMoreExpertsThanThereAre) {
  Case one = jamba_experts();
  one.numbers = {{"top_k", 6}};
  const Written written(one);
  expect_error(ErrorCode::input, "router: 6 of 5 experts",
               [&] { reference_block(written.checkpoint, written.block); });
}

}  // namespace
}  // namespace icd
