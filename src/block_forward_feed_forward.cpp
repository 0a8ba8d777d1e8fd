#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <string_view>

#include "block_body.h"
#include "icd/error.h"

// mlp: down(SiLU(gate(x)) * up(x)), of gate_proj.weight, up_proj.weight, down_proj.weight.
// gated_mlp: the same of fc1.weight, whose rows are up, then gate, and fc2.weight (mamba-ssm).
// granite_mlp: the same of input_linear.weight, whose rows are gate, then up, and
//   output_linear.weight.
// ungated_mlp: down(relu(up(x))^2), of up_proj.weight and down_proj.weight.
//   All: sizes in, out; biases if there are any; Falcon-H1's numbers gate_multiplier and
//   down_multiplier.
//
// Experts are MLPs, each row goes to `top_k` (a number) of them, and the router says which and
// what their shares are:
// experts: router.weight; a softmax over all experts, of which the largest keep their share
//   (Jamba). experts.{e}.{gate,up,down}_proj.weight.
// granite_experts: router.layer.weight; a softmax over the largest. input_linear.weight and
//   output_linear.weight as in granite_mlp, with the expert as first axis.
// nemotron_experts, nemotron_latent_experts: gate.weight; sigmoids, the largest chosen after
//   gate.e_score_correction_bias is added, from the topk_group best of n_group (a size) groups;
//   divided by their sum if norm_topk_prob is set, times routed_scaling_factor.
//   experts.{e}.{up,down}_proj and, for every row, shared_experts.{up,down}_proj, all as
//   ungated_mlp; fc1_latent_proj and fc2_latent_proj stand around the former if they are there.

namespace icd {
namespace {

/// How the MLP of a type is stored.
struct MlpKind {
  std::string_view type;
  std::string_view gate;  ///< empty: squared ReLU instead
  std::string_view up;    ///< as gate: both stand in one tensor
  std::string_view down;
  bool up_first = false;
};

constexpr MlpKind kMlp = {"mlp", "gate_proj", "up_proj", "down_proj"};
constexpr MlpKind kUngatedMlp = {"ungated_mlp", "", "up_proj", "down_proj"};
constexpr std::array kMlpKinds = {
    kMlp, kUngatedMlp, MlpKind{"gated_mlp", "fc1", "fc1", "fc2", true},
    MlpKind{"granite_mlp", "input_linear", "input_linear", "output_linear"}};

const MlpKind& mlp_kind(std::string_view type) {
  const auto* at = std::ranges::find(kMlpKinds, type, &MlpKind::type);
  assert(at != kMlpKinds.end());
  return *at;
}

template <typename Real>
class HiddenLayer {
 public:
  struct Affine {
    std::span<const Real> weight = {};
    std::span<const Real> bias = {};
  };

