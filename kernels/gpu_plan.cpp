#include "kernels/gpu_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>
#include <string_view>

#include "icd/error.h"

namespace icd {
namespace {

/// A size of a block that a kernel limits.
struct Limit {
  std::string_view size;
  Index most;
};

constexpr std::array kMamba1Limits = {Limit{"d_state", 256}, Limit{"d_conv", 8}};
constexpr std::array kMamba2Limits = {Limit{"d_state", 256}, Limit{"d_conv", 8},
                                      Limit{"headdim", 256}, Limit{"d_mlp", 0}};

constexpr std::array<std::string_view, 1> kMamba1Numbers = {"mixer_norm_eps"};
// The last is in the shapes.
constexpr std::array<std::string_view, 6> kMamba2Numbers = {
    "norm_eps", "norm_groups", "norm_before_gate", "dt_min", "dt_max", "expand"};
constexpr std::array<std::string_view, 1> kWiringNumbers = {"norm_eps"};

/// A type of block that has kernels, and what of it they know.
struct Type {
  std::string_view name;
  std::span<const Limit> limits;
  std::span<const std::string_view> numbers;
};

constexpr std::array kTypes = {Type{"mamba1", kMamba1Limits, kMamba1Numbers},
                               Type{"mamba2", kMamba2Limits, kMamba2Numbers}};

[[noreturn]] void refuse(const std::string& what) {
  throw Error(ErrorCode::unsupported, what, "--device cpu runs it");
}

/// Numbers that a kernel does not know have to be factors of 1.
void check_numbers(const std::string& subject,
                   const std::map<std::string, double, std::less<>>& numbers,
                   std::span<const std::string_view> known) {
  for (const auto& [name, value] : numbers) {
    if (value == 1 || std::ranges::find(known, name) != known.end()) continue;
    refuse(fmt::format("{}: has {} {}, expected 1 on a GPU", subject, name, value));
  }
}

void check_block(const Checkpoint& checkpoint, const Block& block) {
  const std::string subject = fmt::format("block '{}'", block.prefix);
  const auto* type = std::ranges::find(kTypes, block.type, &Type::name);
  if (type == kTypes.end()) {
    refuse(fmt::format("{}: is a {}, on a GPU expected mamba1 or mamba2", subject, block.type));
  }
  for (const Limit& limit : type->limits) {
    const auto size = block.sizes.find(limit.size);
    if (size == block.sizes.end() || size->second <= limit.most) continue;
    refuse(fmt::format("{}: has {} {}, on a GPU expected at most {}", subject, limit.size,
                       size->second, limit.most));
  }
  check_numbers(subject, block.numbers, type->numbers);
  if (block.type != "mamba2") return;
  if (block.tensors.contains("init_states")) {
    refuse(fmt::format("{}: has init_states, which have no kernel on a GPU", subject));
  }
  const auto d = block.tensors.find("D");
  const auto dt_bias = block.tensors.find("dt_bias");
  if (d == block.tensors.end() || dt_bias == block.tensors.end()) return;  // missing: said later
  const StoredTensor* skip = checkpoint.find(d->second);
  const StoredTensor* of_heads = checkpoint.find(dt_bias->second);
  if (skip != nullptr && of_heads != nullptr && skip->shape != of_heads->shape) {
    refuse(fmt::format("tensor '{}': has a value a channel, on a GPU expected one a head",
                       skip->name));
  }
}

/// How the layers of a Mamba-1 model stand, whose layout needs no wiring.
Wiring wiring_of(const Layout& layout) {
  const ModelSpec& spec = layout.spec;
  Wiring wiring;
  wiring.embedding = spec.embedding();
  wiring.final_norm_weight = spec.tensor("norm_f.weight");
  wiring.head = spec.tied_head ? spec.embedding() : spec.head();
  wiring.numbers = {{"norm_eps", spec.norm_epsilon}};
  for (Index i = 0; i < spec.n_layer; ++i) {
    Step step = {.norm_weight = spec.tensor(i, "norm.weight"), .norm_bias = {}, .blocks = {}};
    for (std::size_t b = 0; b < layout.blocks.size(); ++b) {
      if (layout.blocks[b].layer == i) step.blocks.push_back(b);
    }
    wiring.layers.push_back({std::move(step)});
  }
  return wiring;
}

}  // namespace

GpuPlan gpu_plan(const Checkpoint& checkpoint, const Layout& layout) {
  const std::string subject = fmt::format("layout '{}'", layout.name);
  const bool is_mamba1 = layout.spec.architecture == "mamba1";
  if (!layout.wiring && !is_mamba1) {
    refuse(fmt::format("{}: is no language model that icd can run", subject));
  }
  const Wiring wiring = layout.wiring ? *layout.wiring : wiring_of(layout);
  if (layout.spec.norm == ModelSpec::Norm::layer || !wiring.final_norm_bias.empty()) {
    refuse(fmt::format("{}: has LayerNorms, on a GPU expected RMSNorms", subject));
  }
  check_numbers(subject, wiring.numbers, kWiringNumbers);

  GpuPlan plan = {.spec = layout.spec,
                  .embedding = wiring.embedding,
                  .final_norm = wiring.final_norm_weight,
                  .head = wiring.head,
                  .layers = {}};
  if (const auto eps = wiring.numbers.find("norm_eps"); eps != wiring.numbers.end()) {
    plan.norm_epsilon = eps->second;
  }
  for (std::size_t i = 0; i < wiring.layers.size(); ++i) {
    const std::vector<Step>& steps = wiring.layers[i];
    if (steps.size() != 1 || steps[0].blocks.size() != 1) {
      refuse(
          fmt::format("{}: layer {} is more than one mixer, which a GPU's layer is", subject, i));
    }
    const Block& mixer = layout.blocks[steps[0].blocks[0]];
    if (!steps[0].norm_bias.empty()) {
      refuse(fmt::format("tensor '{}': a LayerNorm's, on a GPU expected RMSNorms",
                         steps[0].norm_bias));
    }
    check_block(checkpoint, mixer);
    plan.layers.push_back({.norm = steps[0].norm_weight, .mixer = mixer});
  }

  const StoredTensor* embedding = checkpoint.find(plan.embedding);
  if (embedding == nullptr || embedding->shape.size() != 2) {
    throw Error(ErrorCode::input,
                fmt::format("tensor '{}': expected one of 2 axes, (vocab, d_model), as embedding",
                            plan.embedding));
  }
  plan.spec.n_layer = static_cast<Index>(plan.layers.size());
  plan.spec.vocab = static_cast<Index>(embedding->shape[0]);
  plan.spec.d_model = static_cast<Index>(embedding->shape[1]);
  if (plan.spec.d_model % 4 != 0) {  // rows begin at multiples of 16 bytes, for cuBLASLt
    refuse(fmt::format("{}: has d_model {}, on a GPU expected a multiple of 4", subject,
                       plan.spec.d_model));
  }
  return plan;
}

std::int64_t weight_bytes(const Checkpoint& checkpoint, const GpuPlan& plan) {
  std::set<std::string_view> names = {plan.embedding, plan.final_norm, plan.head};
  for (const GpuPlan::Layer& layer : plan.layers) {
    names.insert(layer.norm);
    for (const auto& [role, name] : layer.mixer.tensors) names.insert(name);
  }
  std::int64_t elements = 0;
  for (const std::string_view name : names) {
    const StoredTensor* tensor = checkpoint.find(std::string(name));
    if (tensor != nullptr) elements += checkpoint.view(*tensor).elements();
  }
  return elements * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace icd
