#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "block_body.h"
#include "icd/error.h"

// mlp: down(SiLU(gate(x)) * up(x)). gate_proj.weight, up_proj.weight, or both in one tensor,
//   gate_up_proj.weight, whose rows are gate, then up; down_proj.weight; biases if there are any.
//   With the number relu2 there is no gate: down(relu(up(x))^2). Falcon-H1's gate_multiplier and
//   down_multiplier.
// gated_mlp: mamba-ssm's, fc1.weight, whose rows are up, then gate, and fc2.weight.
// experts: router.weight (experts, in); the experts' tensors are those of mlp under
//   "experts.{e}.", or "experts.gate_up_proj" or "experts.up_proj", and "experts.down_proj", with
//   the experts as first axis. Size or number top_k. Which experts a row goes to, and by what
//   weight, is said by numbers:
//     none                 softmax over all, of which the top_k largest keep their share (Jamba)
//     softmax_after_top_k  softmax over the top_k largest (Granite)
//     sigmoid              sigmoids, chosen after router.bias is added, from the topk_group best
//                          of n_group groups; norm_topk_prob divides them by their sum,
//                          routed_scaling_factor multiplies them (Nemotron-H)
//   fc1_latent_proj and fc2_latent_proj stand before and behind the experts if they are there.

namespace icd {
namespace {

enum class Activation { silu_gate, squared_relu };

template <typename Real>
class HiddenLayer {
 public:
  HiddenLayer(std::span<const Real> gate, std::span<const Real> up, std::span<const Real> down,
              const Shape& down_shape, Activation activation, const BlockMath<Real>& math)
      : HiddenLayer({gate, {}}, {up, {}}, {down, {}}, down_shape, activation, math) {}

  struct Affine {
    std::span<const Real> weight;
    std::span<const Real> bias;
  };

  /// `down_shape` is (outputs, hidden); `gate` is empty for Activation::squared_relu.
  HiddenLayer(Affine gate, Affine up, Affine down, const Shape& down_shape, Activation activation,
              const BlockMath<Real>& math)
      : math_(math),
        outputs_(down_shape[0]),
        hidden_(down_shape[1]),
        inputs_(hidden_ == 0 ? 0 : std::ssize(up.weight) / hidden_),
        up_(math.product(up.weight, up.bias, hidden_, inputs_)),
        down_(math.product(down.weight, down.bias, outputs_, hidden_)) {
    if (activation == Activation::silu_gate) {
      gate_ = math.product(gate.weight, gate.bias, hidden_, inputs_);
    }
  }

  void multiply(Real gate, Real down) {
    gate_multiplier_ = gate;
    down_multiplier_ = down;
  }

  std::int64_t inputs() const { return inputs_; }
  std::int64_t outputs() const { return outputs_; }

  void run(std::int64_t rows, const Real* x, Real* y) const {
    Rows<Real> up(rows, hidden_);
    up_->apply(x, inputs_, rows, up[0], hidden_);
    if (gate_) {
      Rows<Real> gate(rows, hidden_);
      gate_->apply(x, inputs_, rows, gate[0], hidden_);
      math_.each(rows, [&](std::int64_t row) {
        scale(gate[row], hidden_, gate_multiplier_);
        math_.silu(gate[row], hidden_);
        for (std::int64_t i = 0; i < hidden_; ++i) up[row][i] *= gate[row][i];
      });
    } else {
      math_.each(rows, [&](std::int64_t row) {
        for (std::int64_t i = 0; i < hidden_; ++i) {
          const Real positive = std::max(up[row][i], Real(0));
          up[row][i] = positive * positive;
        }
      });
    }
    down_->apply(up[0], hidden_, rows, y, outputs_);
    scale(y, rows * outputs_, down_multiplier_);
  }

