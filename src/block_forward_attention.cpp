#include <algorithm>
#include <cmath>

#include "block_body.h"

// attention: sizes in, out, n_heads, n_kv_heads, head_dim; q_proj, k_proj, v_proj, o_proj
//   (.weight, and .bias if there is one). Numbers: scale of the scores (head_dim^-0.5),
//   key_multiplier (1).
// rotary_attention: the same, with positions: the leading rotary_fraction (1) of the channels of
//   a head are turned, the first half of them with the second, by frequencies from rope_theta
//   (10000) on.
// attention_packed, rotary_attention_packed: mamba-ssm's MHA. in_proj.weight has the rows q, k, v,
//   and where the size d_mlp is not 0, up and gate (d_mlp each) of an MLP whose hidden channels
//   follow the heads' in out_proj; conv1d, without SiLU, over q, k and v if there is one. The
//   number rotary_dim (0) says how many channels are turned.

namespace icd {
namespace {

struct HeadShape {
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;
  std::int64_t head_dim = 0;

  std::int64_t queries() const { return heads * head_dim; }
  std::int64_t keys() const { return kv_heads * head_dim; }

  template <typename Real>
  static HeadShape of(const BlockWeights<Real>& weights) {
    return {.heads = weights.size("n_heads"),
            .kv_heads = weights.size("n_kv_heads"),
            .head_dim = weights.size("head_dim")};
  }
};

/// Rotary embedding of positions. Angles are in double: at position 10^5, f32 has lost 2 digits.
template <typename Real>
class Rotation {
 public:
  explicit Rotation(const BlockWeights<Real>& weights) {
    const double all = static_cast<double>(weights.size("head_dim"));
    const double rotated = weights.type() == "rotary_attention"
                               ? weights.number("rotary_fraction", 1) * all
                               : weights.number("rotary_dim", 0);
    const double theta = weights.number("rope_theta", 10000);
    const auto width = static_cast<std::int64_t>(rotated);
    for (std::int64_t i = 0; i < width / 2; ++i) {
      frequencies_.push_back(
          std::pow(theta, -2 * static_cast<double>(i) / static_cast<double>(width)));
    }
  }

  /// Turns all heads of one row.
  void apply(std::int64_t position, std::int64_t heads, std::int64_t head_dim, Real* row) const {
    const auto half = std::ssize(frequencies_);
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle =
          static_cast<double>(position) * frequencies_[static_cast<std::size_t>(i)];
      const Real cosine = static_cast<Real>(std::cos(angle));
      const Real sine = static_cast<Real>(std::sin(angle));
      for (std::int64_t h = 0; h < heads; ++h) {
        Real& a = row[h * head_dim + i];
        Real& b = row[h * head_dim + half + i];
        const Real turned = a * cosine - b * sine;
        b = b * cosine + a * sine;
        a = turned;
      }
    }
  }

 private:
  std::vector<double> frequencies_;  // empty: none
};

/// Causal softmax attention over rows of projected queries, keys and values.
template <typename Real>
class Attention {
 public:
  Attention(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        heads_(HeadShape::of(weights)),
        rotation_(weights),
        scale_(static_cast<Real>(
            weights.number("scale", 1 / std::sqrt(static_cast<double>(heads_.head_dim))))) {}

  /// q is (rows, heads head_dim), k and v (rows, kv_heads head_dim), rows ld apart; q and k are
  /// turned in place. `out` is as q, rows ld_out apart.
  void run(BatchShape shape, Real* q, std::int64_t ld_q, Real* k, const Real* v, std::int64_t ld_kv,
           Real* out, std::int64_t ld_out) const {
    math_.each(shape.rows(), [&](std::int64_t row) {
      rotation_.apply(row % shape.length, heads_.heads, heads_.head_dim, q + row * ld_q);
      rotation_.apply(row % shape.length, heads_.kv_heads, heads_.head_dim, k + row * ld_kv);
    });
    math_.each(shape.sequences * heads_.heads, [&](std::int64_t task) {
      const std::int64_t row = task / heads_.heads * shape.length;
      const std::int64_t h = task % heads_.heads;
      const std::int64_t kv = h / (heads_.heads / heads_.kv_heads) * heads_.head_dim;
      head(shape.length, q + row * ld_q + h * heads_.head_dim, ld_q, k + row * ld_kv + kv,
           v + row * ld_kv + kv, ld_kv, out + row * ld_out + h * heads_.head_dim, ld_out);
    });
  }

 private:
  void head(std::int64_t length, const Real* q, std::int64_t ld_q, const Real* k, const Real* v,
            std::int64_t ld_kv, Real* out, std::int64_t ld_out) const {
    const std::int64_t head_dim = heads_.head_dim;
    Rows<Real> keys(head_dim, length);  // transposed: scores of a query grow a channel at a time
    for (std::int64_t t = 0; t < length; ++t) {
      for (std::int64_t c = 0; c < head_dim; ++c) keys[c][t] = k[t * ld_kv + c];
    }
    std::vector<Real> scores(static_cast<std::size_t>(length));
    for (std::int64_t t = 0; t < length; ++t) {
      const std::int64_t seen = t + 1;
      std::fill_n(scores.begin(), seen, Real(0));
      for (std::int64_t c = 0; c < head_dim; ++c) {
        add_scaled(scores.data(), q[t * ld_q + c] * scale_, keys[c], seen);
      }
      const Real largest = *std::max_element(scores.begin(), scores.begin() + seen);
      for (std::int64_t i = 0; i < seen; ++i) scores[static_cast<std::size_t>(i)] -= largest;
      math_.exp(scores.data(), seen);
      Real sum = 0;
      for (std::int64_t i = 0; i < seen; ++i) sum += scores[static_cast<std::size_t>(i)];
      Real* to = out + t * ld_out;
      std::fill_n(to, head_dim, Real(0));
      for (std::int64_t i = 0; i < seen; ++i) {
        add_scaled(to, scores[static_cast<std::size_t>(i)] / sum, v + i * ld_kv, head_dim);
      }
    }
  }

  const BlockMath<Real>& math_;
  HeadShape heads_;
  Rotation<Real> rotation_;
  Real scale_;
};

template <typename Real>
class SplitAttention : public BlockBody<Real> {
 public:
  SplitAttention(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        heads_(HeadShape::of(weights)),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        key_multiplier_(static_cast<Real>(weights.number("key_multiplier", 1))),
        q_(projection(weights, "q_proj", heads_.queries(), inputs_)),
        k_(projection(weights, "k_proj", heads_.keys(), inputs_)),
        v_(projection(weights, "v_proj", heads_.keys(), inputs_)),
        o_(projection(weights, "o_proj", outputs_, heads_.queries())),
        attention_(weights, math) {}

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> q(rows, heads_.queries());
    Rows<Real> k(rows, heads_.keys());
    Rows<Real> v(rows, heads_.keys());
    q_->apply(x, inputs_, rows, q[0], q.width());
    k_->apply(x, inputs_, rows, k[0], k.width());
    v_->apply(x, inputs_, rows, v[0], v.width());
    scale(k[0], rows * k.width(), key_multiplier_);
    Rows<Real> mixed(rows, heads_.queries());
    attention_.run(shape, q[0], q.width(), k[0], v[0], k.width(), mixed[0], mixed.width());
    o_->apply(mixed[0], mixed.width(), rows, y, outputs_);
  }

