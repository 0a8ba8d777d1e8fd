#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <mutex>
#include <utility>

#include "block_body.h"
#include "block_math.h"
#include "gemm.h"
#include "icd/block_forward.h"
#include "icd/error.h"
#include "icd/language_model.h"
#include "layer_call.h"
#include "layer_weights.h"

namespace icd {
namespace {

// Rows that pass through the head's norm together.
constexpr std::int64_t kRowsAtOnce = 512;

double number(const Wiring& wiring, std::string_view name, double fallback) {
  const auto found = wiring.numbers.find(name);
  return found == wiring.numbers.end() ? fallback : found->second;
}

/// Things made when they are first needed, which stay as long as all of them take no more than a
/// budget. The first that fit stay: a model runs its layers in turn, and dropping the oldest
/// would always drop the next one.
template <typename Thing>
class Shelf {
 public:
  Shelf(std::size_t places, std::int64_t bytes) : places_(places), left_(bytes) {}

  template <typename Make>
  std::shared_ptr<const Thing> get(std::size_t place, std::int64_t bytes, Make make) {
    const std::lock_guard lock(mutex_);
    if (places_[place]) return places_[place];
    std::shared_ptr<const Thing> thing = make();
    if (bytes <= left_) {
      left_ -= bytes;
      places_[place] = thing;
    }
    return thing;
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<const Thing>> places_;
  std::int64_t left_;
};

/// How the parts of a model are made in one arithmetic.
template <typename Real>
struct Parts {
  std::unique_ptr<BlockMath<Real>> math;
  std::unique_ptr<BlockForward<Real>> (*block)(const Checkpoint&, const Block&,
                                               const FastModelOptions&);
};

/// The blocks of a layout, wired as it says.
template <typename Real>
class WiredModel : public LanguageModel<Real> {
 public:
  WiredModel(const Checkpoint& checkpoint, const Layout& layout, const FastModelOptions& options,
             Parts<Real> parts)
      : checkpoint_(checkpoint),
        spec_(layout.spec),
        wiring_(*layout.wiring),
        options_(options),
        math_(std::move(parts.math)),
        make_block_(parts.block),
        blocks_(layout.blocks),
        residual_multiplier_(static_cast<Real>(number(wiring_, "residual_multiplier", 1))),
        shelf_(blocks_.size(), options.cache_bytes),
        head_shelf_(1, options.cache_bytes) {
    const StoredTensor* embedding = checkpoint.find(wiring_.embedding);
    if (embedding == nullptr || embedding->shape.size() != 2) {
      throw Error(ErrorCode::input, fmt::format("tensor '{}': expected one of 2 axes, (vocab, "
                                                "d_model), as embedding",
                                                wiring_.embedding));
    }
    spec_.n_layer = static_cast<Index>(wiring_.layers.size());
    spec_.vocab = static_cast<Index>(embedding->shape[0]);
    spec_.d_model = static_cast<Index>(embedding->shape[1]);
    for (const std::vector<Step>& layer : wiring_.layers) {
      for (const Step& step : layer) {
        for (const std::size_t block : step.blocks) {
          if (!has_forward(blocks_[block].type)) {
            throw Error(ErrorCode::unsupported,
                        fmt::format("block '{}': is a {}, which icd cannot run",
                                    blocks_[block].prefix, blocks_[block].type));
          }
        }
      }
    }
  }

  const ModelSpec& spec() const noexcept override { return spec_; }

  void embed(std::span<const TokenId> tokens, std::span<Real> hidden) const override {
    read_embedding(checkpoint_, wiring_.embedding, spec_.vocab, spec_.d_model, tokens, hidden);
    const auto factor = static_cast<Real>(number(wiring_, "embedding_multiplier", 1));
    for (Real& value : hidden) value *= factor;
  }

  void layer(Index layer, BatchShape shape, std::span<Real> hidden, LayerState<Real>* state,
             Observer<Real>* observer) const override {
    prepare_layer_call<Real>(spec_, layer, shape, hidden.size(), nullptr);
    if (state != nullptr) {
      throw Error(ErrorCode::unsupported,
                  "model: only Mamba-1 models run token by token; others run whole sequences");
    }
    const ThreadScope threads(options_.threads);
    for (const Step& step : wiring_.layers[static_cast<std::size_t>(layer)]) {
      run(step, shape, hidden, {observer, layer});
    }
  }

  void head(std::span<const Real> hidden, std::span<Real> logits) const override {
    const std::int64_t rows = prepare_head_call(spec_, hidden.size(), logits.size());
    const ThreadScope threads(options_.threads);
    const std::int64_t bytes = std::int64_t{spec_.vocab} * spec_.d_model * sizeof(Real);
    const auto product = head_shelf_.get(0, bytes, [&] {
      return math_->product(
          read_tensor<Real>(checkpoint_, wiring_.head, {spec_.vocab, spec_.d_model}), {},
          spec_.vocab, spec_.d_model);
    });
    const Norm norm = read_norm(wiring_.final_norm_weight, wiring_.final_norm_bias);
    for (std::int64_t row = 0; row < rows; row += kRowsAtOnce) {
      const std::int64_t count = std::min(kRowsAtOnce, rows - row);
      const Rows<Real> normed = normalised(norm, count, hidden.data() + row * spec_.d_model);
      product->apply(normed[0], spec_.d_model, count, logits.data() + row * spec_.vocab,
                     spec_.vocab);
    }
    const auto factor = static_cast<Real>(number(wiring_, "lm_head_multiplier", 1) /
                                          number(wiring_, "logits_scaling", 1));
    for (Real& value : logits) value *= factor;
  }

