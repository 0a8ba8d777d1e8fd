#pragma once

#include <cstddef>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "support/naive_math.h"

/// The sequence mixers of the test families, each over one sequence (tokens, channels). Sizes
/// come from the tensors where those tell them.
namespace icd::testing {

/// The tensors between in_proj and the gate of a Mamba-1 mixer.
struct Mamba1Core {
  NaiveTensor conv_weight;          ///< (d_inner, 1, d_conv)
  const NaiveTensor* conv_bias;     ///< (d_inner,) or null
  NaiveTensor x_proj;               ///< (dt_rank + 2 d_state, d_inner)
  NaiveTensor dt_weight;            ///< (d_inner, dt_rank)
  NaiveTensor dt_bias;              ///< (d_inner,)
  NaiveTensor A_log;                ///< (d_inner, d_state)
  NaiveTensor D;                    ///< (d_inner,)
  std::function<Row(Row)> dt_norm;  ///< of the dt_rank values, if any
  std::function<Row(Row)> b_norm;   ///< of B, if any
  std::function<Row(Row)> c_norm;   ///< of C, if any
};

struct Mamba1Sizes {
  std::int64_t d_model = 12;
  std::int64_t d_inner = 24;
  std::int64_t d_state = 5;
  std::int64_t dt_rank = 3;
  std::int64_t d_conv = 4;
  Bias proj_bias = Bias::no;
  Bias conv_bias = Bias::yes;
};

/// The tensors of a Mamba-1 mixer, of which the names begin with `mixer` ("layers.0.mixer.").
void make_mamba1(TensorMaker& maker, const std::string& mixer, const Mamba1Sizes& sizes);

/// Everything on the axis d_inner: one order for all of it is a symmetry, for all but one is not.
std::vector<Move> mamba1_inner_moves(const NaiveTensors& tensors, const std::string& mixer);

/// conv1d, x_proj, dt_proj, A_log, D of `mixer`; with suffix "_b" the second direction of Vim:
/// conv1d_b, x_proj_b, dt_proj_b, A_b_log, D_b.
Mamba1Core mamba1_core(const Scope& mixer, std::string_view suffix = {});

/// Convolution, silu, selective scan and skip of x (tokens, d_inner), before the gate:
/// h = exp(dt A) h + dt B x,  y = <C, h> + D x,  dt = softplus(dt_weight x_proj(x) + dt_bias).
Rows mamba1_scan(const Rows& x, const Mamba1Core& core);

/// A whole Mamba-1 mixer: in_proj to [x; z], the scan of x, times silu(z), out_proj.
Rows naive_mamba1(const Rows& hidden, const Scope& mixer, const Mamba1Core& core);
Rows naive_mamba1(const Rows& hidden, const Scope& mixer);

struct Mamba2Sizes {
  std::int64_t d_model = 12;
  std::int64_t heads = 6;
  std::int64_t headdim = 4;
  std::int64_t groups = 2;
  std::int64_t d_state = 5;
  std::int64_t d_conv = 3;
  std::int64_t d_mlp = 0;  ///< d_inner - d_ssm
  Bias proj_bias = Bias::no;
  Bias conv_bias = Bias::yes;
  bool rmsnorm = true;
  bool D_has_hdim = false;

  std::int64_t d_ssm() const { return heads * headdim; }
};

/// The tensors of a Mamba-2 mixer, of which the names begin with `mixer`.
void make_mamba2(TensorMaker& maker, const std::string& mixer, const Mamba2Sizes& sizes);

/// Moves that someone might take for symmetries of a Mamba-2 mixer: heads across groups (if
/// there are several), a flat order of d_ssm across heads, states without C or without the
/// convolution.
std::map<std::string, std::function<void(NaiveTensors&)>> wrong_mamba2(const std::string& mixer,
                                                                       const Mamba2Sizes& sizes);

struct Mamba2Options {
  std::size_t groups = 1;       ///< of B and C
  std::size_t norm_groups = 1;  ///< of the gated norm
  enum class Gate { before_norm, after_norm } gate = Gate::before_norm;
  double dt_min = 0;
  double dt_max = std::numeric_limits<double>::infinity();
  double epsilon = 1e-5;
};

/// A whole Mamba-2 mixer: in_proj to [z0; x0; z; x; B; C; dt], of which z0 and x0 are an MLP part
/// of the width that the shapes leave; norm and init_states take part if they are there.
Rows naive_mamba2(const Rows& hidden, const Scope& mixer, const Mamba2Options& options = {});

/// The same from what in_proj gives to what out_proj takes.
Rows mamba2_inner(const Rows& projected, const Scope& mixer, const Mamba2Options& options);

struct AttentionOptions {
  std::size_t heads;
  std::size_t kv_heads;
  std::size_t headdim;
  std::size_t rotary_dim = 0;  ///< leading channels of each head that are rotated, in halves
  double scale = 0;            ///< of the scores; 0: headdim^-1/2
  enum class Mask { causal, none } mask = Mask::causal;
};

/// Softmax attention: q (tokens, heads * headdim), k and v (tokens, kv_heads * headdim) to
/// (tokens, heads * headdim). Query head h reads kv head h / (heads / kv_heads).
Rows naive_attention(const Rows& q, const Rows& k, const Rows& v, const AttentionOptions& options);

/// q_proj, k_proj, v_proj, attention, o_proj.
Rows naive_attention(const Rows& hidden, const Scope& self_attn, const AttentionOptions& options);

/// down(silu(gate(x)) * up(x)), by the layers gate_proj, up_proj, down_proj.
Rows gated_mlp(const Rows& x, const Scope& mlp);

/// As gated_mlp, with one weight (2 hidden, channels) for [gate; up].
Rows fused_mlp(const Rows& x, const NaiveTensor& gate_up, const NaiveTensor& down,
               double (*activation)(double) = silu);

}  // namespace icd::testing
