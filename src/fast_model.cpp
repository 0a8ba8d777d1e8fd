#include "fast_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <mutex>
#include <utility>

#include "aligned.h"
#include "gemm.h"
#include "icd/error.h"
#include "layer_call.h"
#include "layer_weights.h"

namespace icd {
namespace {

// Rows that pass through a layer together: enough for full tiles on many threads, few enough
// that the activations of a 1024-channel layer (10 MiB) stay near the cores.
constexpr std::int64_t kRowsAtOnce = 512;

// Channels that one thread scans: 8 cache lines, so that neighbouring lines are fetched in turn.
constexpr std::int64_t kChannelsAtOnce = 128;

/// One layer, arranged for the kernels. width = d_inner rounded up to kChannelGroup; what
/// stands beyond d_inner is 0.
struct LayerPart {
  std::vector<float> norm;
  std::vector<float> norm_bias;      // may be empty
  std::unique_ptr<Linear> in_proj;   // d_model -> [x (width), z (width)]
  FloatBuffer in_proj_bias;          // (2, width); may be empty
  FloatBuffer conv;                  // (d_conv, width)
  FloatBuffer conv_bias;             // (width)
  std::unique_ptr<Linear> x_proj;    // d_inner -> [dt (dt_rank), B (d_state), C (d_state)]
  std::unique_ptr<Linear> dt_proj;   // dt_rank -> d_inner
  FloatBuffer dt_bias;               // (width)
  FloatBuffer a;                     // (d_state, width): A / ln 2
  FloatBuffer d;                     // (width)
  std::unique_ptr<Linear> out_proj;  // d_inner -> d_model
  std::vector<float> out_proj_bias;  // may be empty

  std::int64_t bytes() const {
    const auto floats = std::ssize(in_proj_bias) + std::ssize(conv) + std::ssize(a);
    return in_proj->bytes() + x_proj->bytes() + dt_proj->bytes() + out_proj->bytes() +
           floats * static_cast<std::int64_t>(sizeof(float));
  }
};

struct HeadPart {
  std::vector<float> norm;
  std::vector<float> norm_bias;  // may be empty
  std::unique_ptr<Linear> head;

  std::int64_t bytes() const { return head->bytes(); }
};

/// Parts that have been arranged, as long as a budget lasts. The first ones that fit stay: a
/// model runs its layers in turn, and dropping the oldest would always drop the next one.
class PartCache {
 public:
  PartCache(Index layers, std::int64_t bytes)
      : layers_(static_cast<std::size_t>(layers)), left_(bytes) {}

  std::shared_ptr<const LayerPart> layer(Index i, const std::function<LayerPart()>& arrange) {
    return get(layers_[static_cast<std::size_t>(i)], arrange);
  }
  std::shared_ptr<const HeadPart> head(const std::function<HeadPart()>& arrange) {
    return get(head_, arrange);
  }

 private:
  template <typename Part>
  std::shared_ptr<const Part> get(std::shared_ptr<const Part>& slot,
                                  const std::function<Part()>& arrange) {
    const std::lock_guard lock(mutex_);
    if (slot) return slot;
    auto part = std::make_shared<const Part>(arrange());
    if (part->bytes() <= left_) {
      left_ -= part->bytes();
      slot = part;
    }
    return part;
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<const LayerPart>> layers_;
  std::shared_ptr<const HeadPart> head_;
  std::int64_t left_;
};

/// The activations of some rows inside a layer, and the memory of their sequences. Rows of
/// `width` channels stand one cache line more apart: rows a multiple of 4 KiB apart would
/// compete for the same few lines of the first-level cache.
struct Workspace {
  FloatBuffer normed;        // (rows, d_model)
  FloatBuffer xz;            // (rows, 2 width): x, z
  FloatBuffer conv;          // (rows, width): after convolution and SiLU, then gated
  FloatBuffer x_proj;        // (rows, dt_rank + 2 d_state)
  FloatBuffer dt;            // (rows, width)
  FloatBuffer out;           // (rows, d_model)
  FloatBuffer history;       // (sequences, d_conv - 1, width)
  FloatBuffer scan;          // (sequences, d_state, width)
  std::vector<float> shown;  // packed copies for the observer
};

/// Workspaces that wait for the next call; as many as ever ran at once.
class WorkspacePool {
 public:
  std::unique_ptr<Workspace> take() {
    const std::lock_guard lock(mutex_);
    if (idle_.empty()) return std::make_unique<Workspace>();
    auto workspace = std::move(idle_.back());
    idle_.pop_back();
    return workspace;
  }
  void give_back(std::unique_ptr<Workspace> workspace) {
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(workspace));
  }

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> idle_;
};

/// Rows that pass together: some whole sequences, or a stretch of one.
struct Pass {
  std::int64_t first_sequence = 0;
  std::int64_t sequences = 0;
  std::int64_t first_token = 0;
  std::int64_t length = 0;  ///< tokens of each sequence
  std::int64_t rows() const { return sequences * length; }
};

const float* or_null(const std::vector<float>& values) {
  return values.empty() ? nullptr : values.data();
}

/// (rows, columns) to (columns, width), as the kernels read it.
FloatBuffer transposed(std::span<const float> values, std::int64_t rows, std::int64_t columns,
                       std::int64_t width) {
  FloatBuffer out(static_cast<std::size_t>(columns * width));
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < columns; ++c) {
      out[static_cast<std::size_t>(c * width + r)] =
          values[static_cast<std::size_t>(r * columns + c)];
    }
  }
  return out;
}