 private:
  const BlockMath<Real>& math_;
  std::int64_t outputs_;
  std::int64_t hidden_;
  std::int64_t inputs_;
  std::unique_ptr<Product<Real>> gate_;  // null: squared ReLU
  std::unique_ptr<Product<Real>> up_;
  std::unique_ptr<Product<Real>> down_;
  Real gate_multiplier_ = 1;
  Real down_multiplier_ = 1;
};

Activation activation_of(bool relu2) {
  return relu2 ? Activation::squared_relu : Activation::silu_gate;
}

/// An MLP whose tensors' roles begin with `prefix`.
template <typename Real>
HiddenLayer<Real> hidden_layer(const BlockWeights<Real>& weights, const std::string& prefix,
                               const BlockMath<Real>& math) {
  const bool fc = weights.has(prefix + "fc1.weight");
  const std::string down = prefix + (fc ? "fc2" : "down_proj");
  const Shape down_shape = weights.shape(down + ".weight", 2);
  const std::int64_t hidden = down_shape[1];
  const std::int64_t in = weights.size("latent", weights.size("in"));
  const auto down_weight = weights.tensor(down + ".weight", down_shape);
  const auto down_bias = weights.optional(down + ".bias", {down_shape[0]});
  const Activation activation = activation_of(weights.is_set("relu2"));

  const std::string fused = prefix + (fc ? "fc1" : "gate_up_proj");
  if (weights.has(fused + ".weight")) {
    const auto both = weights.tensor(fused + ".weight", {2 * hidden, in});
    const auto bias = weights.optional(fused + ".bias", {2 * hidden});
    const std::int64_t gate = fc ? hidden : 0;
    const std::int64_t up = hidden - gate;
    return HiddenLayer<Real>({rows_of(both, gate, hidden, in), rows_of(bias, gate, hidden)},
                             {rows_of(both, up, hidden, in), rows_of(bias, up, hidden)},
                             {down_weight, down_bias}, down_shape, activation, math);
  }
  const auto up = weights.tensor(prefix + "up_proj.weight", {hidden, in});
  const auto up_bias = weights.optional(prefix + "up_proj.bias", {hidden});
  const auto gate = activation == Activation::silu_gate
                        ? weights.tensor(prefix + "gate_proj.weight", {hidden, in})
                        : std::vector<Real>();
  const auto gate_bias = weights.optional(prefix + "gate_proj.bias", {hidden});
  return HiddenLayer<Real>({gate, gate_bias}, {up, up_bias}, {down_weight, down_bias}, down_shape,
                           activation, math);
}

template <typename Real>
class Mlp : public BlockBody<Real> {
 public:
  Mlp(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : layer_(hidden_layer(weights, "", math)) {
    layer_.multiply(static_cast<Real>(weights.number("gate_multiplier", 1)),
                    static_cast<Real>(weights.number("down_multiplier", 1)));
  }

  void run(BatchShape shape, const Real* x, Real* y) const override {
    layer_.run(shape.rows(), x, y);
  }

 private:
  HiddenLayer<Real> layer_;
};

/// The places of the `count` largest values, ties to the lower index; largest first.
template <typename Real>
std::vector<std::int64_t> largest(std::span<const Real> values, std::int64_t count) {
  std::vector<std::int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
    return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
  });
  order.resize(static_cast<std::size_t>(count));
  return order;
}

/// From the router's logits of a row to the weight of every expert, 0 for those not chosen.
template <typename Real>
class Router {
 public:
  Router(const BlockWeights<Real>& weights, std::int64_t experts, const BlockMath<Real>& math)
      : math_(math),
        experts_(experts),
        top_k_(weights.size("top_k", static_cast<std::int64_t>(weights.number("top_k", 0)))),
        softmax_after_(weights.is_set("softmax_after_top_k")),
        sigmoid_(weights.is_set("sigmoid")),
        norm_(weights.is_set("norm_topk_prob")),
        factor_(static_cast<Real>(weights.number("routed_scaling_factor", 1))),
        groups_(static_cast<std::int64_t>(weights.number("n_group", 1))),
        top_groups_(static_cast<std::int64_t>(weights.number("topk_group", 1))),
        bias_(weights.optional("router.bias", {experts})) {
    if (top_k_ < 1 || top_k_ > experts || groups_ < 1 || experts % groups_ != 0) {
      throw Error(ErrorCode::input,
                  fmt::format("router: {} of {} experts in {} groups are chosen, expected at least "
                              "one of them and groups of one size",
                              top_k_, experts, groups_));
    }
  }

