#include <cmath>
#include <utility>

#include "block_body.h"

// Mamba-1 and what is made of its scan.
//
// mamba1: sizes in, out, d_inner, d_state, dt_rank, d_conv; in_proj.weight (2 d_inner, in), rows
//   x, then z; conv1d.weight, x_proj.weight, dt_proj.weight, dt_proj.bias, A_log, D,
//   out_proj.weight; the biases of in_proj, conv1d and out_proj if there are any. With the number
//   mixer_norm_eps, dt, B and C pass an RMSNorm each, by {dt,b,c}_layernorm.weight where the
//   checkpoint has it (Jamba) and without weights where not (FalconMamba).
// mamba1_heads: sizes nheads, headdim, d_state, dt_rank, d_conv, in, out; rows of in_proj are x
//   and z in turn; x_proj_weight, dt_proj_weight, dt_proj_bias, A_log and D begin with a head
//   axis (Zamba).
// mamba1_bidirectional: as mamba1, with a second scan from the end of the sequence, of its own
//   conv1d_b, x_proj_b, dt_proj_b, A_b_log and D_b (Vim's v2). The sum of both is halved if the
//   number divide_out is set.
// mamba1_two_a: the same, but only A_b_log is the second scan's own; convolution, B, C and dt are
//   those of the first (Vim's v1).

namespace icd {
namespace {

/// What the scan of one direction, or of one head, is made of.
template <typename Real>
struct ScanWeights {
  std::vector<Real> conv;       ///< (channels, d_conv)
  std::vector<Real> conv_bias;  ///< (channels) or empty
  std::vector<Real> x_proj;     ///< (dt_rank + 2 d_state, channels)
  std::vector<Real> dt_proj;    ///< (channels, dt_rank)
  std::vector<Real> dt_bias;    ///< (channels)
  std::vector<Real> a_log;      ///< (channels, d_state)
  std::vector<Real> d;          ///< (channels)
};

/// RMSNorms of dt, B and C; all empty: none.
template <typename Real>
struct InnerNorms {
  std::vector<Real> dt;
  std::vector<Real> b;
  std::vector<Real> c;
  double epsilon = 0;

  static InnerNorms of(const BlockWeights<Real>& weights) {
    if (!weights.has_number("mixer_norm_eps")) return {};
    const auto read = [&](const char* role, std::int64_t size) {
      return weights.has(role) ? weights.tensor(role, {size})
                               : std::vector<Real>(static_cast<std::size_t>(size), Real(1));
    };
    return {.dt = read("dt_layernorm.weight", weights.size("dt_rank")),
            .b = read("b_layernorm.weight", weights.size("d_state")),
            .c = read("c_layernorm.weight", weights.size("d_state")),
            .epsilon = weights.number("mixer_norm_eps", 0)};
  }
};

/// x after convolution and SiLU, the step size after softplus, and B and C, all of them by row.
template <typename Real>
struct ScanInputs {
  Rows<Real> x;
  Rows<Real> dt;
  Rows<Real> dt_b_c;
};

/// Rows of every sequence in the opposite order.
template <typename Real>
Rows<Real> reversed(const Rows<Real>& rows, BatchShape shape) {
  Rows<Real> out(shape.rows(), rows.width());
  for (std::int64_t s = 0; s < shape.sequences; ++s) {
    for (std::int64_t t = 0; t < shape.length; ++t) {
      std::copy_n(rows[s * shape.length + t], rows.width(), out[(s + 1) * shape.length - 1 - t]);
    }
  }
  return out;
}

/// Convolution, x_proj, dt_proj and scan over some channels, whose rows have the scan's width.
template <typename Real>
class ScanPath {
 public:
  ScanPath(const ScanWeights<Real>& weights, InnerNorms<Real> norms, const BlockMath<Real>& math)
      : math_(math),
        channels_(std::ssize(weights.d)),
        d_state_(channels_ == 0 ? 0 : std::ssize(weights.a_log) / channels_),
        dt_rank_(channels_ == 0 ? 0 : std::ssize(weights.dt_proj) / channels_),
        norms_(std::move(norms)),
        convolution_(weights.conv, weights.conv_bias, channels_),
        x_proj_(math.product(weights.x_proj, {}, dt_rank_ + 2 * d_state_, channels_)),
        dt_proj_(math.product(weights.dt_proj, weights.dt_bias, channels_, dt_rank_)),
        rates_(math.scan_rates(weights.a_log, channels_, d_state_)),
        mean_rates_(mean_rates<Real>(math, weights.a_log, channels_)),
        d_(weights.d) {
    d_.resize(static_cast<std::size_t>(math.padded(channels_)));
  }

