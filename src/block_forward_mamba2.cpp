#include <cmath>
#include <limits>

#include "block_body.h"

// mamba2: sizes in, out, ngroups, heads_per_group, headdim, d_state, d_conv, d_mlp (0 if absent).
//   in_proj.weight has the rows z0 (d_mlp), x0 (d_mlp), z, x (d_ssm), B, C (ngroups d_state),
//   dt (heads), where heads = ngroups heads_per_group and d_ssm = heads headdim; conv1d.weight
//   over x, B, C; dt_bias, A_log (heads); D (heads) or (d_ssm); norm.weight (d_ssm) if it is
//   gated by a norm; out_proj.weight (out, d_mlp + d_ssm); the biases of in_proj, conv1d and
//   out_proj, and init_states (heads, headdim, d_state), if there are any.
//   Numbers: norm_eps (1e-5), norm_groups (1), norm_before_gate (0); dt_min, dt_max, which clamp
//   the step size after softplus; Falcon-H1's z_multiplier, x_multiplier, b_multiplier,
//   c_multiplier and dt_multiplier of what in_proj gives.

namespace icd {
namespace {

template <typename Real>
class Mamba2 : public BlockBody<Real> {
 public:
  Mamba2(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        ngroups_(weights.size("ngroups")),
        heads_(ngroups_ * weights.size("heads_per_group")),
        headdim_(weights.size("headdim")),
        d_state_(weights.size("d_state")),
        d_mlp_(weights.size("d_mlp", 0)),
        d_ssm_(heads_ * headdim_),
        conv_channels_(d_ssm_ + 2 * ngroups_ * d_state_),
        dt_bias_(weights.tensor("dt_bias", {heads_})),
        norm_(weights.optional("norm.weight", {d_ssm_})),
        init_states_(weights.optional("init_states", {heads_, headdim_, d_state_})),
        norm_eps_(weights.number("norm_eps", 1e-5)),
        norm_groups_(static_cast<std::int64_t>(weights.number("norm_groups", 1))),
        norm_before_gate_(weights.is_set("norm_before_gate")),
        dt_min_(static_cast<Real>(weights.number("dt_min", 0))),
        dt_max_(
            static_cast<Real>(weights.number("dt_max", std::numeric_limits<double>::infinity()))),
        factors_{.z = static_cast<Real>(weights.number("z_multiplier", 1)),
                 .x = static_cast<Real>(weights.number("x_multiplier", 1)),
                 .b = static_cast<Real>(weights.number("b_multiplier", 1)),
                 .c = static_cast<Real>(weights.number("c_multiplier", 1)),
                 .dt = static_cast<Real>(weights.number("dt_multiplier", 1))},
        convolution_{weights.tensor("conv1d.weight", {conv_channels_, 1, weights.size("d_conv")}),
                     weights.optional("conv1d.bias", {conv_channels_}), conv_channels_},
        rates_(mean_rates<Real>(math, weights.tensor("A_log", {heads_}), heads_)),
        d_(skip_of_channels(weights)) {
    const std::int64_t rows = 2 * d_mlp_ + d_ssm_ + conv_channels_ + heads_;
    const auto in_proj = weights.tensor("in_proj.weight", {rows, inputs_});
    const auto bias = weights.optional("in_proj.bias", {rows});
    const auto part = [&](std::int64_t begin, std::int64_t count) {
      return math.product(rows_of(in_proj, begin, count, inputs_), rows_of(bias, begin, count),
                          count, inputs_);
    };
    if (d_mlp_ > 0) mlp_ = part(0, 2 * d_mlp_);
    z_ = part(2 * d_mlp_, d_ssm_);
    x_b_c_ = part(2 * d_mlp_ + d_ssm_, conv_channels_);
    dt_ = part(2 * d_mlp_ + d_ssm_ + conv_channels_, heads_);
    out_proj_ =
        math.product(weights.tensor("out_proj.weight", {outputs_, d_mlp_ + d_ssm_}),
                     weights.optional("out_proj.bias", {outputs_}), outputs_, d_mlp_ + d_ssm_);
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& observer) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> inner(rows, d_mlp_ + d_ssm_);  // what out_proj reads: the MLP part, then the scan's
    if (d_mlp_ > 0) run_mlp(rows, x, inner);

    const Rows<Real> x_b_c = convolved(shape, x);
    show(observer, Site::conv, x_b_c, rows, conv_channels_);
    const Rows<Real> dt = step_sizes(rows, x);
    show(observer, Site::dt, dt, rows, heads_);
    show_decay<Real>(observer, dt, rates_, rows);
    scan(shape, x_b_c, dt, inner);

    Rows<Real> z(rows, d_ssm_);
    z_->apply(x, inputs_, rows, z[0], d_ssm_);
    math_.each(rows, [&](std::int64_t row) {
      scale(z[row], d_ssm_, factors_.z);
      math_.silu(z[row], d_ssm_);
      gate(inner[row] + d_mlp_, z[row]);
    });
    show(observer, Site::gated, inner, rows, inner.width());
    out_proj_->apply(inner[0], inner.width(), rows, y, outputs_);
  }

