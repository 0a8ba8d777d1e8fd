#include <algorithm>
#include <array>

#include "aligned.h"
#include "block_math.h"
#include "cpu_kernels.h"
#include "gemm.h"

namespace icd {
namespace {

// Channels that one thread scans: as in fast_model.
constexpr std::int64_t kChannelsAtOnce = 128;

class FastProduct : public Product<float> {
 public:
  FastProduct(std::unique_ptr<Linear> linear, std::span<const float> bias)
      : linear_(std::move(linear)), bias_(bias.begin(), bias.end()) {}

  void apply(const float* in, std::int64_t ld_in, std::int64_t rows, float* out,
             std::int64_t ld_out) const override {
    linear_->apply(in, ld_in, rows, out, ld_out);
    if (bias_.empty()) return;
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      float* to = out + row * ld_out;
      for (std::size_t i = 0; i < bias_.size(); ++i) to[i] += bias_[i];
    }
  }

 private:
  std::unique_ptr<Linear> linear_;
  std::vector<float> bias_;
};

class FastMath : public BlockMath<float> {
 public:
  FastMath(const CpuKernels& kernels, GemmEngine engine) : kernels_(kernels), engine_(engine) {}

  std::unique_ptr<Product<float>> product(std::span<const float> weight,
                                          std::span<const float> bias, std::int64_t outputs,
                                          std::int64_t inputs) const override {
    const auto rows = static_cast<Index>(outputs);
    const auto columns = static_cast<Index>(inputs);
    return std::make_unique<FastProduct>(engine_ == GemmEngine::onednn
                                             ? onednn_linear(weight, rows, columns)
                                             : fixed_order_linear(kernels_, weight, rows, columns),
                                         bias);
  }

  void each(std::int64_t tasks, const std::function<void(std::int64_t)>& task) const override {
#pragma omp parallel for schedule(dynamic)
    for (std::int64_t i = 0; i < tasks; ++i) task(i);
  }

  void exp(float* values, std::int64_t count) const override {
    in_groups(values, count, [this](float* group, std::int64_t n) { kernels_.exp(group, n); });
  }
  void silu(float* values, std::int64_t count) const override {
    in_groups(values, count, [this](float* group, std::int64_t n) { kernels_.silu(group, n); });
  }
  void softplus(float* values, std::int64_t count) const override {
    static constexpr std::array<float, kChannelsAtOnce> kNoBias = {};
    in_groups(values, count, [this](float* group, std::int64_t n) {
      for (std::int64_t i = 0; i < n; i += kChannelsAtOnce) {
        kernels_.softplus(group + i, kNoBias.data(), std::min(kChannelsAtOnce, n - i));
      }
    });
  }

  void norm(const float* in, std::span<const float> weight, std::span<const float> bias,
            bool is_centred, double epsilon, float* out) const override {
    kernels_.norm({.in = in,
                   .weight = weight.data(),
                   .bias = bias.empty() ? nullptr : bias.data(),
                   .out = out,
                   .channels = std::ssize(weight),
                   .epsilon = static_cast<float>(epsilon),
                   .is_centred = is_centred});
  }

  std::int64_t padded(std::int64_t channels) const override {
    return round_up(channels, kChannelGroup);
  }

  /// (states, padded(channels)): A / ln 2, since the scan's decay is a power of two.
  std::vector<float> scan_rates(std::span<const float> a_log, std::int64_t channels,
                                std::int64_t states) const override {
    const std::int64_t width = padded(channels);
    std::vector<float> rates(static_cast<std::size_t>(states * width));
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t n = 0; n < states; ++n) {
        rates[static_cast<std::size_t>(n * width + c)] =
            a_log[static_cast<std::size_t>(c * states + n)];
      }
    }
    kernels_.exp(rates.data(), std::ssize(rates));
    for (float& rate : rates) rate *= -1.44269504F;
    return rates;
  }

  void scan(const ScanBatch<float>& batch) const override {
    const std::int64_t width = padded(batch.channels);
    const std::int64_t runs = (width + kChannelsAtOnce - 1) / kChannelsAtOnce;
    each(batch.shape.sequences * runs, [&](std::int64_t task) {
      const std::int64_t row = task / runs * batch.shape.length;
      const std::int64_t channel = task % runs * kChannelsAtOnce;
      const std::int64_t channels = std::min(kChannelsAtOnce, width - channel);
      FloatBuffer state(static_cast<std::size_t>(batch.states * channels));
      kernels_.scan({.length = batch.shape.length,
                     .channels = channels,
                     .states = batch.states,
                     .x = batch.x + row * width + channel,
                     .dt = batch.dt + row * width + channel,
                     .y = batch.y + row * width + channel,
                     .ld = width,
                     .z = batch.z + row * width + channel,
                     .ld_z = width,
                     .b = batch.b + row * batch.ld_bc,
                     .c = batch.c + row * batch.ld_bc,
                     .ld_bc = batch.ld_bc,
                     .a = batch.rates + channel,
                     .ld_a = width,
                     .d = batch.d + channel,
                     .state = state.data(),
                     .ld_state = channels});
    });
  }

 private:
  /// The kernels take whole groups of channels: what is left over goes through one of its own.
  template <typename Kernel>
  static void in_groups(float* values, std::int64_t count, Kernel kernel) {
    const std::int64_t whole = count / kChannelGroup * kChannelGroup;
    if (whole > 0) kernel(values, whole);
    if (whole == count) return;
    std::array<float, kChannelGroup> rest = {};
    std::copy(values + whole, values + count, rest.begin());
    kernel(rest.data(), kChannelGroup);
    std::copy_n(rest.begin(), count - whole, values + whole);
  }

  const CpuKernels& kernels_;
  GemmEngine engine_;
};

}  // namespace

std::unique_ptr<BlockMath<float>> fast_math(const FastModelOptions& options) {
  if (options.gemm == GemmEngine::onednn && !is_built_with_onednn()) {
    onednn_linear({}, 0, 0);  // throws
  }
  return std::make_unique<FastMath>(cpu_kernels(best_cpu_path()), options.gemm);
}

}  // namespace icd