/// A per-channel vector, (width); an empty one is 0.
FloatBuffer widened(std::span<const float> values, std::int64_t width) {
  FloatBuffer out(values.begin(), values.end());
  out.resize(static_cast<std::size_t>(width));
  return out;
}

class FastModel : public LanguageModel<float> {
 public:
  FastModel(const CpuKernels& kernels, const Checkpoint& checkpoint, ModelSpec spec,
            const FastModelOptions& options)
      : kernels_(kernels),
        checkpoint_(checkpoint),
        spec_(std::move(spec)),
        options_(options),
        width_(round_up(spec_.d_inner, kChannelGroup)),
        parts_(spec_.n_layer, options.cache_bytes) {}

  const ModelSpec& spec() const noexcept override { return spec_; }

  void embed(std::span<const TokenId> tokens, std::span<float> hidden) const override {
    read_embedding(checkpoint_, spec_, tokens, hidden);
  }

  void layer(Index layer, BatchShape shape, std::span<float> hidden, LayerState<float>* state,
             Observer<float>* observer) const override {
    prepare_layer_call(spec_, layer, shape, hidden.size(), state);
    if (shape.rows() == 0) return;
    const ThreadScope threads(options_.threads);
    const auto part = parts_.layer(layer, [&] { return arrange_layer(layer); });
    auto workspace = workspaces_.take();

    const std::int64_t together = std::max<std::int64_t>(1, kRowsAtOnce / shape.length);
    const std::int64_t stretch = std::min<std::int64_t>(shape.length, kRowsAtOnce);
    for (std::int64_t s = 0; s < shape.sequences; s += together) {
      const std::int64_t sequences = std::min(together, shape.sequences - s);
      begin_sequences(*workspace, s, sequences, state);
      for (std::int64_t t = 0; t < shape.length; t += stretch) {
        const Pass pass = {.first_sequence = s,
                           .sequences = sequences,
                           .first_token = t,
                           .length = std::min(stretch, shape.length - t)};
        const std::int64_t row = s * shape.length + t;
        run(*part, pass, *workspace, hidden.data() + row * spec_.d_model, layer, observer);
      }
      if (state != nullptr) end_sequences(*workspace, s, sequences, *state);
    }
    workspaces_.give_back(std::move(workspace));
  }

  void head(std::span<const float> hidden, std::span<float> logits) const override {
    const std::int64_t rows = prepare_head_call(spec_, hidden.size(), logits.size());
    const ThreadScope threads(options_.threads);
    const auto part = parts_.head([&] { return arrange_head(); });
    auto workspace = workspaces_.take();
    for (std::int64_t row = 0; row < rows; row += kRowsAtOnce) {
      const std::int64_t count = std::min(kRowsAtOnce, rows - row);
      normalise(part->norm, part->norm_bias, hidden.data() + row * spec_.d_model, count,
                workspace->normed);
      part->head->apply(workspace->normed.data(), spec_.d_model, count,
                        logits.data() + row * spec_.vocab, spec_.vocab);
    }
    workspaces_.give_back(std::move(workspace));
  }

 private:
  std::int64_t row_stride() const { return width_ + kChannelGroup; }
  std::int64_t xz_stride() const { return 2 * width_ + kChannelGroup; }
  std::int64_t x_proj_width() const { return spec_.dt_rank + 2 * std::int64_t{spec_.d_state}; }