 private:
  struct Factors {
    Real z;
    Real x;
    Real b;
    Real c;
    Real dt;
  };

  /// D of every channel.
  std::vector<Real> skip_of_channels(const BlockWeights<Real>& weights) const {
    if (weights.shape("D", 1)[0] == d_ssm_) return weights.tensor("D", {d_ssm_});
    const auto of_heads = weights.tensor("D", {heads_});
    std::vector<Real> out;
    for (const Real d : of_heads) out.insert(out.end(), static_cast<std::size_t>(headdim_), d);
    return out;
  }

  void run_mlp(std::int64_t rows, const Real* x, Rows<Real>& inner) const {
    Rows<Real> gate_and_value(rows, 2 * d_mlp_);
    mlp_->apply(x, inputs_, rows, gate_and_value[0], 2 * d_mlp_);
    math_.each(rows, [&](std::int64_t row) {
      Real* gate = gate_and_value[row];
      math_.silu(gate, d_mlp_);
      for (std::int64_t i = 0; i < d_mlp_; ++i) inner[row][i] = gate[i] * gate[d_mlp_ + i];
    });
  }

  /// x, B and C after convolution and SiLU.
  Rows<Real> convolved(BatchShape shape, const Real* x) const {
    const std::int64_t rows = shape.rows();
    const std::int64_t bc = ngroups_ * d_state_;
    Rows<Real> in(rows, conv_channels_);
    x_b_c_->apply(x, inputs_, rows, in[0], conv_channels_);
    math_.each(rows, [&](std::int64_t row) {
      scale(in[row], d_ssm_, factors_.x);
      scale(in[row] + d_ssm_, bc, factors_.b);
      scale(in[row] + d_ssm_ + bc, bc, factors_.c);
    });
    Rows<Real> out(rows, conv_channels_);
    convolution_.apply_silu(math_, shape, in[0], conv_channels_, out[0], conv_channels_);
    return out;
  }

  Rows<Real> step_sizes(std::int64_t rows, const Real* x) const {
    Rows<Real> dt(rows, heads_);
    dt_->apply(x, inputs_, rows, dt[0], heads_);
    math_.each(rows, [&](std::int64_t row) {
      scale(dt[row], heads_, factors_.dt);
      add_scaled(dt[row], Real(1), dt_bias_.data(), heads_);
      math_.softplus(dt[row], heads_);
      for (std::int64_t h = 0; h < heads_; ++h) {
        dt[row][h] = std::min(std::max(dt[row][h], dt_min_), dt_max_);
      }
    });
    return dt;
  }