  ScanInputs<Real> inputs(BatchShape shape, const Rows<Real>& x) const {
    const std::int64_t rows = shape.rows();
    ScanInputs<Real> at = {
        .x = {rows, x.width()}, .dt = {rows, x.width()}, .dt_b_c = {rows, dt_rank_ + 2 * d_state_}};
    convolution_.apply_silu(math_, shape, x[0], x.width(), at.x[0], at.x.width());
    x_proj_->apply(at.x[0], at.x.width(), rows, at.dt_b_c[0], at.dt_b_c.width());
    if (!norms_.dt.empty()) {
      math_.each(rows, [&](std::int64_t row) {
        Real* dt = at.dt_b_c[row];
        Real* b = dt + dt_rank_;
        Real* c = b + d_state_;
        math_.norm(dt, norms_.dt, {}, false, norms_.epsilon, dt);
        math_.norm(b, norms_.b, {}, false, norms_.epsilon, b);
        math_.norm(c, norms_.c, {}, false, norms_.epsilon, c);
      });
    }
    dt_proj_->apply(at.dt_b_c[0], at.dt_b_c.width(), rows, at.dt[0], at.dt.width());
    math_.each(rows, [&](std::int64_t row) { math_.softplus(at.dt[row], channels_); });
    return at;
  }

  /// The gated outputs take the place of `at.x`.
  void scan(BatchShape shape, ScanInputs<Real>& at, const Rows<Real>& z) const {
    math_.scan({.shape = shape,
                .channels = channels_,
                .states = d_state_,
                .x = at.x[0],
                .dt = at.dt[0],
                .z = z[0],
                .b = at.dt_b_c[0] + dt_rank_,
                .c = at.dt_b_c[0] + dt_rank_ + d_state_,
                .ld_bc = at.dt_b_c.width(),
                .rates = rates_.data(),
                .d = d_.data(),
                .y = at.x[0]});
  }

  Rows<Real> run(BatchShape shape, const Rows<Real>& x, const Rows<Real>& z,
                 const LayerObserver<Real>& observer = {}) const {
    ScanInputs<Real> at = inputs(shape, x);
    show(observer, Site::conv, at.x, shape.rows(), channels_);
    show(observer, Site::x_proj, at.dt_b_c, shape.rows(), at.dt_b_c.width());
    show(observer, Site::dt, at.dt, shape.rows(), channels_);
    show_decay<Real>(observer, at.dt, mean_rates_, shape.rows());
    scan(shape, at, z);
    show(observer, Site::gated, at.x, shape.rows(), channels_);
    return std::move(at.x);
  }

 private:
  const BlockMath<Real>& math_;
  std::int64_t channels_;
  std::int64_t d_state_;
  std::int64_t dt_rank_;
  InnerNorms<Real> norms_;
  Convolution<Real> convolution_;
  std::unique_ptr<Product<Real>> x_proj_;
  std::unique_ptr<Product<Real>> dt_proj_;
  std::vector<Real> rates_;
  std::vector<Real> mean_rates_;  // (channels)
  std::vector<Real> d_;
};

/// Rows of in_proj to x and z of some channels.
template <typename Real>
class InProjection {
 public:
  /// Channel c reads rows x_row + c * stride and z_row + c * stride of in_proj.
  InProjection(const std::vector<Real>& weight, const std::vector<Real>& bias, std::int64_t inputs,
               std::int64_t channels, std::int64_t x_row, std::int64_t z_row, std::int64_t stride,
               const BlockMath<Real>& math)
      : inputs_(inputs),
        width_(math.padded(channels)),
        x_(every(weight, bias, channels, x_row, stride, math)),
        z_(every(weight, bias, channels, z_row, stride, math)) {}

  std::pair<Rows<Real>, Rows<Real>> apply(std::int64_t rows, const Real* in) const {
    std::pair<Rows<Real>, Rows<Real>> out = {{rows, width_}, {rows, width_}};
    x_->apply(in, inputs_, rows, out.first[0], width_);
    z_->apply(in, inputs_, rows, out.second[0], width_);
    return out;
  }

 private:
  std::unique_ptr<Product<Real>> every(const std::vector<Real>& weight,
                                       const std::vector<Real>& bias, std::int64_t channels,
                                       std::int64_t first, std::int64_t stride,
                                       const BlockMath<Real>& math) const {
    std::vector<Real> own_weight;
    std::vector<Real> own_bias;
    for (std::int64_t c = 0; c < channels; ++c) {
      const auto row = rows_of(weight, first + c * stride, 1, inputs_);
      own_weight.insert(own_weight.end(), row.begin(), row.end());
      const auto value = rows_of(bias, first + c * stride, 1);
      own_bias.insert(own_bias.end(), value.begin(), value.end());
    }
    return math.product(own_weight, own_bias, channels, inputs_);
  }

