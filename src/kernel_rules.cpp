#include "icd/kernel_rules.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <optional>

// Sources: causal-conv1d csrc/causal_conv1d.cpp@0d2252d; state-spaces/mamba@e9594ce;
// transformers src/transformers/models@33d1bc0; FlashInfer include/flashinfer/mamba.

namespace icd {
namespace {

using Reach = KernelRule::Reach;

constexpr Index kMultiple = 8;  // elements that the channel-last kernel loads at once
constexpr Index kNarrowestConv = 2;
constexpr Index kWidestConv = 4;
constexpr Index kLargestState = 256;  // of the Mamba-1 scan kernel

// The table that FlashInfer's selective_state_update was released with; it serves both sizes.
constexpr std::array<Index, 3> kFlashInferSizes = {64, 128, 256};

constexpr const char* kConvSource = "causal-conv1d csrc/causal_conv1d.cpp:176-182";
constexpr const char* kChannelMessage =
    "causal_conv1d only supports channel dimension divisible by 8 for now";
constexpr const char* kStrideMessage =
    "causal_conv1d with channel last layout requires strides (x.stride(0) and x.stride(2)) to be "
    "multiples of 8";

std::optional<Index> size_of(const Block& block, std::string_view name) {
  const auto found = block.sizes.find(name);
  return found == block.sizes.end() ? std::nullopt : std::optional(found->second);
}

KernelRule conv_width_rule(Index d_conv) {
  return {
      .id = "conv-width",
      .requirement = fmt::format("d_conv ({}) is {} to {}", d_conv, kNarrowestConv, kWidestConv),
      .holds = d_conv >= kNarrowestConv && d_conv <= kWidestConv,
      .reach = Reach::kernels,
      .where = "causal-conv1d, any call; without that package the convolution is PyTorch's",
      .message = "causal_conv1d only supports width between 2 and 4",
      .source = kConvSource,
      .remedy = "run without causal-conv1d"};
}

/// What a Mamba-2 block's rules depend on. The number of heads may come out fractional.
struct Mamba2Sizes {
  Index d_model = 0;
  Index d_ssm = 0;
  Index d_mlp = 0;
  Index headdim = 0;
  Index ngroups = 0;
  Index d_state = 0;
  Index d_conv = 0;
  std::optional<Index> expand;