 private:
  struct Norm {
    std::vector<Real> weight;
    std::vector<Real> bias;
    bool is_centred = false;
  };

  Norm read_norm(const std::string& weight, const std::string& bias) const {
    Norm norm = {.weight = read_tensor<Real>(checkpoint_, weight, {spec_.d_model}),
                 .bias = {},
                 .is_centred = !bias.empty()};
    if (norm.is_centred) norm.bias = read_tensor<Real>(checkpoint_, bias, {spec_.d_model});
    return norm;
  }

  Rows<Real> normalised(const Norm& norm, std::int64_t rows, const Real* hidden) const {
    const double epsilon = number(wiring_, "norm_eps", 1e-5);
    Rows<Real> out(rows, spec_.d_model);
    math_->each(rows, [&](std::int64_t row) {
      math_->norm(hidden + row * spec_.d_model, norm.weight, norm.bias, norm.is_centred, epsilon,
                  out[row]);
    });
    return out;
  }

  /// hidden += residual_multiplier * (sum of blocks(norm(hidden))).
  void run(const Step& step, BatchShape shape, std::span<Real> hidden,
           const LayerObserver<Real>& observer) const {
    const Rows<Real> normed =
        normalised(read_norm(step.norm_weight, step.norm_bias), shape.rows(), hidden.data());
    show(observer, Site::normed, normed, shape.rows(), spec_.d_model);
    std::vector<Real> sum(hidden.size());
    std::vector<Real> y(hidden.size());
    for (const std::size_t i : step.blocks) {
      block(i)->run(shape, std::span(normed[0], hidden.size()), y, observer);
      for (std::size_t k = 0; k < sum.size(); ++k) sum[k] += y[k];
    }
    for (std::size_t k = 0; k < sum.size(); ++k) hidden[k] += residual_multiplier_ * sum[k];
  }

  std::shared_ptr<const BlockForward<Real>> block(std::size_t i) const {
    const Block& block = blocks_[i];
    std::int64_t bytes = 0;
    for (const auto& [role, name] : block.tensors) {
      const StoredTensor* tensor = checkpoint_.find(name);
      if (tensor == nullptr) continue;
      bytes += checkpoint_.view(*tensor).elements() * static_cast<std::int64_t>(sizeof(Real));
    }
    return shelf_.get(i, bytes, [&] { return make_block_(checkpoint_, block, options_); });
  }

  const Checkpoint& checkpoint_;
  ModelSpec spec_;
  Wiring wiring_;
  FastModelOptions options_;
  std::unique_ptr<BlockMath<Real>> math_;
  std::unique_ptr<BlockForward<Real>> (*make_block_)(const Checkpoint&, const Block&,
                                                     const FastModelOptions&);
  std::vector<Block> blocks_;
  Real residual_multiplier_;
  mutable Shelf<BlockForward<Real>> shelf_;
  mutable Shelf<Product<Real>> head_shelf_;
};

Error no_wiring(const Layout& layout) {
  return Error(ErrorCode::unsupported,
               fmt::format("layout '{}': says of its blocks what they are, but not how they make a "
                           "language model",
                           layout.name),
               "its blocks can be run one by one");
}

bool is_mamba1(const Layout& layout) { return layout.spec.architecture == "mamba1"; }

}  // namespace

bool has_model(const Layout& layout) noexcept {
  return layout.wiring.has_value() || is_mamba1(layout);
}

std::unique_ptr<LanguageModel<double>> reference_model(const Checkpoint& checkpoint,
                                                       const Layout& layout) {
  if (!layout.wiring) {
    if (is_mamba1(layout)) return reference_model(checkpoint, layout.spec);
    throw no_wiring(layout);
  }
  // Like the reference of Mamba-1, it keeps no weights from one layer to the next.
  return std::make_unique<WiredModel<double>>(
      checkpoint, layout, FastModelOptions{.cache_bytes = 0},
      Parts<double>{.math = reference_math(),
                    .block = [](const Checkpoint& from, const Block& block,
                                const FastModelOptions&) { return reference_block(from, block); }});
}

std::unique_ptr<LanguageModel<float>> fast_model(const Checkpoint& checkpoint, const Layout& layout,
                                                 const FastModelOptions& options) {
  if (!layout.wiring) {
    if (is_mamba1(layout)) return fast_model(checkpoint, layout.spec, options);
    throw no_wiring(layout);
  }
  return std::make_unique<WiredModel<float>>(
      checkpoint, layout, options, Parts<float>{.math = fast_math(options), .block = &fast_block});
}

}  // namespace icd