  std::int64_t inputs_;
  std::int64_t width_;
  std::unique_ptr<Product<Real>> x_;
  std::unique_ptr<Product<Real>> z_;
};

template <typename Real>
std::unique_ptr<Product<Real>> out_projection(const BlockWeights<Real>& weights,
                                              std::int64_t d_inner, const BlockMath<Real>& math) {
  const std::int64_t out = weights.size("out");
  return math.product(weights.tensor("out_proj.weight", {out, d_inner}),
                      weights.optional("out_proj.bias", {out}), out, d_inner);
}

template <typename Real>
InProjection<Real> halves(const BlockWeights<Real>& weights, const BlockMath<Real>& math) {
  const std::int64_t in = weights.size("in");
  const std::int64_t d_inner = weights.size("d_inner");
  return InProjection<Real>(weights.tensor("in_proj.weight", {2 * d_inner, in}),
                            weights.optional("in_proj.bias", {2 * d_inner}), in, d_inner, 0,
                            d_inner, 1, math);
}

/// `direction` stands in the names of a second one: "_b".
template <typename Real>
ScanWeights<Real> scan_weights(const BlockWeights<Real>& weights, const std::string& direction) {
  const std::int64_t d_inner = weights.size("d_inner");
  const std::int64_t d_state = weights.shape("A" + direction + "_log", 2)[1];
  const std::int64_t dt_rank = weights.shape("dt_proj" + direction + ".weight", 2)[1];
  return {
      .conv =
          weights.tensor("conv1d" + direction + ".weight", {d_inner, 1, weights.size("d_conv")}),
      .conv_bias = weights.optional("conv1d" + direction + ".bias", {d_inner}),
      .x_proj = weights.tensor("x_proj" + direction + ".weight", {dt_rank + 2 * d_state, d_inner}),
      .dt_proj = weights.tensor("dt_proj" + direction + ".weight", {d_inner, dt_rank}),
      .dt_bias = weights.tensor("dt_proj" + direction + ".bias", {d_inner}),
      .a_log = weights.tensor("A" + direction + "_log", {d_inner, d_state}),
      .d = weights.tensor("D" + direction, {d_inner})};
}

template <typename Real>
class Mamba1 : public BlockBody<Real> {
 public:
  Mamba1(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : in_proj_(halves(weights, math)),
        path_(scan_weights(weights, ""), InnerNorms<Real>::of(weights), math),
        out_proj_(out_projection(weights, weights.size("d_inner"), math)),
        outputs_(weights.size("out")) {}

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& observer) const override {
    const auto [inner, z] = in_proj_.apply(shape.rows(), x);
    const Rows<Real> gated = path_.run(shape, inner, z, observer);
    out_proj_->apply(gated[0], gated.width(), shape.rows(), y, outputs_);
  }

 private:
  InProjection<Real> in_proj_;
  ScanPath<Real> path_;
  std::unique_ptr<Product<Real>> out_proj_;
  std::int64_t outputs_;
};

template <typename Real>
class BidirectionalMamba1 : public BlockBody<Real> {
 public:
  BidirectionalMamba1(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : shares_inputs_(weights.type() == "mamba1_two_a"),
        factor_(weights.is_set("divide_out") ? Real(0.5) : Real(1)),
        in_proj_(halves(weights, math)),
        forward_(scan_weights(weights, ""), InnerNorms<Real>(), math),
        backward_(backward_weights(weights, shares_inputs_), InnerNorms<Real>(), math),
        out_proj_(out_projection(weights, weights.size("d_inner"), math)),
        outputs_(weights.size("out")) {}

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    const auto [inner, z] = in_proj_.apply(shape.rows(), x);
    ScanInputs<Real> at = forward_.inputs(shape, inner);
    ScanInputs<Real> back = shares_inputs_ ? ScanInputs<Real>{.x = reversed(at.x, shape),
                                                              .dt = reversed(at.dt, shape),
                                                              .dt_b_c = reversed(at.dt_b_c, shape)}
                                           : backward_.inputs(shape, reversed(inner, shape));
    forward_.scan(shape, at, z);
    backward_.scan(shape, back, reversed(z, shape));
    const Rows<Real> from_end = reversed(back.x, shape);
    for (std::int64_t row = 0; row < shape.rows(); ++row) {
      add_scaled(at.x[row], Real(1), from_end[row], at.x.width());
      scale(at.x[row], at.x.width(), factor_);
    }
    out_proj_->apply(at.x[0], at.x.width(), shape.rows(), y, outputs_);
  }

 private:
  static ScanWeights<Real> backward_weights(const BlockWeights<Real>& weights, bool shares_inputs) {
    if (!shares_inputs) return scan_weights(weights, "_b");
    ScanWeights<Real> own = scan_weights(weights, "");
    own.a_log = weights.tensor("A_b_log", {weights.size("d_inner"), weights.size("d_state")});
    return own;
  }