  std::unique_ptr<Linear> linear(std::span<const float> weight, std::int64_t outputs,
                                 std::int64_t inputs) const {
    return options_.gemm == GemmEngine::onednn
               ? onednn_linear(weight, static_cast<Index>(outputs), static_cast<Index>(inputs))
               : fixed_order_linear(kernels_, weight, static_cast<Index>(outputs),
                                    static_cast<Index>(inputs));
  }

  LayerPart arrange_layer(Index layer) const {
    auto weights = read_layer<float>(checkpoint_, spec_, layer);
    LayerPart part;
    part.norm = std::move(weights.norm);
    part.norm_bias = std::move(weights.norm_bias);
    part.in_proj =
        linear(widened_halves(weights.in_proj, spec_.d_model), 2 * width_, spec_.d_model);
    if (!weights.in_proj_bias.empty()) {
      const auto halves = widened_halves(weights.in_proj_bias, 1);
      part.in_proj_bias.assign(halves.begin(), halves.end());
    }
    part.conv = transposed(weights.conv, spec_.d_inner, spec_.d_conv, width_);
    part.conv_bias = widened(weights.conv_bias, width_);
    part.x_proj = linear(weights.x_proj, x_proj_width(), spec_.d_inner);
    part.dt_proj = linear(weights.dt_proj, spec_.d_inner, spec_.dt_rank);
    part.dt_bias = widened(weights.dt_proj_bias, width_);
    part.a = transposed(weights.a_log, spec_.d_inner, spec_.d_state, width_);
    kernels_.exp(part.a.data(), std::ssize(part.a));
    for (float& value : part.a) value *= -1.44269504F;  // the scan's decay is a power of two
    part.d = widened(weights.d, width_);
    part.out_proj = linear(weights.out_proj, spec_.d_model, spec_.d_inner);
    part.out_proj_bias = std::move(weights.out_proj_bias);
    return part;
  }

  HeadPart arrange_head() const {
    auto weights = read_head<float>(checkpoint_, spec_);
    return {.norm = std::move(weights.norm),
            .norm_bias = std::move(weights.norm_bias),
            .head = linear(weights.head, spec_.vocab, spec_.d_model)};
  }

  /// (2 d_inner, columns) to (2 width, columns): z begins at row `width`.
  std::vector<float> widened_halves(std::vector<float>& rows, std::int64_t columns) const {
    if (width_ == spec_.d_inner) return std::move(rows);
    std::vector<float> out(static_cast<std::size_t>(2 * width_ * columns));
    const std::int64_t half = spec_.d_inner * columns;
    std::copy_n(rows.begin(), half, out.begin());
    std::copy_n(rows.begin() + half, half, out.begin() + width_ * columns);
    return out;
  }

  /// Loads the memory of some sequences, or clears it.
  void begin_sequences(Workspace& at, std::int64_t first, std::int64_t count,
                       const LayerState<float>* state) const {
    const std::int64_t taps = spec_.d_conv - 1;
    at.history.assign(static_cast<std::size_t>(count * taps * width_), 0.0F);
    at.scan.assign(static_cast<std::size_t>(count * spec_.d_state * width_), 0.0F);
    if (state == nullptr) return;
    for (std::int64_t row = 0; row < count * taps; ++row) {
      std::copy_n(state->conv.data() + (first * taps + row) * spec_.d_inner, spec_.d_inner,
                  at.history.data() + row * width_);
    }
    for_each_state(first, count, [&](std::size_t stored, std::size_t held) {
      at.scan[held] = state->scan[stored];
    });
  }

  void end_sequences(const Workspace& at, std::int64_t first, std::int64_t count,
                     LayerState<float>& state) const {
    const std::int64_t taps = spec_.d_conv - 1;
    for (std::int64_t row = 0; row < count * taps; ++row) {
      std::copy_n(at.history.data() + row * width_, spec_.d_inner,
                  state.conv.data() + (first * taps + row) * spec_.d_inner);
    }
    for_each_state(first, count, [&](std::size_t stored, std::size_t held) {
      state.scan[stored] = at.scan[held];
    });
  }

  /// Visits (place in LayerState::scan, place in Workspace::scan) of every state.
  template <typename Visit>
  void for_each_state(std::int64_t first, std::int64_t count, Visit visit) const {
    for (std::int64_t s = 0; s < count; ++s) {
      for (std::int64_t i = 0; i < spec_.d_inner; ++i) {
        for (std::int64_t n = 0; n < spec_.d_state; ++n) {
          visit(static_cast<std::size_t>(((first + s) * spec_.d_inner + i) * spec_.d_state + n),
                static_cast<std::size_t>((s * spec_.d_state + n) * width_ + i));
        }
      }
    }
  }

