#include "icd/block_forward.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "block_body.h"
#include "gemm.h"
#include "icd/error.h"

namespace icd {
namespace {

// Rows that pass through a block together, unless one sequence has more: they bound the memory
// that a long batch takes.
constexpr std::int64_t kRowsAtOnce = 1024;

/// A tensor on whose axis the channels of a site stand.
struct SiteRole {
  Site site;
  std::string_view role;
  int dim;
};

struct Type {
  std::string_view name;
  BodyMaker<float> make_float;
  BodyMaker<double> make_double;
  std::string_view in_role;  ///< a tensor whose axis 1 is the block's input
  std::string_view out_role;
  int out_dim = 0;  ///< the axis of that one which is the block's output
  std::span<const SiteRole> sites = {};
};

constexpr std::array kMamba1Sites = {
    SiteRole{Site::conv, "conv1d.weight", 0}, SiteRole{Site::x_proj, "x_proj.weight", 0},
    SiteRole{Site::dt, "dt_proj.weight", 0}, SiteRole{Site::decay, "dt_proj.weight", 0},
    SiteRole{Site::gated, "out_proj.weight", 1}};

constexpr std::array kMamba2Sites = {
    SiteRole{Site::conv, "conv1d.weight", 0}, SiteRole{Site::dt, "dt_bias", 0},
    SiteRole{Site::decay, "dt_bias", 0}, SiteRole{Site::gated, "out_proj.weight", 1}};

constexpr std::array kTypes = {
    Type{"mamba1", &mamba1_body, &mamba1_body, "in_proj.weight", "out_proj.weight", 0,
         kMamba1Sites},
    Type{"mamba1_bidirectional", &mamba1_bidirectional_body, &mamba1_bidirectional_body,
         "in_proj.weight", "out_proj.weight"},
    Type{"mamba1_tied", &mamba1_bidirectional_body, &mamba1_bidirectional_body, "in_proj.weight",
         "out_proj.weight"},
    Type{"mamba1_two_a", &mamba1_bidirectional_body, &mamba1_bidirectional_body, "in_proj.weight",
         "out_proj.weight"},
    Type{"mamba1_heads", &mamba1_heads_body, &mamba1_heads_body, "in_proj.weight",
         "out_proj.weight"},
    Type{"mamba2", &mamba2_body, &mamba2_body, "in_proj.weight", "out_proj.weight", 0,
         kMamba2Sites},
    Type{"mamba3", &mamba3_body, &mamba3_body, "in_proj.weight", "out_proj.weight"},
    Type{"mamba3_mimo", &mamba3_body, &mamba3_body, "in_proj.weight", "out_proj.weight"},
    Type{"textbook", &textbook_body, &textbook_body, "B.weight", "C.weight"},
    Type{"attention", &attention_body, &attention_body, "q_proj.weight", "o_proj.weight"},
    Type{"rotary_attention", &attention_body, &attention_body, "q_proj.weight", "o_proj.weight"},
    Type{"attention_packed", &attention_packed_body, &attention_packed_body, "in_proj.weight",
         "out_proj.weight"},
    Type{"rotary_attention_packed", &attention_packed_body, &attention_packed_body,
         "in_proj.weight", "out_proj.weight"},
    Type{"mlp", &mlp_body, &mlp_body, "up_proj.weight", "down_proj.weight"},
    Type{"gated_mlp", &mlp_body, &mlp_body, "fc1.weight", "fc2.weight"},
    Type{"granite_mlp", &mlp_body, &mlp_body, "input_linear.weight", "output_linear.weight"},
    Type{"ungated_mlp", &mlp_body, &mlp_body, "up_proj.weight", "down_proj.weight"},
    Type{"experts", &experts_body, &experts_body, "router.weight", "experts.0.down_proj.weight"},
    Type{"granite_experts", &experts_body, &experts_body, "router.layer.weight",
         "output_linear.weight", 1},
    Type{"nemotron_experts", &experts_body, &experts_body, "gate.weight",
         "experts.0.down_proj.weight"},
    Type{"nemotron_latent_experts", &experts_body, &experts_body, "gate.weight",
         "fc2_latent_proj.weight"},
};

const Type* find_type(std::string_view name) noexcept {
  const auto* at = std::ranges::find(kTypes, name, &Type::name);
  return at == kTypes.end() ? nullptr : at;
}

const std::string& tensor_of(const Block& block, std::string_view role) {
  const auto found = block.tensors.find(role);
  if (found == block.tensors.end()) {
    throw Error(ErrorCode::input, fmt::format("block '{}': a {} without the tensor '{}'",
                                              block.prefix, block.type, role));
  }
  return found->second;
}

const Type& type_of(const Block& block) {
  const Type* type = find_type(block.type);
  if (type == nullptr) {
    throw Error(ErrorCode::unsupported,
                fmt::format("block '{}': is a {}, which icd cannot run", block.prefix, block.type));
  }
  return *type;
}

template <typename Real>
class RunnableBlock : public BlockForward<Real> {
 public:
  RunnableBlock(BodyMaker<Real> make, const BlockWeights<Real>& weights,
                std::unique_ptr<BlockMath<Real>> math, int threads)
      : inputs_(static_cast<Index>(weights.size("in"))),
        outputs_(static_cast<Index>(weights.size("out"))),
        in_multiplier_(static_cast<Real>(weights.number("in_multiplier", 1))),
        out_multiplier_(static_cast<Real>(weights.number("out_multiplier", 1))),
        threads_(threads),
        math_(std::move(math)),
        body_(make_body(make, weights)) {}