  bool shares_inputs_;
  Real factor_;
  InProjection<Real> in_proj_;
  ScanPath<Real> forward_;
  ScanPath<Real> backward_;
  std::unique_ptr<Product<Real>> out_proj_;
  std::int64_t outputs_;
};

template <typename Real>
class Mamba1Heads : public BlockBody<Real> {
 public:
  Mamba1Heads(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : headdim_(weights.size("headdim")),
        d_inner_(weights.size("nheads") * headdim_),
        out_proj_(out_projection(weights, d_inner_, math)),
        outputs_(weights.size("out")) {
    const std::int64_t in = weights.size("in");
    const std::int64_t nheads = weights.size("nheads");
    const std::int64_t d_state = weights.size("d_state");
    const std::int64_t dt_rank = weights.size("dt_rank");
    const std::int64_t d_conv = weights.size("d_conv");
    const auto in_proj = weights.tensor("in_proj.weight", {2 * d_inner_, in});
    const auto in_bias = weights.optional("in_proj.bias", {2 * d_inner_});
    const auto conv = weights.tensor("conv1d.weight", {d_inner_, 1, d_conv});
    const auto conv_bias = weights.optional("conv1d.bias", {d_inner_});
    const auto x_proj = weights.tensor("x_proj_weight", {nheads, dt_rank + 2 * d_state, headdim_});
    const auto dt_proj = weights.tensor("dt_proj_weight", {nheads, headdim_, dt_rank});
    const auto dt_bias = weights.tensor("dt_proj_bias", {nheads, headdim_});
    const auto a_log = weights.tensor("A_log", {nheads, headdim_, d_state});
    const auto d = weights.tensor("D", {nheads, headdim_});
    for (std::int64_t h = 0; h < nheads; ++h) {
      const auto of_head = [&](const std::vector<Real>& tensor, std::int64_t elements) {
        const auto own = rows_of(tensor, h, 1, elements);
        return std::vector<Real>(own.begin(), own.end());
      };
      const ScanWeights<Real> own = {.conv = of_head(conv, headdim_ * d_conv),
                                     .conv_bias = of_head(conv_bias, headdim_),
                                     .x_proj = of_head(x_proj, (dt_rank + 2 * d_state) * headdim_),
                                     .dt_proj = of_head(dt_proj, headdim_ * dt_rank),
                                     .dt_bias = of_head(dt_bias, headdim_),
                                     .a_log = of_head(a_log, headdim_ * d_state),
                                     .d = of_head(d, headdim_)};
      in_proj_.emplace_back(in_proj, in_bias, in, headdim_, 2 * h * headdim_, 2 * h * headdim_ + 1,
                            2, math);
      paths_.emplace_back(own, InnerNorms<Real>(), math);
    }
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    Rows<Real> gated(shape.rows(), d_inner_);
    for (std::size_t h = 0; h < paths_.size(); ++h) {
      const auto [inner, z] = in_proj_[h].apply(shape.rows(), x);
      const Rows<Real> own = paths_[h].run(shape, inner, z);
      for (std::int64_t row = 0; row < shape.rows(); ++row) {
        std::copy_n(own[row], headdim_, gated[row] + static_cast<std::int64_t>(h) * headdim_);
      }
    }
    out_proj_->apply(gated[0], d_inner_, shape.rows(), y, outputs_);
  }

 private:
  std::int64_t headdim_;
  std::int64_t d_inner_;
  std::vector<InProjection<Real>> in_proj_;
  std::vector<ScanPath<Real>> paths_;
  std::unique_ptr<Product<Real>> out_proj_;
  std::int64_t outputs_;
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math) {
  return std::make_unique<Mamba1<Real>>(weights, math);
}
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_heads_body(const BlockWeights<Real>& weights,
                                                   const BlockMath<Real>& math) {
  return std::make_unique<Mamba1Heads<Real>>(weights, math);
}
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_bidirectional_body(const BlockWeights<Real>& weights,
                                                           const BlockMath<Real>& math) {
  return std::make_unique<BidirectionalMamba1<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> mamba1_body(const BlockWeights<float>&,
                                                       const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mamba1_body(const BlockWeights<double>&,
                                                        const BlockMath<double>&);
template std::unique_ptr<BlockBody<float>> mamba1_heads_body(const BlockWeights<float>&,
                                                             const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mamba1_heads_body(const BlockWeights<double>&,
                                                              const BlockMath<double>&);
template std::unique_ptr<BlockBody<float>> mamba1_bidirectional_body(const BlockWeights<float>&,
                                                                     const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mamba1_bidirectional_body(const BlockWeights<double>&,
                                                                      const BlockMath<double>&);

}  // namespace icd
