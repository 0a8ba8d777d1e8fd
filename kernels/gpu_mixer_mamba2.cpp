#include <cmath>
#include <limits>
#include <string>

#include "block_weights.h"
#include "kernels/causal_conv1d.h"
#include "kernels/gpu_linear.h"
#include "kernels/gpu_mixer.h"
#include "kernels/rms_norm.h"
#include "kernels/ssd.h"
#include "kernels/state_update.h"

namespace icd {
namespace {

class GpuMamba2 : public GpuMixer {
 public:
  GpuMamba2(const BlockWeights<float>& weights, const std::string& prefix)
      : prefix_(prefix),
        d_model_(weights.size("in")),
        groups_(weights.size("ngroups")),
        heads_(groups_ * weights.size("heads_per_group")),
        head_dim_(weights.size("headdim")),
        d_state_(weights.size("d_state")),
        d_conv_(weights.size("d_conv")),
        d_ssm_(heads_ * head_dim_),
        conv_channels_(d_ssm_ + 2 * groups_ * d_state_),
        projected_(d_ssm_ + conv_channels_ + heads_),
        in_proj_(weights.tensor("in_proj.weight", {projected_, d_model_}),
                 weights.optional("in_proj.bias", {projected_}), projected_, d_model_),
        conv_(weights.tensor("conv1d.weight", {conv_channels_, 1, d_conv_})),
        conv_bias_(weights.optional("conv1d.bias", {conv_channels_})),
        out_proj_(weights.tensor("out_proj.weight", {d_model_, d_ssm_}),
                  weights.optional("out_proj.bias", {d_model_}), d_model_, d_ssm_),
        norm_(weights.optional("norm.weight", {d_ssm_})),
        norm_epsilon_(static_cast<float>(weights.number("norm_eps", 1e-5))),
        norm_groups_(static_cast<std::int64_t>(weights.number("norm_groups", 1))),
        norm_before_gate_(weights.is_set("norm_before_gate") ? 1 : 0),
        d_(weights.tensor("D", {heads_})) {
    steps_.bias = weights.tensor("dt_bias", {heads_});
    steps_.rates = weights.tensor("A_log", {heads_});
    for (float& rate : steps_.rates) rate = std::exp(rate);
    steps_.device_rates = GpuTensor(steps_.rates);
    std::vector<float> a(steps_.rates);
    for (float& value : a) value = -value;
    a_ = GpuTensor(a);
    dt_bias_ = GpuTensor(steps_.bias);
    constexpr double kNoLimit = std::numeric_limits<double>::infinity();
    steps_.least = static_cast<float>(weights.number("dt_min", 0));
    steps_.most = static_cast<float>(weights.number("dt_max", kNoLimit));
    if (steps_.least <= 0 && std::isinf(steps_.most)) steps_.least = steps_.most = 0;
  }

  std::int64_t conv_floats() const noexcept override { return conv_channels_ * (d_conv_ - 1); }
  std::int64_t scan_floats() const noexcept override { return d_ssm_ * d_state_; }
  std::int64_t row_floats() const noexcept override {
    return projected_ + conv_channels_ + 2 * d_ssm_;
  }

  void run(GpuWork& work, BatchShape shape, const float* normed, float* hidden, GpuState state,
           const GpuShow& show) const override {
    const std::int64_t rows = shape.rows();
    const Activations at = activations(work, rows);
    in_proj_.apply(work, normed, d_model_, rows, at.in_proj);

    CausalConv1d conv{};
    conv.batch = shape.sequences;
    conv.length = shape.length;
    conv.channels = conv_channels_;
    conv.width = d_conv_;
    conv.type = ICD_F32;
    conv.silu = 1;
    conv.x = strided(at.in_proj + d_ssm_, shape.length, projected_);
    conv.y = strided(at.conv, shape.length, conv_channels_);
    conv.weight = conv_.data();
    conv.bias = conv_bias_.data();
    conv.initial_state = state.conv;
    conv.final_state = state.conv;
    check(causal_conv1d(conv, work.stream()), "causal_conv1d");
    show.rows(Site::conv, at.conv, rows, conv_channels_, conv_channels_);
    show.steps(steps_, dt_bias_, at.in_proj + d_ssm_ + conv_channels_, rows, projected_);

    Ssd scan{};
    scan.batch = shape.sequences;
    scan.length = shape.length;
    scan.heads = heads_;
    scan.head_dim = head_dim_;
    scan.groups = groups_;
    scan.states = d_state_;
    scan.type = ICD_F32;
    scan.softplus = 1;
    scan.dt_min = steps_.least;
    scan.dt_max = steps_.most;
    scan.x = conv.y;
    scan.dt = strided(at.in_proj + d_ssm_ + conv_channels_, shape.length, projected_);
    if (norm_.data() == nullptr) scan.z = strided(at.in_proj, shape.length, projected_);
    scan.B = strided(at.conv + d_ssm_, shape.length, conv_channels_);
    scan.C = strided(at.conv + d_ssm_ + groups_ * d_state_, shape.length, conv_channels_);
    scan.y = strided(at.scan, shape.length, d_ssm_);
    scan.A = a_.data();
    scan.D = d_.data();
    scan.dt_bias = dt_bias_.data();
    scan.initial_state = state.scan;
    scan.final_state = state.scan;
    scan.workspace = work.bytes(Slot::scan_workspace, ssd_workspace(scan));
    check(ssd(scan, work.stream()), "ssd");

    const float* gated = gate(work, at, rows);
    show.rows(Site::gated, gated, rows, d_ssm_, d_ssm_);
    out_proj_.add_to(work, gated, d_ssm_, rows, hidden);
  }