  /// The layer for the rows of one pass; `hidden` is (rows, d_model).
  void run(const LayerPart& part, const Pass& pass, Workspace& at, float* hidden, Index layer,
           Observer<float>* observer) const {
    const std::int64_t rows = pass.rows();
    const auto room = [rows](FloatBuffer& buffer, std::int64_t stride) {
      const auto size = static_cast<std::size_t>(rows * stride);
      if (buffer.size() < size) buffer.resize(size);
    };
    room(at.xz, xz_stride());
    room(at.conv, row_stride());
    room(at.x_proj, x_proj_width());
    room(at.dt, row_stride());
    room(at.out, spec_.d_model);
    const auto show = [&](Site site, const FloatBuffer& values, std::int64_t stride,
                          Index channels) {
      if (observer == nullptr || !observer->wants(site)) return;
      at.shown.resize(static_cast<std::size_t>(rows * channels));
      for (std::int64_t row = 0; row < rows; ++row) {
        std::copy_n(values.data() + row * stride, channels, at.shown.data() + row * channels);
      }
      observer->see(layer, site, at.shown, channels);
    };

    normalise(part.norm, part.norm_bias, hidden, rows, at.normed);
    show(Site::normed, at.normed, spec_.d_model, spec_.d_model);

    part.in_proj->apply(at.normed.data(), spec_.d_model, rows, at.xz.data(), xz_stride());
    if (!part.in_proj_bias.empty()) add_to_rows(part.in_proj_bias, at.xz, rows);

    convolve(part, pass, at);
    show(Site::conv, at.conv, row_stride(), spec_.d_inner);

    part.x_proj->apply(at.conv.data(), row_stride(), rows, at.x_proj.data(), x_proj_width());
    show(Site::x_proj, at.x_proj, x_proj_width(), static_cast<Index>(x_proj_width()));

    part.dt_proj->apply(at.x_proj.data(), x_proj_width(), rows, at.dt.data(), row_stride());
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      kernels_.softplus(at.dt.data() + row * row_stride(), part.dt_bias.data(), width_);
    }
    show(Site::dt, at.dt, row_stride(), spec_.d_inner);
    if (observer != nullptr && observer->wants(Site::decay)) {
      show_decay(part, at, rows, layer, *observer);
    }

    scan(part, pass, at);
    show(Site::gated, at.conv, row_stride(), spec_.d_inner);

