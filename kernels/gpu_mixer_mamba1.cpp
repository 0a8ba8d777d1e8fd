#include <algorithm>
#include <cmath>
#include <numeric>

#include "block_weights.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gpu_linear.h"
#include "kernels/gpu_mixer.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/state_update.h"

namespace icd {
namespace {

/// A = -exp(a_log).
std::vector<float> decays(std::vector<float> a_log) {
  for (float& value : a_log) value = -std::exp(value);
  return a_log;
}

/// The mean of |A| over the states of each channel.
std::vector<float> mean_rates(std::span<const float> a, std::int64_t channels) {
  std::vector<float> means(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto states = std::ssize(a) / channels;
    const auto* own = a.data() + c * states;
    means[static_cast<std::size_t>(c)] =
        -std::accumulate(own, own + states, 0.0F) / static_cast<float>(states);
  }
  return means;
}

/// The RMSNorms of dt, B and C, of FalconMamba and Jamba.
struct InnerNorms {
  float epsilon = -1;  ///< negative: there are none
  GpuTensor dt;        ///< (dt_rank), empty: all 1
  GpuTensor b;         ///< (d_state)
  GpuTensor c;
};

class GpuMamba1 : public GpuMixer {
 public:
  explicit GpuMamba1(const BlockWeights<float>& weights)
      : d_model_(weights.size("in")),
        d_inner_(weights.size("d_inner")),
        d_state_(weights.shape("A_log", 2)[1]),
        dt_rank_(weights.shape("dt_proj.weight", 2)[1]),
        d_conv_(weights.size("d_conv")),
        projected_(dt_rank_ + 2 * d_state_),
        in_proj_(weights.tensor("in_proj.weight", {2 * d_inner_, d_model_}),
                 weights.optional("in_proj.bias", {2 * d_inner_}), 2 * d_inner_, d_model_),
        conv_(weights.tensor("conv1d.weight", {d_inner_, 1, d_conv_})),
        conv_bias_(weights.optional("conv1d.bias", {d_inner_})),
        x_proj_(weights.tensor("x_proj.weight", {projected_, d_inner_}), {}, projected_, d_inner_),
        dt_proj_(weights.tensor("dt_proj.weight", {d_inner_, dt_rank_}), {}, d_inner_, dt_rank_),
        out_proj_(weights.tensor("out_proj.weight", {d_model_, d_inner_}),
                  weights.optional("out_proj.bias", {d_model_}), d_model_, d_inner_),
        d_(weights.tensor("D", {d_inner_})) {
    const auto a = decays(weights.tensor("A_log", {d_inner_, d_state_}));
    a_ = GpuTensor(a);
    steps_.bias = weights.tensor("dt_proj.bias", {d_inner_});
    steps_.rates = mean_rates(a, d_inner_);
    steps_.device_rates = GpuTensor(steps_.rates);
    dt_bias_ = GpuTensor(steps_.bias);
    if (!weights.has_number("mixer_norm_eps")) return;
    norms_ = {.epsilon = static_cast<float>(weights.number("mixer_norm_eps", 0)),
              .dt = GpuTensor(weights.optional("dt_layernorm.weight", {dt_rank_})),
              .b = GpuTensor(weights.optional("b_layernorm.weight", {d_state_})),
              .c = GpuTensor(weights.optional("c_layernorm.weight", {d_state_}))};
  }

  std::int64_t conv_floats() const noexcept override { return d_inner_ * (d_conv_ - 1); }
  std::int64_t scan_floats() const noexcept override { return d_inner_ * d_state_; }
  std::int64_t row_floats() const noexcept override { return 4 * d_inner_ + 2 * projected_; }

  void run(GpuWork& work, BatchShape shape, const float* normed, float* hidden, GpuState state,
           const GpuShow& show) const override {
    const std::int64_t rows = shape.rows();
    const Activations at = activations(work, rows);
    in_proj_.apply(work, normed, d_model_, rows, at.xz);

    CausalConv1d conv{};
    conv.batch = shape.sequences;
    conv.length = shape.length;
    conv.channels = d_inner_;
    conv.width = d_conv_;
    conv.type = ICD_F32;
    conv.silu = 1;
    conv.x = strided(at.xz, shape.length, 2 * d_inner_);
    conv.y = strided(at.conv, shape.length, d_inner_);
    conv.weight = conv_.data();
    conv.bias = conv_bias_.data();
    conv.initial_state = state.conv;
    conv.final_state = state.conv;
    check(causal_conv1d(conv, work.stream()), "causal_conv1d");
    show.rows(Site::conv, at.conv, rows, d_inner_, d_inner_);

    const float* dt_b_c = project(work, at, rows);
    show.rows(Site::x_proj, dt_b_c, rows, projected_, projected_);
    dt_proj_.apply(work, dt_b_c, projected_, rows, at.dt);
    show.steps(steps_, dt_bias_, at.dt, rows, d_inner_);

    SelectiveScan scan{};
    scan.batch = shape.sequences;
    scan.length = shape.length;
    scan.channels = d_inner_;
    scan.states = d_state_;
    scan.type = ICD_F32;
    scan.softplus = 1;
    scan.u = conv.y;
    scan.dt = strided(at.dt, shape.length, d_inner_);
    scan.z = strided(at.xz + d_inner_, shape.length, 2 * d_inner_);
    scan.B = strided(dt_b_c + dt_rank_, shape.length, projected_);
    scan.C = strided(dt_b_c + dt_rank_ + d_state_, shape.length, projected_);
    scan.y = conv.y;
    scan.A = a_.data();
    scan.D = d_.data();
    scan.dt_bias = dt_bias_.data();
    scan.initial_state = state.scan;
    scan.final_state = state.scan;
    scan.workspace = work.bytes(Slot::scan_workspace, selective_scan_workspace(scan));
    check(selective_scan(scan, work.stream()), "selective_scan");
    show.rows(Site::gated, at.conv, rows, d_inner_, d_inner_);
    out_proj_.add_to(work, at.conv, d_inner_, rows, hidden);
  }

