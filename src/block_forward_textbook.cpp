// The state-space model of the textbooks: h' = A h + B x + b,  y = C h' + D x + c, from h = 0.
#include <vector>

#include "block_body.h"

namespace icd {
namespace {

template <typename Real>
class Textbook : public BlockBody<Real> {
 public:
  Textbook(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : states_(weights.size("d_state")),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")) {
    // Whatever has a bias adds it once a token: those of A and B to the state.
    std::vector<Real> bias(static_cast<std::size_t>(states_));
    for (const char* role : {"A.bias", "B.bias"}) {
      const std::vector<Real> own = weights.optional(role, {states_});
      if (!own.empty()) add_scaled(bias.data(), Real(1), own.data(), states_);
    }
    a_ = math.product(weights.tensor("A.weight", {states_, states_}), bias, states_, states_);
    b_ = math.product(weights.tensor("B.weight", {states_, inputs_}), {}, states_, inputs_);
    c_ = math.product(weights.tensor("C.weight", {outputs_, states_}),
                      weights.optional("C.bias", {outputs_}), outputs_, states_);
    if (!weights.has("D.weight")) return;
    const std::vector<Real> d = weights.tensor("D.weight", {outputs_, inputs_});
    d_ = math.product(d, {}, outputs_, inputs_);
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    Rows<Real> h(shape.rows(), states_);
    Rows<Real> fed(shape.rows(), states_);
    b_->apply(x, inputs_, shape.rows(), fed[0], states_);
    const std::vector<Real> start(static_cast<std::size_t>(states_));
    for (std::int64_t row = 0; row < shape.rows(); ++row) {
      const Real* before = row % shape.length == 0 ? start.data() : h[row - 1];
      a_->apply(before, states_, 1, h[row], states_);
      add_scaled(h[row], Real(1), fed[row], states_);
    }
    c_->apply(h[0], states_, shape.rows(), y, outputs_);
    if (d_ == nullptr) return;
    Rows<Real> through(shape.rows(), outputs_);
    d_->apply(x, inputs_, shape.rows(), through[0], outputs_);
    add_scaled(y, Real(1), through[0], shape.rows() * outputs_);
  }

 private:
  std::int64_t states_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  std::unique_ptr<Product<Real>> a_;
  std::unique_ptr<Product<Real>> b_;
  std::unique_ptr<Product<Real>> c_;
  std::unique_ptr<Product<Real>> d_;
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> textbook_body(const BlockWeights<Real>& weights,
                                               const BlockMath<Real>& math) {
  return std::make_unique<Textbook<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> textbook_body(const BlockWeights<float>&,
                                                         const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> textbook_body(const BlockWeights<double>&,
                                                          const BlockMath<double>&);

}  // namespace icd