  void route(Real* logits) const {
    const std::span<Real> row(logits, static_cast<std::size_t>(experts_));
    if (sigmoid_) return route_sigmoid(row);
    if (!softmax_after_) softmax(row);
    const auto chosen = largest<Real>(row, top_k_);
    std::vector<Real> weights;
    for (const std::int64_t e : chosen) weights.push_back(row[static_cast<std::size_t>(e)]);
    if (softmax_after_) softmax(weights);
    put(chosen, weights, row);
  }

 private:
  void softmax(std::span<Real> values) const {
    const Real top = *std::max_element(values.begin(), values.end());
    for (Real& value : values) value -= top;
    math_.exp(values.data(), std::ssize(values));
    const Real sum = std::accumulate(values.begin(), values.end(), Real(0));
    for (Real& value : values) value /= sum;
  }

  void route_sigmoid(std::span<Real> row) const {
    for (Real& value : row) value = -value;
    math_.exp(row.data(), experts_);
    for (Real& value : row) value = 1 / (1 + value);
    std::vector<Real> choice(row.begin(), row.end());
    if (!bias_.empty()) add_scaled(choice.data(), Real(1), bias_.data(), experts_);
    leave_out_groups(choice);
    const auto chosen = largest<Real>(choice, top_k_);
    std::vector<Real> weights;
    for (const std::int64_t e : chosen) weights.push_back(row[static_cast<std::size_t>(e)]);
    const Real sum = std::accumulate(weights.begin(), weights.end(), Real(0));
    for (Real& weight : weights) weight = (norm_ ? weight / (sum + Real(1e-20)) : weight) * factor_;
    put(chosen, weights, row);
  }

  /// A group is as good as its two best experts together; the others' are not chosen.
  void leave_out_groups(std::vector<Real>& choice) const {
    if (groups_ == 1) return;
    const std::int64_t size = experts_ / groups_;
    std::vector<Real> scores;
    for (std::int64_t g = 0; g < groups_; ++g) {
      const auto group = rows_of(choice, g * size, size);
      Real score = 0;
      for (const std::int64_t e : largest<Real>(group, std::min<std::int64_t>(2, size))) {
        score += group[static_cast<std::size_t>(e)];
      }
      scores.push_back(score);
    }
    auto kept = largest<Real>(scores, std::min(top_groups_, groups_));
    for (std::int64_t g = 0; g < groups_; ++g) {
      if (std::find(kept.begin(), kept.end(), g) != kept.end()) continue;
      std::fill_n(choice.begin() + g * size, size, -std::numeric_limits<Real>::infinity());
    }
  }

  static void put(const std::vector<std::int64_t>& chosen, const std::vector<Real>& weights,
                  std::span<Real> row) {
    std::fill(row.begin(), row.end(), Real(0));
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      row[static_cast<std::size_t>(chosen[i])] = weights[i];
    }
  }

  const BlockMath<Real>& math_;
  std::int64_t experts_;
  std::int64_t top_k_;
  bool softmax_after_;
  bool sigmoid_;
  bool norm_;
  Real factor_;
  std::int64_t groups_;
  std::int64_t top_groups_;
  std::vector<Real> bias_;  // may be empty
};

template <typename Real>
class Experts : public BlockBody<Real> {
 public:
  Experts(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        experts_(weights.shape("router.weight", 2)[0]),
        router_(weights, experts_, math),
        logits_(math.product(weights.tensor("router.weight", {experts_, inputs_}), {}, experts_,
                             inputs_)) {
    weights.has("experts.down_proj") ? read_stacked(weights) : read_each(weights);
    if (weights.has("fc1_latent_proj.weight")) {
      const std::int64_t latent = layers_.front().inputs();
      to_latent_ =
          math.product(weights.tensor("fc1_latent_proj.weight", {latent, inputs_}),
                       weights.optional("fc1_latent_proj.bias", {latent}), latent, inputs_);
      from_latent_ =
          math.product(weights.tensor("fc2_latent_proj.weight", {outputs_, latent}),
                       weights.optional("fc2_latent_proj.bias", {outputs_}), outputs_, latent);
    }
  }

  void run(BatchShape shape, const Real* x, Real* y) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> shares(rows, experts_);
    logits_->apply(x, inputs_, rows, shares[0], experts_);
    math_.each(rows, [&](std::int64_t row) { router_.route(shares[row]); });
    if (!to_latent_) return mix(rows, x, shares, y);
    const std::int64_t latent = layers_.front().inputs();
    Rows<Real> in(rows, latent);
    Rows<Real> out(rows, latent);
    to_latent_->apply(x, inputs_, rows, in[0], latent);
    mix(rows, in[0], shares, out[0]);
    from_latent_->apply(out[0], latent, rows, y, outputs_);
  }