  void step(GpuWork& work, Index sequences, const float* normed, float* hidden,
            GpuState state) const override {
    const Activations at = activations(work, sequences);
    in_proj_.apply(work, normed, d_model_, sequences, at.xz);

    CausalConv1dUpdate conv{};
    conv.batch = sequences;
    conv.channels = d_inner_;
    conv.width = d_conv_;
    conv.type = ICD_F32;
    conv.silu = 1;
    conv.x = strided(at.xz, 1, 2 * d_inner_);
    conv.y = strided(at.conv, 1, d_inner_);
    conv.weight = conv_.data();
    conv.bias = conv_bias_.data();
    conv.state = state.conv;
    conv.kept = d_conv_ - 1;
    conv.state_slot = conv_floats();
    conv.state_channel = conv.kept;
    check(causal_conv1d_update(conv, work.stream()), "causal_conv1d_update");

    const float* dt_b_c = project(work, at, sequences);
    dt_proj_.apply(work, dt_b_c, projected_, sequences, at.dt);

    StateUpdate update{};
    update.batch = sequences;
    update.channels = d_inner_;
    update.states = d_state_;
    update.type = ICD_F32;
    update.softplus = 1;
    update.state_type = ICD_F32;
    update.state_layout = ICD_STATE_DN;
    update.u = conv.y;
    update.dt = strided(at.dt, 1, d_inner_);
    update.z = strided(at.xz + d_inner_, 1, 2 * d_inner_);
    update.B = strided(dt_b_c + dt_rank_, 1, projected_);
    update.C = strided(dt_b_c + dt_rank_ + d_state_, 1, projected_);
    update.y = conv.y;
    update.A = a_.data();
    update.D = d_.data();
    update.dt_bias = dt_bias_.data();
    update.state = state.scan;
    check(state_update(update, work.stream()), "state_update");
    out_proj_.add_to(work, at.conv, d_inner_, sequences, hidden);
  }

 private:
  struct Activations {
    float* xz;    // (rows, 2 d_inner)
    float* conv;  // (rows, d_inner): after convolution and SiLU, then gated
    float* dt;    // (rows, d_inner): before bias and softplus
  };

  Activations activations(GpuWork& work, std::int64_t rows) const {
    return {.xz = work.floats(Slot::in_proj, rows * 2 * d_inner_),
            .conv = work.floats(Slot::conv, rows * d_inner_),
            .dt = work.floats(Slot::dt, rows * d_inner_)};
  }

  /// dt, B and C, past their norms if there are any: (rows, projected).
  const float* project(GpuWork& work, const Activations& at, std::int64_t rows) const {
    float* dt_b_c = work.floats(Slot::x_proj, rows * projected_);
    x_proj_.apply(work, at.conv, d_inner_, rows, dt_b_c);
    if (norms_.epsilon < 0) return dt_b_c;
    float* out = work.floats(Slot::inner_norm, rows * projected_);
    const auto norm = [&](const GpuTensor& weight, std::int64_t begin, std::int64_t count) {
      RmsNorm args{};
      args.rows = rows;
      args.columns = count;
      args.type = ICD_F32;
      args.eps = norms_.epsilon;
      args.x = dt_b_c + begin;
      args.x_row = projected_;
      args.y = out + begin;
      args.y_row = projected_;
      args.weight = weight.data();
      check(rms_norm(args, work.stream()), "rms_norm");
    };
    norm(norms_.dt, 0, dt_rank_);
    norm(norms_.b, dt_rank_, d_state_);
    norm(norms_.c, dt_rank_ + d_state_, d_state_);
    return out;
  }

  std::int64_t d_model_;
  std::int64_t d_inner_;
  std::int64_t d_state_;
  std::int64_t dt_rank_;
  std::int64_t d_conv_;
  std::int64_t projected_;  // dt_rank + 2 d_state
  GpuLinear in_proj_;
  GpuTensor conv_;
  GpuTensor conv_bias_;
  GpuLinear x_proj_;
  GpuLinear dt_proj_;
  GpuLinear out_proj_;
  GpuTensor d_;
  GpuTensor a_;
  GpuTensor dt_bias_;
  StepSizes steps_;
  InnerNorms norms_;
};

}  // namespace

std::unique_ptr<GpuMixer> gpu_mamba1(const Checkpoint& checkpoint, const Block& block) {
  return std::make_unique<GpuMamba1>(BlockWeights<float>(checkpoint, block));
}

}  // namespace icd