  bool has_whole_heads() const { return d_ssm % headdim == 0; }
  Index heads() const { return d_ssm / headdim; }
  std::int64_t channels() const { return d_ssm + std::int64_t{2} * ngroups * d_state; }
  std::int64_t row() const {
    return std::int64_t{2} * (d_mlp + d_ssm) + std::int64_t{2} * ngroups * d_state + heads();
  }
};

/// As config.json states it, which is no size of a tensor.
std::optional<Index> expand_of(const Block& block) {
  if (const auto size = size_of(block, "expand")) return size;
  const auto number = block.numbers.find("expand");
  const bool is_whole = number != block.numbers.end() && number->second >= 1 &&
                        number->second <= 1024 && number->second == std::floor(number->second);
  return is_whole ? std::optional(static_cast<Index>(number->second)) : std::nullopt;
}

std::optional<Mamba2Sizes> mamba2_sizes(const Block& block) {
  const auto in = size_of(block, "in");
  const auto headdim = size_of(block, "headdim");
  const auto ngroups = size_of(block, "ngroups");
  const auto d_state = size_of(block, "d_state");
  const auto d_conv = size_of(block, "d_conv");
  auto d_ssm = size_of(block, "d_ssm");
  const auto heads_per_group = size_of(block, "heads_per_group");
  if (!d_ssm && heads_per_group && ngroups && headdim) {
    d_ssm = *heads_per_group * *ngroups * *headdim;
  }
  if (!in || !headdim || !ngroups || !d_state || !d_conv || !d_ssm) return std::nullopt;
  if (*in < 1 || *headdim < 1 || *ngroups < 1) return std::nullopt;
  return Mamba2Sizes{.d_model = *in,
                     .d_ssm = *d_ssm,
                     .d_mlp = size_of(block, "d_mlp").value_or(0),
                     .headdim = *headdim,
                     .ngroups = *ngroups,
                     .d_state = *d_state,
                     .d_conv = *d_conv,
                     .expand = expand_of(block)};
}

KernelRule inner_size_rule(const Mamba2Sizes& s) {
  const Index d_inner = s.d_mlp + s.d_ssm;
  const Index expand = s.expand.value_or(d_inner / s.d_model);
  return {
      .id = "inner-size",
      .requirement = fmt::format("d_model * expand ({} * {}) = nheads * headdim ({} * {})",
                                 s.d_model, expand, s.heads(), s.headdim),
      .holds = std::int64_t{s.d_model} * expand == std::int64_t{s.heads()} * s.headdim,
      .reach = Reach::kernels,
      .where =
          "transformers' Mamba-2, Bamba, GraniteMoeHybrid; Oxidizr. Not mamba-ssm with d_ssm, "
          "Nemotron-H or Falcon-H1, which have a key of its own for it",
      .message = fmt::format("Inconsistent configuration: hidden_size * expand ({}) must equal "
                             "num_heads * head_dim ({}).",
                             std::int64_t{s.d_model} * expand, std::int64_t{s.heads()} * s.headdim),
      .source = "transformers mamba2/configuration_mamba2.py:97-104; oxidizr src/config.rs:230-245",
      .remedy = "state num_heads and head_dim as the tensors have them"};
}

KernelRule whole_heads_rule(const Mamba2Sizes& s) {
  return {
      .id = "whole-heads",
      .requirement = fmt::format("d_ssm ({}) is a multiple of headdim ({})", s.d_ssm, s.headdim),
      .holds = s.has_whole_heads(),
      .reach = Reach::always,
      .where = "mamba-ssm, when the module is made",
      .message = "AssertionError (assert self.d_ssm % self.headdim == 0)",
      .source = "mamba mamba_ssm/modules/mamba2.py:84",
      .remedy = "a headdim that divides d_ssm"};
}

KernelRule grouped_heads_rule(Index heads, Index ngroups, std::string source) {
  return {.id = "heads-in-groups",
          .requirement = fmt::format("nheads ({}) is a multiple of ngroups ({})", heads, ngroups),
          .holds = heads % ngroups == 0,
          .reach = Reach::always,
          .where =
              "mamba-ssm, when the kernel is called; every forward, since a head reads the B "
              "and C of one group",
          .message = "AssertionError (assert nheads % ngroups == 0)",
          .source = std::move(source),
          .remedy = "another ngroups: it cannot be read from shapes, and may be misstated"};
}

/// Channels and row length of what causal-conv1d is handed: a slice of in_proj's output, so one
/// step in time is a whole row, z, dt and the MLP part included.
std::vector<KernelRule> channel_last_rules(const Mamba2Sizes& s) {
  return {
      {.id = "conv-channels",
       .requirement =
           fmt::format("d_ssm + 2 * ngroups * d_state ({} + 2 * {} * {} = {}) is a multiple of 8",
                       s.d_ssm, s.ngroups, s.d_state, s.channels()),
       .holds = s.channels() % kMultiple == 0,
       .reach = Reach::kernels,
       .where = "causal-conv1d on channel-last input: every CUDA path of mamba-ssm's and "
                "transformers' Mamba-2 (from mamba-ssm 2.3.0 on the fused one asserts it itself)",
       .message = kChannelMessage,
       .source = kConvSource,
       .remedy = "run without causal-conv1d; no headdim changes it"},
      {.id = "conv-row-stride",
       .requirement = fmt::format(
           "2 * d_mlp + 2 * d_ssm + 2 * ngroups * d_state + nheads (2 * {} + 2 * {} + 2 * {} * "
           "{} + {} = {}) is a multiple of 8",
           s.d_mlp, s.d_ssm, s.ngroups, s.d_state, s.heads(), s.row()),
       .holds = s.row() % kMultiple == 0,
       .reach = Reach::kernels,
       .where = "causal-conv1d on a slice of in_proj's output: the paths that are not fused "
                "(inference with a cache, use_mem_eff_path=False), and the fused one before "
                "mamba-ssm 2.2.5; from 2.3.0 on the fused path copies (ensure_stride)",
       .message = kStrideMessage,
       .source = fmt::format("{}; mamba mamba_ssm/ops/triton/ssd_combined.py:59-75; "
                             "state-spaces/mamba#351, #713, #834",
                             kConvSource),
       .remedy = {}},
      conv_width_rule(s.d_conv)};
}

KernelRule flashinfer_rule(std::string_view id, std::string_view name, std::string_view its_name,
                           Index size) {
  const bool listed =
      std::find(kFlashInferSizes.begin(), kFlashInferSizes.end(), size) != kFlashInferSizes.end();
  return {.id = std::string(id),
          .requirement =
              fmt::format("{} ({}) is one of {}", name, size, fmt::join(kFlashInferSizes, ", ")),
          .holds = listed,
          .reach = Reach::flashinfer,
          .where =
              "FlashInfer's selective_state_update as it was released with a table of sizes; "
              "later versions compile a kernel for the sizes asked for, and which of them "
              "they take is stated nowhere",
          .message = fmt::format("Unsupported {} value: {}.\nSupported values: {}", its_name, size,
                                 fmt::join(kFlashInferSizes, ", ")),
          .source =
              "flashinfer include/flashinfer/mamba/selective_state_update.cuh (AllowedDims, "
              "AllowedDstates); flashinfer-ai/flashinfer#2301, #2865 (d_state 96)",
          .remedy = "a later FlashInfer, or mamba-ssm's Triton kernel"};
}

std::vector<KernelRule> mamba2_rules(const Mamba2Sizes& s) {
  std::vector<KernelRule> rules = {inner_size_rule(s), whole_heads_rule(s)};
  if (s.has_whole_heads()) {
    rules.push_back(
        grouped_heads_rule(s.heads(), s.ngroups, "mamba mamba_ssm/ops/triton/ssd_combined.py:835"));
    for (KernelRule& rule : channel_last_rules(s)) rules.push_back(std::move(rule));
  } else {
    rules.push_back(conv_width_rule(s.d_conv));
  }
  rules.push_back(flashinfer_rule("flashinfer-headdim", "headdim", "dim", s.headdim));
  rules.push_back(flashinfer_rule("flashinfer-d_state", "d_state", "dstate", s.d_state));
  return rules;
}

bool fits(const Mamba2Sizes& sizes) {
  const auto rules = mamba2_rules(sizes);
  return std::all_of(rules.begin(), rules.end(), [](const KernelRule& rule) {
    return rule.holds || rule.reach == Reach::flashinfer;
  });
}

std::vector<Index> fitting_divisors(const Mamba2Sizes& sizes) {
  std::vector<Index> fitting;
  for (Index headdim = 1; headdim <= sizes.headdim; ++headdim) {
    if (sizes.headdim % headdim != 0) continue;
    Mamba2Sizes other = sizes;
    other.headdim = headdim;
    if (fits(other)) fitting.push_back(headdim);
  }
  return fitting;
}

/// What to do about a row of the wrong length: fewer or more heads change it, channels do not.
std::string row_remedy(const Mamba2Sizes& sizes) {
  const std::vector<Index> headdims = fitting_divisors(sizes);
  if (headdims.empty()) {
    return "no headdim that divides this one helps; run without causal-conv1d";
  }
  return fmt::format("`icd reshape --headdim {}` rewrites the heads exactly; headdim {} would do",
                     headdims.back(), fmt::join(headdims, ", "));
}

std::vector<KernelRule> mamba1_rules(const Block& block) {
  std::vector<KernelRule> rules;
  if (const auto d_state = size_of(block, "d_state")) {
    rules.push_back(
        {.id = "scan-state",
         .requirement = fmt::format("d_state ({}) is at most {}", *d_state, kLargestState),
         .holds = *d_state <= kLargestState,
         .reach = Reach::kernels,
         .where = "mamba-ssm's selective_scan kernel",
         .message = "selective_scan only supports state dimension <= 256",
         .source = "mamba csrc/selective_scan/selective_scan.cpp:262; "
                   "state-spaces/mamba#120",
         .remedy = "a scan that is not the kernel's (transformers without mamba-ssm)"});
  }
  if (const auto d_inner = size_of(block, "d_inner")) {
    rules.push_back(
        {.id = "conv-channels",
         .requirement = fmt::format("d_inner ({}) is a multiple of 8", *d_inner),
         .holds = *d_inner % kMultiple == 0,
         .reach = Reach::kernels,
         .where = "transformers' Mamba and FalconMamba on CUDA at inference, which hand "
                  "causal-conv1d a transposed view; not mamba-ssm, which computes "
                  "in_proj channel-first",
         .message = kChannelMessage,
         .source = fmt::format("{}; transformers mamba/modeling_mamba.py:194", kConvSource),
         .remedy = "run without causal-conv1d, or with mamba-ssm"});
  }
  if (const auto d_conv = size_of(block, "d_conv")) rules.push_back(conv_width_rule(*d_conv));
  return rules;
}

bool is_power_of_two(Index size) {
  return size > 0 && std::has_single_bit(static_cast<std::uint32_t>(size));
}

/// d_state, or what the rotated and the plain states come to.
std::optional<Index> mamba3_state(const Block& block) {
  if (const auto d_state = size_of(block, "d_state")) return d_state;
  const auto angles = size_of(block, "rope_angles");
  if (!angles) return std::nullopt;
  return 2 * *angles + size_of(block, "d_plain").value_or(0) +
         2 * size_of(block, "d_plain_half").value_or(0);
}

std::vector<KernelRule> mamba3_rules(const Block& block) {
  std::vector<KernelRule> rules;
  const auto headdim = size_of(block, "headdim");
  const auto ngroups = size_of(block, "ngroups");
  const auto per_group = size_of(block, "heads_per_group");
  const auto angles = size_of(block, "rope_angles");
  const Index rank = size_of(block, "mimo_rank").value_or(1);
  const auto d_state = mamba3_state(block);
  constexpr const char* kModule = "mamba mamba_ssm/modules/mamba3.py";
  constexpr const char* kSiso = "mamba mamba_ssm/ops/triton/mamba3/mamba3_siso_combined.py";

  if (const auto d_ssm = size_of(block, "d_ssm"); d_ssm && headdim && *headdim > 0) {
    rules.push_back(
        {.id = "whole-heads",
         .requirement = fmt::format("d_inner ({}) is a multiple of headdim ({})", *d_ssm, *headdim),
         .holds = *d_ssm % *headdim == 0,
         .reach = Reach::always,
         .where = "mamba-ssm, when the module is made",
         .message = "AssertionError",
         .source = fmt::format("{}:93", kModule),
         .remedy = "a headdim that divides d_inner"});
  }
  if (d_state) {
    rules.push_back({.id = "even-state",
                     .requirement = fmt::format("d_state ({}) is even", *d_state),
                     .holds = *d_state % 2 == 0,
                     .reach = Reach::always,
                     .where = "every forward: states are rotated in pairs",
                     .message = {},
                     .source = fmt::format("{}:98-104", kModule),
                     .remedy = "none: the model was made for other code"});
  }
  if (angles) {
    rules.push_back({.id = "an-angle",
                     .requirement = fmt::format("there is at least one rotary angle ({})", *angles),
                     .holds = *angles >= 1,
                     .reach = Reach::always,
                     .where = "mamba-ssm, when the module is made",
                     .message = "AssertionError",
                     .source = fmt::format("{}:98-104", kModule),
                     .remedy = "none: the model was made for other code"});
  }
  if (rank <= 1 && d_state && headdim) {
    rules.push_back({.id = "siso-powers-of-two",
                     .requirement = fmt::format("d_state ({}) and headdim ({}) are powers of two",
                                                *d_state, *headdim),
                     .holds = is_power_of_two(*d_state) && is_power_of_two(*headdim),
                     .reach = Reach::kernels,
                     .where = "mamba-ssm's Triton kernel of single-input Mamba-3",
                     .message = "AssertionError",
                     .source = fmt::format("{}:360,373-374", kSiso),
                     .remedy = "none: the model was made for other code"});
  }
  if (rank > 1 && d_state && angles && *angles > 0) {
    const bool whole = *d_state % *angles == 0;
    const Index divisor = *d_state / *angles;
    rules.push_back(
        {.id = "mimo-rotary-divisor",
         .requirement = fmt::format("d_state / angles ({} / {}) is 2 or 4", *d_state, *angles),
         .holds = whole && (divisor == 2 || divisor == 4),
         .reach = Reach::kernels,
         .where = "mamba-ssm's TileLang kernel of multi-input Mamba-3",
         .message = "AssertionError",
         .source = "mamba mamba_ssm/ops/tilelang/mamba3/mamba3_mimo.py:326",
         .remedy = "none: the model was made for other code"});
  }
  if (ngroups && per_group && *ngroups > 0) {
    const Index heads = *ngroups * *per_group;
    rules.push_back(
        {.id = "decode-groups",
         .requirement = fmt::format("ngroups ({}) is 1 or nheads ({})", *ngroups, heads),
         .holds = *ngroups == 1 || *ngroups == heads,
         .reach = Reach::kernels,
         .where = "mamba-ssm's decoding step, which expands B and C to the heads "
                  "without repeating them",
         .message = {},
         .source = fmt::format("{}:294-295", kModule),
         .remedy = "none that keeps the sizes: decode by running whole sequences"});
  }
  return rules;
}

}  // namespace

std::vector<KernelRule> kernel_rules(const Block& block) {
  std::vector<KernelRule> rules;
  if (block.type == "mamba2") {
    const auto sizes = mamba2_sizes(block);
    if (!sizes) return {};
    rules = mamba2_rules(*sizes);
    for (KernelRule& rule : rules) {
      if (rule.id == "conv-row-stride" && !rule.holds) rule.remedy = row_remedy(*sizes);
    }
  } else if (block.type == "oxidizr_mamba2") {
    const auto sizes = mamba2_sizes(block);
    if (!sizes) return {};
    rules = {inner_size_rule(*sizes),
             grouped_heads_rule(sizes->heads(), sizes->ngroups, "oxidizr src/config.rs:230-245")};
  } else if (block.type == "mamba1") {
    rules = mamba1_rules(block);
  } else if (block.type == "mamba3" || block.type == "mamba3_mimo") {
    rules = mamba3_rules(block);
  }
  for (KernelRule& rule : rules) {
    if (rule.holds) rule.remedy.clear();
  }
  return rules;
}

std::vector<Index> fitting_headdims(const Block& block) {
  const auto sizes = block.type == "mamba2" ? mamba2_sizes(block) : std::nullopt;
  return sizes ? fitting_divisors(*sizes) : std::vector<Index>();
}

}  // namespace icd