 private:
  std::unique_ptr<Product<Real>> projection(const BlockWeights<Real>& weights,
                                            const std::string& name, std::int64_t outputs,
                                            std::int64_t inputs) const {
    return math_.product(weights.tensor(name + ".weight", {outputs, inputs}),
                         weights.optional(name + ".bias", {outputs}), outputs, inputs);
  }

  const BlockMath<Real>& math_;
  HeadShape heads_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  Real key_multiplier_;
  std::unique_ptr<Product<Real>> q_;
  std::unique_ptr<Product<Real>> k_;
  std::unique_ptr<Product<Real>> v_;
  std::unique_ptr<Product<Real>> o_;
  Attention<Real> attention_;
};

template <typename Real>
class PackedAttention : public BlockBody<Real> {
 public:
  PackedAttention(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        heads_(HeadShape::of(weights)),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        d_mlp_(weights.size("d_mlp", 0)),
        qkv_(heads_.queries() + 2 * heads_.keys()),
        attention_(weights, math) {
    const std::int64_t rows = qkv_ + 2 * d_mlp_;
    const std::int64_t hidden = heads_.queries() + d_mlp_;
    in_proj_ = math.product(weights.tensor("in_proj.weight", {rows, inputs_}),
                            weights.optional("in_proj.bias", {rows}), rows, inputs_);
    out_proj_ = math.product(weights.tensor("out_proj.weight", {outputs_, hidden}),
                             weights.optional("out_proj.bias", {outputs_}), outputs_, hidden);
    if (weights.has("conv1d.weight")) {
      convolution_ = std::make_unique<Convolution<Real>>(
          weights.tensor("conv1d.weight", {qkv_, 1, weights.size("d_conv")}),
          weights.optional("conv1d.bias", {qkv_}), qkv_);
    }
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> projected(rows, qkv_ + 2 * d_mlp_);
    in_proj_->apply(x, inputs_, rows, projected[0], projected.width());
    Rows<Real> hidden(rows, heads_.queries() + d_mlp_);
    math_.each(rows, [&](std::int64_t row) {
      const Real* up = projected[row] + qkv_;
      Real* gate = projected[row] + qkv_ + d_mlp_;
      math_.silu(gate, d_mlp_);
      Real* to = hidden[row] + heads_.queries();
      for (std::int64_t i = 0; i < d_mlp_; ++i) to[i] = up[i] * gate[i];
    });
    Rows<Real> qkv(rows, qkv_);
    if (convolution_) {
      convolution_->apply(math_, shape, projected[0], projected.width(), qkv[0], qkv_);
    } else {
      for (std::int64_t row = 0; row < rows; ++row) std::copy_n(projected[row], qkv_, qkv[row]);
    }
    Real* k = qkv[0] + heads_.queries();
    attention_.run(shape, qkv[0], qkv_, k, k + heads_.keys(), qkv_, hidden[0], hidden.width());
    out_proj_->apply(hidden[0], hidden.width(), rows, y, outputs_);
  }

 private:
  const BlockMath<Real>& math_;
  HeadShape heads_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  std::int64_t d_mlp_;
  std::int64_t qkv_;
  Attention<Real> attention_;
  std::unique_ptr<Product<Real>> in_proj_;
  std::unique_ptr<Product<Real>> out_proj_;
  std::unique_ptr<Convolution<Real>> convolution_;  // null: none
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> attention_body(const BlockWeights<Real>& weights,
                                                const BlockMath<Real>& math) {
  return std::make_unique<SplitAttention<Real>>(weights, math);
}
template <typename Real>
std::unique_ptr<BlockBody<Real>> attention_packed_body(const BlockWeights<Real>& weights,
                                                       const BlockMath<Real>& math) {
  return std::make_unique<PackedAttention<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> attention_body(const BlockWeights<float>&,
                                                          const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> attention_body(const BlockWeights<double>&,
                                                           const BlockMath<double>&);
template std::unique_ptr<BlockBody<float>> attention_packed_body(const BlockWeights<float>&,
                                                                 const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> attention_packed_body(const BlockWeights<double>&,
                                                                  const BlockMath<double>&);

}  // namespace icd