  /// s = exp(dt A) s + B (dt x)^T;  y = C s + D x, head by head.
  void scan(BatchShape shape, const Rows<Real>& x_b_c, const Rows<Real>& dt,
            Rows<Real>& inner) const {
    Rows<Real> decay(shape.rows(), heads_);
    math_.each(shape.rows(), [&](std::int64_t row) {
      for (std::int64_t h = 0; h < heads_; ++h) {
        decay[row][h] = -dt[row][h] * rates_[static_cast<std::size_t>(h)];
      }
      math_.exp(decay[row], heads_);
    });
    math_.each(shape.sequences * heads_, [&](std::int64_t task) {
      const std::int64_t h = task % heads_;
      const std::int64_t group = h / (heads_ / ngroups_);
      std::vector<Real> state = first_state(h);
      std::vector<Real> input(static_cast<std::size_t>(headdim_));
      for (std::int64_t t = 0; t < shape.length; ++t) {
        const std::int64_t row = task / heads_ * shape.length + t;
        const Real* x = x_b_c[row] + h * headdim_;
        const Real* b = x_b_c[row] + d_ssm_ + group * d_state_;
        const Real* c = b + ngroups_ * d_state_;
        Real* y = inner[row] + d_mlp_ + h * headdim_;
        for (std::int64_t p = 0; p < headdim_; ++p) {
          input[static_cast<std::size_t>(p)] = dt[row][h] * x[p];
        }
        advance(decay[row][h], b, input.data(), c, state.data(), y);
        const Real* d = d_.data() + h * headdim_;
        for (std::int64_t p = 0; p < headdim_; ++p) y[p] += d[p] * x[p];
      }
    });
  }

  /// (d_state, headdim)
  std::vector<Real> first_state(std::int64_t h) const {
    std::vector<Real> state(static_cast<std::size_t>(d_state_ * headdim_));
    const auto own = rows_of(init_states_, h * headdim_, headdim_, d_state_);
    for (std::size_t i = 0; i < own.size(); ++i) {
      const auto p = static_cast<std::int64_t>(i) / d_state_;
      const auto n = static_cast<std::int64_t>(i) % d_state_;
      state[static_cast<std::size_t>(n * headdim_ + p)] = own[i];
    }
    return state;
  }

  /// state = decay state + b input^T;  y = c state, in one pass over the state.
  void advance(Real decay, const Real* b, const Real* __restrict input, const Real* c,
               Real* __restrict state, Real* __restrict y) const {
    std::fill_n(y, headdim_, Real(0));
    for (std::int64_t n = 0; n < d_state_; ++n, state += headdim_) {
      for (std::int64_t p = 0; p < headdim_; ++p) {
        state[p] = decay * state[p] + b[n] * input[p];
        y[p] += c[n] * state[p];
      }
    }
  }

  /// `z` has passed SiLU.
  void gate(Real* y, const Real* z) const {
    const auto multiply = [&] {
      for (std::int64_t i = 0; i < d_ssm_; ++i) y[i] *= z[i];
    };
    if (norm_.empty()) return multiply();
    if (!norm_before_gate_) multiply();
    const std::int64_t size = d_ssm_ / norm_groups_;
    for (std::int64_t group = 0; group < norm_groups_; ++group) {
      math_.norm(y + group * size, rows_of(norm_, group * size, size), {}, false, norm_eps_,
                 y + group * size);
    }
    if (norm_before_gate_) multiply();
  }

  const BlockMath<Real>& math_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  std::int64_t ngroups_;
  std::int64_t heads_;
  std::int64_t headdim_;
  std::int64_t d_state_;
  std::int64_t d_mlp_;
  std::int64_t d_ssm_;
  std::int64_t conv_channels_;
  std::vector<Real> dt_bias_;
  std::vector<Real> norm_;         // empty: no norm
  std::vector<Real> init_states_;  // empty: 0
  double norm_eps_;
  std::int64_t norm_groups_;
  bool norm_before_gate_;
  Real dt_min_;
  Real dt_max_;
  Factors factors_;
  Convolution<Real> convolution_;
  std::vector<Real> rates_;  // (heads): |A|
  std::vector<Real> d_;      // (d_ssm)
  std::unique_ptr<Product<Real>> mlp_;
  std::unique_ptr<Product<Real>> z_;
  std::unique_ptr<Product<Real>> x_b_c_;
  std::unique_ptr<Product<Real>> dt_;
  std::unique_ptr<Product<Real>> out_proj_;
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba2_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math) {
  return std::make_unique<Mamba2<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> mamba2_body(const BlockWeights<float>&,
                                                       const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mamba2_body(const BlockWeights<double>&,
                                                        const BlockMath<double>&);

}  // namespace icd
