#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <utility>

#include "icd/error.h"
#include "icd/language_model.h"
#include "layer_call.h"
#include "layer_weights.h"

namespace icd {
namespace {

using Vector = std::vector<double>;
using Row = std::span<const double>;

double silu(double x) { return x / (1 + std::exp(-x)); }

double softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

/// W x + bias; W is (outputs, x.size()), an empty bias is 0.
Vector linear(const Vector& weight, const Vector& bias, Row x, Index outputs) {
  Vector y(static_cast<std::size_t>(outputs));
  for (std::size_t i = 0; i < y.size(); ++i) {
    double sum = 0;
    for (std::size_t k = 0; k < x.size(); ++k) sum += weight[i * x.size() + k] * x[k];
    y[i] = bias.empty() ? sum : sum + bias[i];
  }
  return y;
}

Vector norm(const ModelSpec& spec, const Vector& weight, const Vector& bias, Row x) {
  const auto count = static_cast<double>(x.size());
  double mean = 0;
  if (spec.norm == ModelSpec::Norm::layer) {
    for (const double value : x) mean += value;
    mean /= count;
  }
  double squares = 0;
  for (const double value : x) squares += (value - mean) * (value - mean);
  const double scale = 1 / std::sqrt(squares / count + spec.norm_epsilon);
  Vector y(x.size());
  for (std::size_t i = 0; i < y.size(); ++i) {
    y[i] = (x[i] - mean) * scale * weight[i] + (bias.empty() ? 0 : bias[i]);
  }
  return y;
}

/// One sequence's memory, a part of LayerState.
struct SequenceState {
  std::span<double> conv;  ///< (d_conv - 1, d_inner), oldest first
  std::span<double> scan;  ///< (d_inner, d_state)
};

/// What a token makes on its way through a layer.
struct Activations {
  Vector normed;
  Vector conv;
  Vector x_proj;
  Vector dt;
  Vector decay;
  Vector gated;

  const Vector& at(Site site) const {
    switch (site) {
      case Site::normed:
        return normed;
      case Site::conv:
        return conv;
      case Site::x_proj:
        return x_proj;
      case Site::dt:
        return dt;
      case Site::decay:
        return decay;
      case Site::gated:
        return gated;
    }
    throw Error(ErrorCode::usage, "site: no such site");
  }
};

class ReferenceModel : public LanguageModel<double> {
 public:
  ReferenceModel(const Checkpoint& checkpoint, ModelSpec spec)
      : checkpoint_(checkpoint), spec_(std::move(spec)) {}

  const ModelSpec& spec() const noexcept override { return spec_; }

  void embed(std::span<const TokenId> tokens, std::span<double> hidden) const override {
    read_embedding(checkpoint_, spec_, tokens, hidden);
  }

  void layer(Index layer, BatchShape shape, std::span<double> hidden, LayerState<double>* state,
             Observer<double>* observer) const override {
    LayerState<double> zero;
    LayerState<double>& memory = state != nullptr ? *state : zero;
    prepare_layer_call(spec_, layer, shape, hidden.size(), &memory);
    const auto weights = read_layer<double>(checkpoint_, spec_, layer);
    Vector a(weights.a_log.size());
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = -std::exp(weights.a_log[i]);
    const auto d_model = static_cast<std::size_t>(spec_.d_model);
    const std::size_t conv_size =
        memory.conv.size() / static_cast<std::size_t>(std::max(shape.sequences, 1));
    const std::size_t scan_size =
        memory.scan.size() / static_cast<std::size_t>(std::max(shape.sequences, 1));
    Trace trace(observer);
    for (std::size_t s = 0; s < static_cast<std::size_t>(shape.sequences); ++s) {
      const SequenceState sequence = {
          .conv = std::span(memory.conv).subspan(s * conv_size, conv_size),
          .scan = std::span(memory.scan).subspan(s * scan_size, scan_size)};
      for (std::size_t t = 0; t < static_cast<std::size_t>(shape.length); ++t) {
        const std::size_t row = s * static_cast<std::size_t>(shape.length) + t;
        trace.add(token(weights, a, hidden.subspan(row * d_model, d_model), sequence));
      }
    }
    trace.report(layer);
  }

  void head(std::span<const double> hidden, std::span<double> logits) const override {
    const std::int64_t rows = prepare_head_call(spec_, hidden.size(), logits.size());
    const auto weights = read_head<double>(checkpoint_, spec_);
    const auto d_model = static_cast<std::size_t>(spec_.d_model);
    auto out = logits.begin();
    for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
      const Vector normed =
          norm(spec_, weights.norm, weights.norm_bias, hidden.subspan(row * d_model, d_model));
      out = std::ranges::copy(linear(weights.head, {}, normed, spec_.vocab), out).out;
    }
  }