  void step(GpuWork& work, Index sequences, const float* normed, float* hidden,
            GpuState state) const override {
    const Activations at = activations(work, sequences);
    in_proj_.apply(work, normed, d_model_, sequences, at.in_proj);

    CausalConv1dUpdate conv{};
    conv.batch = sequences;
    conv.channels = conv_channels_;
    conv.width = d_conv_;
    conv.type = ICD_F32;
    conv.silu = 1;
    conv.x = strided(at.in_proj + d_ssm_, 1, projected_);
    conv.y = strided(at.conv, 1, conv_channels_);
    conv.weight = conv_.data();
    conv.bias = conv_bias_.data();
    conv.state = state.conv;
    conv.kept = d_conv_ - 1;
    conv.state_slot = conv_floats();
    conv.state_channel = conv.kept;
    check(causal_conv1d_update(conv, work.stream()), "causal_conv1d_update");

    HeadStateUpdate update{};
    update.batch = sequences;
    update.heads = heads_;
    update.head_dim = head_dim_;
    update.groups = groups_;
    update.states = d_state_;
    update.type = ICD_F32;
    update.softplus = 1;
    update.state_type = ICD_F32;
    update.x = conv.y;
    update.dt = strided(at.in_proj + d_ssm_ + conv_channels_, 1, projected_);
    if (norm_.data() == nullptr) update.z = strided(at.in_proj, 1, projected_);
    update.B = strided(at.conv + d_ssm_, 1, conv_channels_);
    update.C = strided(at.conv + d_ssm_ + groups_ * d_state_, 1, conv_channels_);
    update.y = strided(at.scan, 1, d_ssm_);
    update.A = a_.data();
    update.D = d_.data();
    update.dt_bias = dt_bias_.data();
    update.state = state.scan;
    check(head_state_update(update, work.stream()), "head_state_update");

    out_proj_.add_to(work, gate(work, at, sequences), d_ssm_, sequences, hidden);
  }

  std::string why_no_step() const override {
    if (steps_.most == 0) return {};
    return "block '" + prefix_ + "': limits its step sizes, which decode on a GPU does not";
  }

 private:
  struct Activations {
    float* in_proj;  // (rows, projected): z, then x, B and C, then dt
    float* conv;     // (rows, conv_channels)
    float* scan;     // (rows, d_ssm)
  };

  Activations activations(GpuWork& work, std::int64_t rows) const {
    return {.in_proj = work.floats(Slot::in_proj, rows * projected_),
            .conv = work.floats(Slot::conv, rows * conv_channels_),
            .scan = work.floats(Slot::scan, rows * d_ssm_)};
  }

  /// The gated norm; without one the scan has gated already.
  const float* gate(GpuWork& work, const Activations& at, std::int64_t rows) const {
    if (norm_.data() == nullptr) return at.scan;
    float* gated = work.floats(Slot::gated, rows * d_ssm_);
    RmsNorm args{};
    args.rows = rows;
    args.columns = d_ssm_;
    args.group = d_ssm_ / norm_groups_;
    args.type = ICD_F32;
    args.norm_before_gate = norm_before_gate_;
    args.eps = norm_epsilon_;
    args.x = at.scan;
    args.x_row = d_ssm_;
    args.z = at.in_proj;
    args.z_row = projected_;
    args.y = gated;
    args.y_row = d_ssm_;
    args.weight = norm_.data();
    check(rms_norm(args, work.stream()), "rms_norm");
    return gated;
  }

  std::string prefix_;
  std::int64_t d_model_;
  std::int64_t groups_;
  std::int64_t heads_;
  std::int64_t head_dim_;
  std::int64_t d_state_;
  std::int64_t d_conv_;
  std::int64_t d_ssm_;
  std::int64_t conv_channels_;
  std::int64_t projected_;
  GpuLinear in_proj_;
  GpuTensor conv_;
  GpuTensor conv_bias_;
  GpuLinear out_proj_;
  GpuTensor norm_;
  float norm_epsilon_;
  std::int64_t norm_groups_;
  std::int32_t norm_before_gate_;
  GpuTensor d_;
  GpuTensor a_;
  GpuTensor dt_bias_;
  StepSizes steps_;
};

}  // namespace

std::unique_ptr<GpuMixer> gpu_mamba2(const Checkpoint& checkpoint, const Block& block) {
  return std::make_unique<GpuMamba2>(BlockWeights<float>(checkpoint, block), block.prefix);
}

}  // namespace icd
