#include <algorithm>
#include <cmath>

#include "block_math.h"

namespace icd {
namespace {

class ReferenceProduct : public Product<double> {
 public:
  ReferenceProduct(std::span<const double> weight, std::span<const double> bias,
                   std::int64_t outputs, std::int64_t inputs)
      : weight_(weight.begin(), weight.end()),
        bias_(bias.begin(), bias.end()),
        outputs_(outputs),
        inputs_(inputs) {}

  void apply(const double* in, std::int64_t ld_in, std::int64_t rows, double* out,
             std::int64_t ld_out) const override {
    for (std::int64_t row = 0; row < rows; ++row) {
      const double* x = in + row * ld_in;
      for (std::int64_t i = 0; i < outputs_; ++i) {
        double sum = 0;
        const double* w = weight_.data() + i * inputs_;
        for (std::int64_t k = 0; k < inputs_; ++k) sum += w[k] * x[k];
        out[row * ld_out + i] = bias_.empty() ? sum : sum + bias_[static_cast<std::size_t>(i)];
      }
    }
  }

 private:
  std::vector<double> weight_;
  std::vector<double> bias_;
  std::int64_t outputs_;
  std::int64_t inputs_;
};

class ReferenceMath : public BlockMath<double> {
 public:
  std::unique_ptr<Product<double>> product(std::span<const double> weight,
                                           std::span<const double> bias, std::int64_t outputs,
                                           std::int64_t inputs) const override {
    return std::make_unique<ReferenceProduct>(weight, bias, outputs, inputs);
  }

  void each(std::int64_t tasks, const std::function<void(std::int64_t)>& task) const override {
    for (std::int64_t i = 0; i < tasks; ++i) task(i);
  }

  void exp(double* values, std::int64_t count) const override {
    for (std::int64_t i = 0; i < count; ++i) values[i] = std::exp(values[i]);
  }
  void silu(double* values, std::int64_t count) const override {
    for (std::int64_t i = 0; i < count; ++i) values[i] = gate(values[i]);
  }
  void softplus(double* values, std::int64_t count) const override {
    for (std::int64_t i = 0; i < count; ++i) {
      const double x = values[i];
      values[i] = std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x)));
    }
  }

  void norm(const double* in, std::span<const double> weight, std::span<const double> bias,
            bool is_centred, double epsilon, double* out) const override {
    const auto count = static_cast<double>(weight.size());
    double mean = 0;
    if (is_centred) {
      for (std::size_t i = 0; i < weight.size(); ++i) mean += in[i];
      mean /= count;
    }
    double squares = 0;
    for (std::size_t i = 0; i < weight.size(); ++i) squares += (in[i] - mean) * (in[i] - mean);
    const double scale = 1 / std::sqrt(squares / count + epsilon);
    for (std::size_t i = 0; i < weight.size(); ++i) {
      out[i] = (in[i] - mean) * scale * weight[i] + (bias.empty() ? 0 : bias[i]);
    }
  }

  std::int64_t padded(std::int64_t channels) const override { return channels; }

  std::vector<double> scan_rates(std::span<const double> a_log, std::int64_t /*channels*/,
                                 std::int64_t /*states*/) const override {
    std::vector<double> rates(a_log.begin(), a_log.end());
    for (double& rate : rates) rate = -std::exp(rate);
    return rates;
  }

  void scan(const ScanBatch<double>& batch) const override {
    const std::int64_t channels = batch.channels;
    for (std::int64_t s = 0; s < batch.shape.sequences; ++s) {
      std::vector<double> state(static_cast<std::size_t>(channels * batch.states));
      for (std::int64_t t = 0; t < batch.shape.length; ++t) {
        const std::int64_t row = s * batch.shape.length + t;
        const double* b = batch.b + row * batch.ld_bc;
        const double* c = batch.c + row * batch.ld_bc;
        for (std::int64_t i = 0; i < channels; ++i) {
          const double x = batch.x[row * channels + i];
          const double dt = batch.dt[row * channels + i];
          double y = batch.d[i] * x;
          for (std::int64_t n = 0; n < batch.states; ++n) {
            double& held = state[static_cast<std::size_t>(i * batch.states + n)];
            held = std::exp(dt * batch.rates[i * batch.states + n]) * held + dt * b[n] * x;
            y += c[n] * held;
          }
          batch.y[row * channels + i] = y * gate(batch.z[row * channels + i]);
        }
      }
    }
  }

 private:
  static double gate(double x) { return x / (1 + std::exp(-x)); }
};

}  // namespace

std::unique_ptr<BlockMath<double>> reference_math() { return std::make_unique<ReferenceMath>(); }

}  // namespace icd
