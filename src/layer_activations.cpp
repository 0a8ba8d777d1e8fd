#include "icd/layer_activations.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <utility>

#include "icd/error.h"
#include "layer_weights.h"

namespace icd {
namespace {

/// Keeps what is shown; calls may come in parts.
class Recorder final : public Observer<float> {
 public:
  bool wants(Site site) const override { return site != Site::decay; }

  void see(Index, Site site, std::span<const float> values, Index) override {
    std::vector<float>& kept = seen[static_cast<std::size_t>(site)];
    kept.insert(kept.end(), values.begin(), values.end());
  }

  std::array<std::vector<float>, kSites.size()> seen;
  std::vector<float>& at(Site site) { return seen[static_cast<std::size_t>(site)]; }
};

/// The x of log(1 + exp(x)) = y; for y = 0, where there is none, a very small one.
float inverse_softplus(float y) {
  const double step = y;
  if (step > 20) return y;
  return static_cast<float>(std::log(std::expm1(std::max(step, 1e-30))));
}

}  // namespace

LayerActivations layer_activations(const Checkpoint& checkpoint, const ModelSpec& spec,
                                   const LanguageModel<float>& model, Index layer,
                                   std::span<const TokenId> tokens) {
  if (tokens.empty()) throw Error(ErrorCode::usage, "tokens: there are none");
  if (layer < 0 || layer >= spec.n_layer) {
    throw Error(ErrorCode::usage, "layer " + std::to_string(layer) + ": the model has " +
                                      std::to_string(spec.n_layer) + " layers, from 0");
  }
  const auto rows = static_cast<std::int64_t>(tokens.size());
  const BatchShape shape{1, static_cast<Index>(rows)};
  std::vector<float> hidden(tokens.size() * static_cast<std::size_t>(spec.d_model));
  model.embed(tokens, hidden);
  for (Index i = 0; i < layer; ++i) model.layer(i, shape, hidden);
  Recorder recorder;
  model.layer(layer, shape, hidden, nullptr, &recorder);

  LayerActivations found;
  found.d_model = spec.d_model;
  found.d_inner = spec.d_inner;
  found.d_state = spec.d_state;
  found.d_conv = spec.d_conv;
  found.tokens = rows;
  LayerWeights<float> weights = read_layer<float>(checkpoint, spec, layer);
  found.A = std::move(weights.a_log);
  for (float& a : found.A) a = -std::exp(a);
  found.D = std::move(weights.d);
  found.dt_bias = std::move(weights.dt_proj_bias);
  found.conv = std::move(weights.conv);
  found.conv_bias = std::move(weights.conv_bias);
  found.out_proj = std::move(weights.out_proj);

  found.u = std::move(recorder.at(Site::conv));
  found.gated = std::move(recorder.at(Site::gated));
  found.dt = std::move(recorder.at(Site::dt));
  const auto d_inner = static_cast<std::size_t>(spec.d_inner);
  for (std::size_t i = 0; i < found.dt.size(); ++i) {
    found.dt[i] = inverse_softplus(found.dt[i]) - found.dt_bias[i % d_inner];
  }
  const auto d_state = static_cast<std::size_t>(spec.d_state);
  const std::vector<float>& dt_b_c = recorder.at(Site::x_proj);
  const std::size_t width = static_cast<std::size_t>(spec.dt_rank) + 2 * d_state;
  for (std::size_t row = 0; row < tokens.size(); ++row) {
    const auto b = dt_b_c.begin() + static_cast<std::ptrdiff_t>(
                                        row * width + static_cast<std::size_t>(spec.dt_rank));
    const auto c = b + static_cast<std::ptrdiff_t>(d_state);
    found.B.insert(found.B.end(), b, c);
    found.C.insert(found.C.end(), c, c + static_cast<std::ptrdiff_t>(d_state));
  }

  // z = in_proj[d_inner:] normed + bias
  std::vector<float> bias = std::move(weights.in_proj_bias);
  bias.resize(2 * d_inner);
  const std::vector<float>& normed = recorder.at(Site::normed);
  const auto d_model = static_cast<std::size_t>(spec.d_model);
  found.z.resize(tokens.size() * d_inner);
#pragma omp parallel for
  for (std::int64_t row = 0; row < rows; ++row) {
    const float* x = normed.data() + static_cast<std::size_t>(row) * d_model;
    for (std::size_t channel = 0; channel < d_inner; ++channel) {
      const float* w = weights.in_proj.data() + (d_inner + channel) * d_model;
      double sum = bias[d_inner + channel];
      for (std::size_t k = 0; k < d_model; ++k) sum += double{w[k]} * x[k];
      found.z[static_cast<std::size_t>(row) * d_inner + channel] = static_cast<float>(sum);
    }
  }
  return found;
}

}  // namespace icd