  Index inputs() const noexcept override { return inputs_; }
  Index outputs() const noexcept override { return outputs_; }

  void run(BatchShape shape, std::span<const Real> x, std::span<Real> y,
           const LayerObserver<Real>& observer) const override {
    if (shape.sequences < 0 || shape.length < 0) {
      throw Error(ErrorCode::usage,
                  fmt::format("batch: shape is ({}, {}), expected no negative size",
                              shape.sequences, shape.length));
    }
    expect_size("inputs", x.size(), shape.rows() * inputs_);
    expect_size("outputs", y.size(), shape.rows() * outputs_);
    if (shape.rows() == 0) return;
    const ThreadScope threads(threads_);
    const auto together = static_cast<Index>(std::max<std::int64_t>(1, kRowsAtOnce / shape.length));
    for (Index s = 0; s < shape.sequences; s += together) {
      const BatchShape part = {.sequences = std::min(together, shape.sequences - s),
                               .length = shape.length};
      const std::int64_t row = std::int64_t{s} * shape.length;
      run_part(part, x.data() + row * inputs_, y.data() + row * outputs_, observer);
    }
  }

 private:
  std::unique_ptr<BlockBody<Real>> make_body(BodyMaker<Real> make,
                                             const BlockWeights<Real>& weights) const {
    const ThreadScope threads(threads_);
    return make(weights, *math_);
  }

  void run_part(BatchShape shape, const Real* x, Real* y,
                const LayerObserver<Real>& observer) const {
    if (in_multiplier_ == 1) {
      body_->run(shape, x, y, observer);
    } else {
      std::vector<Real> scaled(x, x + shape.rows() * inputs_);
      scale(scaled.data(), std::ssize(scaled), in_multiplier_);
      body_->run(shape, scaled.data(), y, observer);
    }
    if (out_multiplier_ != 1) scale(y, shape.rows() * outputs_, out_multiplier_);
  }

  static void expect_size(std::string_view what, std::size_t size, std::int64_t expected) {
    if (static_cast<std::int64_t>(size) != expected) {
      throw Error(ErrorCode::usage,
                  fmt::format("{}: has {} elements, expected {}", what, size, expected));
    }
  }

  Index inputs_;
  Index outputs_;
  Real in_multiplier_;
  Real out_multiplier_;
  int threads_;
  std::unique_ptr<BlockMath<Real>> math_;
  std::unique_ptr<BlockBody<Real>> body_;
};

}  // namespace

bool has_forward(std::string_view type) noexcept { return find_type(type) != nullptr; }

BlockPorts block_ports(const Block& block) {
  const Type& type = type_of(block);
  return {.in = {tensor_of(block, type.in_role), 1},
          .out = {tensor_of(block, type.out_role), type.out_dim}};
}

std::vector<BlockSite> block_sites(const Block& block) {
  const Type* type = find_type(block.type);
  if (type == nullptr) return {};
  std::vector<BlockSite> sites = {{Site::normed, {tensor_of(block, type->in_role), 1}}};
  for (const SiteRole& each : type->sites) {
    sites.push_back({each.site, {tensor_of(block, each.role), each.dim}});
  }
  return sites;
}

std::unique_ptr<BlockForward<double>> reference_block(const Checkpoint& checkpoint,
                                                      const Block& block) {
  return std::make_unique<RunnableBlock<double>>(
      type_of(block).make_double, BlockWeights<double>(checkpoint, block), reference_math(), 0);
}

std::unique_ptr<BlockForward<float>> fast_block(const Checkpoint& checkpoint, const Block& block,
                                                const FastModelOptions& options) {
  return std::make_unique<RunnableBlock<float>>(type_of(block).make_float,
                                                BlockWeights<float>(checkpoint, block),
                                                fast_math(options), options.threads);
}

}  // namespace icd
