#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/model_spec.h"

namespace icd {

using TokenId = std::int32_t;

/// What calibration may look at inside a layer; rows are (sequence, token) pairs. Widths are
/// those of Mamba-1 and, where it differs, of Mamba-2. block_sites() has them as axes.
enum class Site {
  normed,  ///< the normalised residual that blocks read, once a step: (rows, d_model)
  conv,    ///< after the convolution and SiLU: x, (rows, d_inner); [x; B; C] of all groups
  x_proj,  ///< what x_proj gives, past its norms if any: [dt; B; C], (rows, dt_rank + 2 d_state)
  dt,      ///< the step size after softplus: (rows, d_inner); (rows, nheads)
  decay,   ///< dt times the mean of |A| over the states: as dt
  gated,   ///< what out_proj reads: y * SiLU(z), (rows, d_inner); past the gated norm, if any
};

inline constexpr std::array kSites = {Site::normed, Site::conv,  Site::x_proj,
                                      Site::dt,     Site::decay, Site::gated};

/// Sees activations as they are computed, in token order within a sequence.
template <typename Real>
class Observer {
 public:
  virtual ~Observer() = default;
  virtual bool wants(Site site) const = 0;

  /// `values` is (rows, channels), row-major and packed; valid during the call only. A model
  /// may show the rows of one layer() in several calls: consecutive rows, in order.
  virtual void see(Index layer, Site site, std::span<const Real> values, Index channels) = 0;
};

/// An observer, or nobody, at one layer.
template <typename Real>
struct LayerObserver {
  Observer<Real>* observer = nullptr;
  Index layer = -1;

  bool wants(Site site) const { return observer != nullptr && observer->wants(site); }
};

/// A batch of sequences of one length.
struct BatchShape {
  Index sequences = 0;
  Index length = 0;
  std::int64_t rows() const noexcept { return std::int64_t{sequences} * length; }
};

/// What one layer remembers between tokens, for a batch.
template <typename Real>
struct LayerState {
  std::vector<Real> conv;  ///< (sequences, d_conv - 1, d_inner): the last inputs of the convolution
  std::vector<Real> scan;  ///< (sequences, d_inner, d_state)
};

/// A language model, run a layer at a time so that memory holds one layer's weights and
/// callers can compare two models on the way. Rows are (sequence, token), row-major.
///
/// Two implementations agree within rounding: reference_model, plain loops in double,
/// and fast_model, blocked and vectorised in float. Both read weights of any stored
/// floating dtype and compute in their own. Calls are const and may run concurrently.
template <typename Real>
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;
  virtual const ModelSpec& spec() const noexcept = 0;

  /// hidden = embedding rows of `tokens`: (tokens.size(), d_model).
  /// Throws Error{usage} for an id outside the vocabulary.
  virtual void embed(std::span<const TokenId> tokens, std::span<Real> hidden) const = 0;

  /// hidden += mixer(norm(hidden)) of layer `layer`; hidden is (rows, d_model).
  /// With `state`, the sequences go on from it and leave it at their end; without, they
  /// start from zero. An empty state is made zero of the right size.
  virtual void layer(Index layer, BatchShape shape, std::span<Real> hidden,
                     LayerState<Real>* state = nullptr,
                     Observer<Real>* observer = nullptr) const = 0;

  /// logits = head(norm_f(hidden)): (rows, vocab).
  virtual void head(std::span<const Real> hidden, std::span<Real> logits) const = 0;

  /// embed, every layer, head: (rows, vocab).
  std::vector<Real> logits(std::span<const TokenId> tokens, BatchShape shape) const;

  /// One more token for each sequence; `state` has one entry a layer, or is empty at the
  /// start. Returns (sequences, vocab).
  std::vector<Real> step(std::span<const TokenId> tokens,
                         std::vector<LayerState<Real>>& state) const;
};

/// Plain loops in double, single thread. Source: A. Gu, T. Dao, "Mamba: Linear-time
/// sequence modeling with selective state spaces", 2023, algorithm 2.
/// The checkpoint has to outlive the model.
std::unique_ptr<LanguageModel<double>> reference_model(const Checkpoint& checkpoint,
                                                       const ModelSpec& spec);

/// Which matrix product the fast model uses.
enum class GemmEngine {
  fixed_order,  ///< ours: every sum in one order, so the same bits on any CPU and thread count
  onednn,       ///< oneDNN, where icd was built with it; its sums depend on the CPU
};

struct FastModelOptions {
  GemmEngine gemm = GemmEngine::fixed_order;
  int threads = 0;  ///< 0: as many as OpenMP gives

  /// Weights are converted and arranged when a layer runs; layers and head are kept for the
  /// next time as long as all of them take no more than this. One more part, the last that
  /// ran, is held while it is in use.
  std::int64_t cache_bytes = std::int64_t{1} << 30;
};

/// f32, blocked and vectorised over channels, with run-time CPU dispatch. With
/// GemmEngine::fixed_order the result is the same bit for bit on any x86-64 CPU and any
/// number of threads, however the batch is cut into calls. Working memory is bounded: a long
/// batch passes through a layer some rows at a time. The checkpoint has to outlive the model.
/// Throws Error{unavailable} for an engine that was not built in.
std::unique_ptr<LanguageModel<float>> fast_model(const Checkpoint& checkpoint,
                                                 const ModelSpec& spec,
                                                 const FastModelOptions& options = {});

/// Can reference_model and fast_model run the layout's whole model? Without wiring only Mamba-1
/// models, by their spec.
bool has_model(const Layout& layout) noexcept;

/// The same two for a model of any layout, wired from its blocks; Mamba-1 models run as above.
/// Where blocks are wired, state is refused with Error{unsupported}: sequences run whole.
/// Observers see the sites of a layer's blocks, and Site::normed once a step. Throws
/// Error{unsupported} for a layout that has_model denies or a block without a forward. The
/// checkpoint has to outlive the model; the layout is copied.
std::unique_ptr<LanguageModel<double>> reference_model(const Checkpoint& checkpoint,
                                                       const Layout& layout);
std::unique_ptr<LanguageModel<float>> fast_model(const Checkpoint& checkpoint, const Layout& layout,
                                                 const FastModelOptions& options = {});

bool is_built_with_onednn() noexcept;

}  // namespace icd