    part.out_proj->apply(at.conv.data(), row_stride(), rows, at.out.data(), spec_.d_model);
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* out = at.out.data() + row * spec_.d_model;
      float* to = hidden + row * spec_.d_model;
      const float* bias = or_null(part.out_proj_bias);
      for (std::int64_t i = 0; i < spec_.d_model; ++i) {
        to[i] += bias == nullptr ? out[i] : out[i] + bias[i];
      }
    }
  }

  void show_decay(const LayerPart& part, Workspace& at, std::int64_t rows, Index layer,
                  Observer<float>& observer) const {
    constexpr float kLn2 = 0.693147182F;
    std::vector<float> rates(static_cast<std::size_t>(spec_.d_inner));
    for (Index i = 0; i < spec_.d_inner; ++i) {
      float sum = 0;
      for (Index n = 0; n < spec_.d_state; ++n) {
        sum -= part.a[static_cast<std::size_t>(n * width_ + i)];
      }
      rates[static_cast<std::size_t>(i)] = sum * kLn2 / static_cast<float>(spec_.d_state);
    }
    at.shown.resize(static_cast<std::size_t>(rows) * rates.size());
    for (std::int64_t row = 0; row < rows; ++row) {
      std::transform(rates.begin(), rates.end(), at.dt.data() + row * row_stride(),
                     at.shown.data() + row * spec_.d_inner, std::multiplies<float>());
    }
    observer.see(layer, Site::decay, at.shown, spec_.d_inner);
  }

  void normalise(const std::vector<float>& weight, const std::vector<float>& bias, const float* in,
                 std::int64_t rows, FloatBuffer& out) const {
    const auto size = static_cast<std::size_t>(rows * spec_.d_model);
    if (out.size() < size) out.resize(size);
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      kernels_.norm({.in = in + row * spec_.d_model,
                     .weight = weight.data(),
                     .bias = or_null(bias),
                     .out = out.data() + row * spec_.d_model,
                     .channels = spec_.d_model,
                     .epsilon = static_cast<float>(spec_.norm_epsilon),
                     .is_centred = spec_.norm == ModelSpec::Norm::layer});
    }
  }

  void add_to_rows(const FloatBuffer& bias, FloatBuffer& xz, std::int64_t rows) const {
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row) {
      float* to = xz.data() + row * xz_stride();
      for (std::int64_t i = 0; i < 2 * width_; ++i) to[i] += bias[static_cast<std::size_t>(i)];
    }
  }

  /// x to conv, and moves the history on.
  void convolve(const LayerPart& part, const Pass& pass, Workspace& at) const {
    const std::int64_t taps = spec_.d_conv - 1;
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (std::int64_t s = 0; s < pass.sequences; ++s) {
      for (std::int64_t c = 0; c < width_; c += kChannelsAtOnce) {
        const std::int64_t channels = std::min(kChannelsAtOnce, width_ - c);
        const float* in = at.xz.data() + s * pass.length * xz_stride() + c;
        float* history = at.history.data() + s * taps * width_ + c;
        kernels_.conv_silu({.length = pass.length,
                            .channels = channels,
                            .width = spec_.d_conv,
                            .in = in,
                            .ld_in = xz_stride(),
                            .history = history,
                            .ld_history = width_,
                            .weight = part.conv.data() + c,
                            .ld_weight = width_,
                            .bias = part.conv_bias.data() + c,
                            .out = at.conv.data() + s * pass.length * row_stride() + c,
                            .ld_out = row_stride()});
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          const std::int64_t token = pass.length - taps + tap;
          const float* from =
              token < 0 ? history + (token + taps) * width_ : in + token * xz_stride();
          std::copy_n(from, channels, history + tap * width_);
        }
      }
    }
  }

  /// conv becomes gated.
  void scan(const LayerPart& part, const Pass& pass, Workspace& at) const {
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (std::int64_t s = 0; s < pass.sequences; ++s) {
      for (std::int64_t c = 0; c < width_; c += kChannelsAtOnce) {
        const std::int64_t row = s * pass.length;
        float* x = at.conv.data() + row * row_stride() + c;
        const float* b = at.x_proj.data() + row * x_proj_width() + spec_.dt_rank;
        kernels_.scan({.length = pass.length,
                       .channels = std::min(kChannelsAtOnce, width_ - c),
                       .states = spec_.d_state,
                       .x = x,
                       .dt = at.dt.data() + row * row_stride() + c,
                       .y = x,
                       .ld = row_stride(),
                       .z = at.xz.data() + row * xz_stride() + width_ + c,
                       .ld_z = xz_stride(),
                       .b = b,
                       .c = b + spec_.d_state,
                       .ld_bc = x_proj_width(),
                       .a = part.a.data() + c,
                       .ld_a = width_,
                       .d = part.d.data() + c,
                       .state = at.scan.data() + s * spec_.d_state * width_ + c,
                       .ld_state = width_});
      }
    }
  }

  const CpuKernels& kernels_;
  const Checkpoint& checkpoint_;
  ModelSpec spec_;
  FastModelOptions options_;
  std::int64_t width_;  // d_inner, rounded up to kChannelGroup
  mutable PartCache parts_;
  mutable WorkspacePool workspaces_;
};

}  // namespace

std::unique_ptr<LanguageModel<float>> fast_model_on(CpuPath path, const Checkpoint& checkpoint,
                                                    const ModelSpec& spec,
                                                    const FastModelOptions& options) {
  const CpuKernels& kernels = cpu_kernels(path);
  if (!is_supported(path)) {
    throw Error(ErrorCode::unavailable,
                fmt::format("CPU path {}: this machine has no such instructions", kernels.name));
  }
  if (options.gemm == GemmEngine::onednn && !is_built_with_onednn()) {
    onednn_linear({}, 0, 0);  // throws
  }
  return std::make_unique<FastModel>(kernels, checkpoint, spec, options);
}

std::unique_ptr<LanguageModel<float>> fast_model(const Checkpoint& checkpoint,
                                                 const ModelSpec& spec,
                                                 const FastModelOptions& options) {
  return fast_model_on(best_cpu_path(), checkpoint, spec, options);
}

}  // namespace icd
