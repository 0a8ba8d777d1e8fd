#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "block_math.h"
#include "block_weights.h"

namespace icd {

/// What BlockForward::run does once its arguments are known to fit. Bodies keep a reference to
/// the BlockMath that they were made with.
template <typename Real>
class BlockBody {
 public:
  virtual ~BlockBody() = default;

  /// x is (rows, inputs), y (rows, outputs), packed. Shows what block_sites() says of its type.
  virtual void run(BatchShape shape, const Real* x, Real* y,
                   const LayerObserver<Real>& observer) const = 0;
};

/// Shows the first `channels` columns of `values` if anyone wants them.
template <typename Real>
void show(const LayerObserver<Real>& observer, Site site, const Rows<Real>& values,
          std::int64_t rows, std::int64_t channels) {
  if (!observer.wants(site)) return;
  const auto shown = [&](const Real* data) {
    observer.observer->see(observer.layer, site,
                           std::span(data, static_cast<std::size_t>(rows * channels)),
                           static_cast<Index>(channels));
  };
  if (values.width() == channels) return shown(values[0]);
  Rows<Real> packed(rows, channels);
  for (std::int64_t row = 0; row < rows; ++row) std::copy_n(values[row], channels, packed[row]);
  shown(packed[0]);
}

/// The mean of |A| = exp(a_log) over the states: (channels), from (channels, states).
template <typename Real>
std::vector<Real> mean_rates(const BlockMath<Real>& math, std::span<const Real> a_log,
                             std::int64_t channels) {
  std::vector<Real> rates(a_log.begin(), a_log.end());
  math.exp(rates.data(), std::ssize(rates));
  std::vector<Real> mean(static_cast<std::size_t>(channels));
  for (std::int64_t c = 0; c < channels; ++c) {
    const auto own = rows_of(rates, c, 1, std::ssize(rates) / channels);
    mean[static_cast<std::size_t>(c)] =
        std::accumulate(own.begin(), own.end(), Real(0)) / static_cast<Real>(own.size());
  }
  return mean;
}

/// Shows dt times the rate of its channel.
template <typename Real>
void show_decay(const LayerObserver<Real>& observer, const Rows<Real>& dt,
                std::span<const Real> rates, std::int64_t rows) {
  if (!observer.wants(Site::decay)) return;
  Rows<Real> decay(rows, std::ssize(rates));
  for (std::int64_t row = 0; row < rows; ++row) {
    std::transform(rates.begin(), rates.end(), dt[row], decay[row], std::multiplies<Real>());
  }
  show(observer, Site::decay, decay, rows, std::ssize(rates));
}

template <typename Real>
using BodyMaker = std::unique_ptr<BlockBody<Real>> (*)(const BlockWeights<Real>& weights,
                                                       const BlockMath<Real>& math);

// One a file, block_forward_*.cpp, which says what it needs.
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_heads_body(const BlockWeights<Real>& weights,
                                                   const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba1_bidirectional_body(const BlockWeights<Real>& weights,
                                                           const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba2_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba3_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> attention_body(const BlockWeights<Real>& weights,
                                                const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> attention_packed_body(const BlockWeights<Real>& weights,
                                                       const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> mlp_body(const BlockWeights<Real>& weights,
                                          const BlockMath<Real>& math);
template <typename Real>
std::unique_ptr<BlockBody<Real>> experts_body(const BlockWeights<Real>& weights,
                                              const BlockMath<Real>& math);

template <typename Real>
std::unique_ptr<BlockBody<Real>> textbook_body(const BlockWeights<Real>& weights,
                                               const BlockMath<Real>& math);

/// A causal depthwise convolution over rows of `channels`.
template <typename Real>
class Convolution {
 public:
  Convolution() = default;

  /// `weight` is (channels, taps), `bias` (channels) or empty.
  Convolution(std::span<const Real> weight, std::span<const Real> bias, std::int64_t channels)
      : channels_(channels),
        taps_(channels == 0 ? 0 : std::ssize(weight) / channels),
        weight_(weight.size()),
        bias_(static_cast<std::size_t>(channels)) {
    std::copy(bias.begin(), bias.end(), bias_.begin());
    for (std::int64_t c = 0; c < channels_; ++c) {
      for (std::int64_t tap = 0; tap < taps_; ++tap) {
        weight_[static_cast<std::size_t>(tap * channels_ + c)] =
            weight[static_cast<std::size_t>(c * taps_ + tap)];
      }
    }
  }

  /// `in` and `out` are (rows, channels), rows ld apart, and do not overlap.
  void apply(const BlockMath<Real>& math, BatchShape shape, const Real* in, std::int64_t ld_in,
             Real* out, std::int64_t ld_out) const {
    math.each(shape.rows(), [&](std::int64_t row) {
      const std::int64_t token = row % shape.length;
      Real* to = out + row * ld_out;
      std::copy(bias_.begin(), bias_.end(), to);
      for (std::int64_t tap = std::max<std::int64_t>(0, taps_ - 1 - token); tap < taps_; ++tap) {
        const Real* weight = weight_.data() + tap * channels_;
        const Real* from = in + (row - (taps_ - 1) + tap) * ld_in;
        for (std::int64_t c = 0; c < channels_; ++c) to[c] += weight[c] * from[c];
      }
    });
  }

  void apply_silu(const BlockMath<Real>& math, BatchShape shape, const Real* in, std::int64_t ld_in,
                  Real* out, std::int64_t ld_out) const {
    apply(math, shape, in, ld_in, out, ld_out);
    math.each(shape.rows(), [&](std::int64_t row) { math.silu(out + row * ld_out, channels_); });
  }

 private:
  std::int64_t channels_ = 0;
  std::int64_t taps_ = 0;
  std::vector<Real> weight_;  // (taps, channels)
  std::vector<Real> bias_;    // (channels)
};

/// values *= factor, over `count` of them.
template <typename Real>
void scale(Real* values, std::int64_t count, Real factor) {
  for (std::int64_t i = 0; i < count; ++i) values[i] *= factor;
}

/// y += factor * x, over `count` elements.
template <typename Real>
void add_scaled(Real* y, Real factor, const Real* x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) y[i] += factor * x[i];
}

/// y = sum over n of q[n] * state[n]; state is (states, width).
template <typename Real>
void read_state(const Real* q, const Real* state, std::int64_t states, std::int64_t width,
                Real* y) {
  std::fill_n(y, width, Real(0));
  for (std::int64_t n = 0; n < states; ++n) add_scaled(y, q[n], state + n * width, width);
}

/// state += k v^T; state is (states, width).
template <typename Real>
void write_state(const Real* k, const Real* v, std::int64_t states, std::int64_t width,
                 Real* state) {
  for (std::int64_t n = 0; n < states; ++n) add_scaled(state + n * width, k[n], v, width);
}

}  // namespace icd