  /// `down_shape` is (outputs, hidden). Without `gate` the activation is a squared ReLU.
  HiddenLayer(std::optional<Affine> gate, Affine up, Affine down, const Shape& down_shape,
              const BlockMath<Real>& math)
      : math_(math),
        outputs_(down_shape[0]),
        hidden_(down_shape[1]),
        inputs_(hidden_ == 0 ? 0 : std::ssize(up.weight) / hidden_),
        up_(math.product(up.weight, up.bias, hidden_, inputs_)),
        down_(math.product(down.weight, down.bias, outputs_, hidden_)) {
    if (gate) gate_ = math.product(gate->weight, gate->bias, hidden_, inputs_);
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

/// An MLP whose roles begin with `prefix`, and which reads `in` channels.
template <typename Real>
HiddenLayer<Real> hidden_layer(const BlockWeights<Real>& weights, const MlpKind& kind,
                               const std::string& prefix, std::int64_t in,
                               const BlockMath<Real>& math) {
  using Affine = typename HiddenLayer<Real>::Affine;
  const auto role = [&](std::string_view name, const char* end) {
    return fmt::format("{}{}.{}", prefix, name, end);
  };
  const Shape down_shape = weights.shape(role(kind.down, "weight"), 2);
  const std::int64_t hidden = down_shape[1];
  const auto down = weights.tensor(role(kind.down, "weight"), down_shape);
  const auto down_bias = weights.optional(role(kind.down, "bias"), {down_shape[0]});
  const std::int64_t rows = kind.gate == kind.up ? 2 * hidden : hidden;
  const auto up = weights.tensor(role(kind.up, "weight"), {rows, in});
  const auto up_bias = weights.optional(role(kind.up, "bias"), {rows});
  if (kind.gate == kind.up) {
    const auto half = [&](bool is_second) {
      const std::int64_t first = is_second ? hidden : 0;
      return Affine{rows_of(up, first, hidden, in), rows_of(up_bias, first, hidden)};
    };
    return HiddenLayer<Real>(half(kind.up_first), half(!kind.up_first), {down, down_bias},
                             down_shape, math);
  }
  if (kind.gate.empty()) {
    return HiddenLayer<Real>(std::nullopt, {up, up_bias}, {down, down_bias}, down_shape, math);
  }
  const auto gate = weights.tensor(role(kind.gate, "weight"), {hidden, in});
  const auto gate_bias = weights.optional(role(kind.gate, "bias"), {hidden});
  return HiddenLayer<Real>(Affine{gate, gate_bias}, {up, up_bias}, {down, down_bias}, down_shape,
                           math);
}

template <typename Real>
class Mlp : public BlockBody<Real> {
 public:
  Mlp(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : layer_(hidden_layer(weights, mlp_kind(weights.type()), "", weights.size("in"), math)) {
    layer_.multiply(static_cast<Real>(weights.number("gate_multiplier", 1)),
                    static_cast<Real>(weights.number("down_multiplier", 1)));
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
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

enum class Routing { softmax, softmax_of_chosen, sigmoid };

/// From the router's logits of a row to the weight of every expert, 0 for those not chosen.
template <typename Real>
class Router {
 public:
  Router(const BlockWeights<Real>& weights, Routing routing, std::int64_t experts,
         const BlockMath<Real>& math)
      : math_(math),
        routing_(routing),
        experts_(experts),
        top_k_(static_cast<std::int64_t>(weights.number("top_k", 0))),
        norm_(weights.is_set("norm_topk_prob")),
        factor_(static_cast<Real>(weights.number("routed_scaling_factor", 1))),
        groups_(weights.size("n_group", 1)),
        top_groups_(static_cast<std::int64_t>(weights.number("topk_group", 1))),
        bias_(weights.optional("gate.e_score_correction_bias", {experts})) {
    if (top_k_ < 1 || top_k_ > experts || groups_ < 1 || experts % groups_ != 0) {
      throw Error(ErrorCode::input,
                  fmt::format("router: {} of {} experts in {} groups are chosen, expected at least "
                              "one of them and groups of one size",
                              top_k_, experts, groups_));
    }
  }

  void route(Real* logits) const {
    const std::span<Real> row(logits, static_cast<std::size_t>(experts_));
    if (routing_ == Routing::sigmoid) return route_sigmoid(row);
    if (routing_ == Routing::softmax) softmax(row);
    const auto chosen = largest<Real>(row, top_k_);
    std::vector<Real> weights;
    for (const std::int64_t e : chosen) weights.push_back(row[static_cast<std::size_t>(e)]);
    if (routing_ == Routing::softmax_of_chosen) softmax(weights);
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
  Routing routing_;
  std::int64_t experts_;
  std::int64_t top_k_;
  bool norm_;
  Real factor_;
  std::int64_t groups_;
  std::int64_t top_groups_;
  std::vector<Real> bias_;  // may be empty
};

struct ExpertsKind {
  std::string_view type;
  std::string_view router;
  Routing routing;
};

constexpr std::array kExpertsKinds = {
    ExpertsKind{"experts", "router.weight", Routing::softmax},
    ExpertsKind{"granite_experts", "router.layer.weight", Routing::softmax_of_chosen},
    ExpertsKind{"nemotron_experts", "gate.weight", Routing::sigmoid},
    ExpertsKind{"nemotron_latent_experts", "gate.weight", Routing::sigmoid}};

const ExpertsKind& experts_kind(std::string_view type) {
  const auto* at = std::ranges::find(kExpertsKinds, type, &ExpertsKind::type);
  assert(at != kExpertsKinds.end());
  return *at;
}

template <typename Real>
class Experts : public BlockBody<Real> {
 public:
  Experts(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : Experts(weights, experts_kind(weights.type()), math) {}

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> shares(rows, experts_);
    logits_->apply(x, inputs_, rows, shares[0], experts_);
    math_.each(rows, [&](std::int64_t row) { router_.route(shares[row]); });
    if (to_latent_) {
      const std::int64_t latent = layers_.front().inputs();
      Rows<Real> in(rows, latent);
      Rows<Real> out(rows, latent);
      to_latent_->apply(x, inputs_, rows, in[0], latent);
      mix(rows, in[0], shares, out[0]);
      from_latent_->apply(out[0], latent, rows, y, outputs_);
    } else {
      mix(rows, x, shares, y);
    }
    if (shared_) {
      Rows<Real> out(rows, outputs_);
      shared_->run(rows, x, out[0]);
      add_scaled(y, Real(1), out[0], rows * outputs_);
    }
  }

 private:
  Experts(const BlockWeights<Real>& weights, const ExpertsKind& kind, const BlockMath<Real>& math)
      : math_(math),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        experts_(weights.shape(kind.router, 2)[0]),
        router_(weights, kind.routing, experts_, math),
        logits_(
            math.product(weights.tensor(kind.router, {experts_, inputs_}), {}, experts_, inputs_)) {
    if (kind.routing == Routing::softmax_of_chosen) {
      read_stacked(weights);
    } else {
      read_each(weights, kind.routing == Routing::sigmoid ? kUngatedMlp : kMlp);
    }
  }

  void read_each(const BlockWeights<Real>& weights, const MlpKind& expert) {
    std::int64_t in = inputs_;
    if (weights.has("fc1_latent_proj.weight")) {
      in = weights.shape("fc1_latent_proj.weight", 2)[0];
      to_latent_ = math_.product(weights.tensor("fc1_latent_proj.weight", {in, inputs_}),
                                 weights.optional("fc1_latent_proj.bias", {in}), in, inputs_);
      from_latent_ =
          math_.product(weights.tensor("fc2_latent_proj.weight", {outputs_, in}),
                        weights.optional("fc2_latent_proj.bias", {outputs_}), outputs_, in);
    }
    for (std::int64_t e = 0; e < experts_; ++e) {
      layers_.push_back(hidden_layer(weights, expert, fmt::format("experts.{}.", e), in, math_));
    }
    if (weights.has("shared_experts.up_proj.weight")) {
      shared_.emplace(hidden_layer(weights, expert, "shared_experts.", inputs_, math_));
    }
  }

  void read_stacked(const BlockWeights<Real>& weights) {
    const Shape down_shape = weights.shape("output_linear.weight", 3);
    const std::int64_t hidden = down_shape[2];
    const auto both = weights.tensor("input_linear.weight", {experts_, 2 * hidden, inputs_});
    const auto down = weights.tensor("output_linear.weight", {experts_, outputs_, hidden});
    using Affine = typename HiddenLayer<Real>::Affine;
    for (std::int64_t e = 0; e < experts_; ++e) {
      layers_.emplace_back(Affine{rows_of(both, 2 * e * hidden, hidden, inputs_)},
                           Affine{rows_of(both, (2 * e + 1) * hidden, hidden, inputs_)},
                           Affine{rows_of(down, e * outputs_, outputs_, hidden)},
                           Shape{outputs_, hidden}, math_);
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
  std::optional<HiddenLayer<Real>> shared_;
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