 private:
  /// Collects what the observer wants and shows it when the layer is done.
  class Trace {
   public:
    explicit Trace(Observer<double>* observer) : observer_(observer) {}

    void add(const Activations& activations) {
      if (observer_ == nullptr) return;
      for (const Site site : kSites) {
        if (!observer_->wants(site)) continue;
        const Vector& row = activations.at(site);
        Vector& rows = rows_[static_cast<std::size_t>(site)];
        rows.insert(rows.end(), row.begin(), row.end());
        channels_[static_cast<std::size_t>(site)] = static_cast<Index>(row.size());
      }
    }

    void report(Index layer) {
      for (const Site site : kSites) {
        const auto i = static_cast<std::size_t>(site);
        if (!rows_[i].empty()) observer_->see(layer, site, rows_[i], channels_[i]);
      }
    }

   private:
    Observer<double>* observer_;
    std::array<Vector, kSites.size()> rows_;
    std::array<Index, kSites.size()> channels_ = {};
  };

  /// hidden += mixer(norm(hidden)) for one token.
  Activations token(const LayerWeights<double>& weights, const Vector& a, std::span<double> hidden,
                    SequenceState state) const {
    const auto d_inner = static_cast<std::size_t>(spec_.d_inner);
    const auto d_state = static_cast<std::size_t>(spec_.d_state);
    const auto d_conv = static_cast<std::size_t>(spec_.d_conv);
    const auto dt_rank = static_cast<std::size_t>(spec_.dt_rank);

    Activations at;
    at.normed = norm(spec_, weights.norm, weights.norm_bias, hidden);
    const Vector xz = linear(weights.in_proj, weights.in_proj_bias, at.normed, 2 * spec_.d_inner);
    const Row x = Row(xz).first(d_inner);
    const Row z = Row(xz).subspan(d_inner);

    at.conv.resize(d_inner);
    for (std::size_t i = 0; i < d_inner; ++i) {
      double sum = weights.conv_bias.empty() ? 0 : weights.conv_bias[i];
      for (std::size_t tap = 0; tap < d_conv; ++tap) {
        const double input = tap + 1 < d_conv ? state.conv[tap * d_inner + i] : x[i];
        sum += weights.conv[i * d_conv + tap] * input;
      }
      at.conv[i] = silu(sum);
    }
    if (d_conv > 1) {
      std::ranges::copy(state.conv.subspan(d_inner), state.conv.begin());
      std::ranges::copy(x, state.conv.end() - static_cast<std::ptrdiff_t>(d_inner));
    }

    at.x_proj = linear(weights.x_proj, {}, at.conv, spec_.dt_rank + 2 * spec_.d_state);
    const Row b = Row(at.x_proj).subspan(dt_rank, d_state);
    const Row c = Row(at.x_proj).subspan(dt_rank + d_state, d_state);
    at.dt =
        linear(weights.dt_proj, weights.dt_proj_bias, Row(at.x_proj).first(dt_rank), spec_.d_inner);
    for (double& dt : at.dt) dt = softplus(dt);
    at.decay.resize(d_inner);
    for (std::size_t i = 0; i < d_inner; ++i) {
      double rates = 0;
      for (std::size_t n = 0; n < d_state; ++n) rates -= a[i * d_state + n];
      at.decay[i] = at.dt[i] * (rates / static_cast<double>(d_state));
    }

    at.gated.resize(d_inner);
    for (std::size_t i = 0; i < d_inner; ++i) {
      double y = weights.d[i] * at.conv[i];
      for (std::size_t n = 0; n < d_state; ++n) {
        double& s = state.scan[i * d_state + n];
        s = std::exp(at.dt[i] * a[i * d_state + n]) * s + at.dt[i] * b[n] * at.conv[i];
        y += c[n] * s;
      }
      at.gated[i] = y * silu(z[i]);
    }

    const Vector out = linear(weights.out_proj, weights.out_proj_bias, at.gated, spec_.d_model);
    for (std::size_t i = 0; i < hidden.size(); ++i) hidden[i] += out[i];
    return at;
  }

  const Checkpoint& checkpoint_;
  ModelSpec spec_;
};

}  // namespace

std::unique_ptr<LanguageModel<double>> reference_model(const Checkpoint& checkpoint,
                                                       const ModelSpec& spec) {
  return std::make_unique<ReferenceModel>(checkpoint, spec);
}

}  // namespace icd