 private:
  void read_each(const BlockWeights<Real>& weights) {
    for (std::int64_t e = 0; e < experts_; ++e) {
      layers_.push_back(hidden_layer(weights, fmt::format("experts.{}.", e), math_));
    }
  }

  void read_stacked(const BlockWeights<Real>& weights) {
    const bool fused = weights.has("experts.gate_up_proj");
    const char* role = fused ? "experts.gate_up_proj" : "experts.up_proj";
    const Shape shape = weights.shape(role, 3);
    const Shape down_shape = weights.shape("experts.down_proj", 3);
    const std::int64_t hidden = down_shape[2];
    const std::int64_t in = shape[2];
    const auto up = weights.tensor(role, {experts_, (fused ? 2 : 1) * hidden, in});
    const auto down = weights.tensor("experts.down_proj", {experts_, down_shape[1], hidden});
    for (std::int64_t e = 0; e < experts_; ++e) {
      const std::int64_t first = e * shape[1];
      layers_.emplace_back(fused ? rows_of(up, first, hidden, in) : std::span<const Real>(),
                           rows_of(up, fused ? first + hidden : first, hidden, in),
                           rows_of(down, e * down_shape[1], down_shape[1], hidden),
                           Shape{down_shape[1], hidden}, activation_of(!fused), math_);
    }
  }

  /// y = sum over the experts, in their order, of share * expert(x).
  void mix(std::int64_t rows, const Real* x, const Rows<Real>& shares, Real* y) const {
    const std::int64_t in = layers_.front().inputs();
    const std::int64_t out = layers_.front().outputs();
    std::fill_n(y, rows * out, Real(0));
    for (std::int64_t e = 0; e < experts_; ++e) {
      std::vector<std::int64_t> own;
      for (std::int64_t row = 0; row < rows; ++row) {
        if (shares[row][e] != 0) own.push_back(row);
      }
      if (own.empty()) continue;
      Rows<Real> gathered(std::ssize(own), in);
      Rows<Real> result(std::ssize(own), out);
      for (std::size_t i = 0; i < own.size(); ++i) {
        std::copy_n(x + own[i] * in, in, gathered[static_cast<std::int64_t>(i)]);
      }
      layers_[static_cast<std::size_t>(e)].run(std::ssize(own), gathered[0], result[0]);
      for (std::size_t i = 0; i < own.size(); ++i) {
        add_scaled(y + own[i] * out, shares[own[i]][e], result[static_cast<std::int64_t>(i)], out);
      }
    }
  }

  const BlockMath<Real>& math_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  std::int64_t experts_;
  Router<Real> router_;
  std::unique_ptr<Product<Real>> logits_;
  std::vector<HiddenLayer<Real>> layers_;
  std::unique_ptr<Product<Real>> to_latent_;  // null: the experts read x
  std::unique_ptr<Product<Real>> from_latent_;
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> mlp_body(const BlockWeights<Real>& weights,
                                          const BlockMath<Real>& math) {
  return std::make_unique<Mlp<Real>>(weights, math);
}
template <typename Real>
std::unique_ptr<BlockBody<Real>> experts_body(const BlockWeights<Real>& weights,
                                              const BlockMath<Real>& math) {
  return std::make_unique<Experts<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> mlp_body(const BlockWeights<float>&,
                                                    const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mlp_body(const BlockWeights<double>&,
                                                     const BlockMath<double>&);
template std::unique_ptr<BlockBody<float>> experts_body(const BlockWeights<float>&,
                                                        const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> experts_body(const BlockWeights<double>&,
                                                         const BlockMath<double>&);

}  // namespace icd
