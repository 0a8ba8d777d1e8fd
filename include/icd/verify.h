#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/plan.h"
#include "icd/progress.h"

namespace icd {

/// How far two models' logits are apart on the same tokens.
struct LogitDifference {
  std::string arithmetic;       ///< "f32" or "f64": what both models were computed in
  std::int64_t rows = 0;        ///< tokens compared
  double largest_logit = 0;     ///< max |logit| of the original
  double max_abs = 0;           ///< max |difference|
  double relative_l2 = 0;       ///< ||difference|| / ||original||
  double mean_kl = 0;           ///< KL(original || permuted) per token, nats
  double top1_agreement = 1;    ///< share of tokens whose likeliest next token is the same
  std::int64_t non_finite = 0;  ///< logits that are NaN or infinite in both models alike
  double tolerance = 0;         ///< of relative()

  /// max |difference| / max |logit|.
  double relative() const noexcept { return largest_logit > 0 ? max_abs / largest_logit : max_abs; }
  bool within() const noexcept { return relative() <= tolerance; }
};

/// How far the outputs of one block are apart on the same random inputs.
struct BlockDifference {
  std::string block;       ///< the prefix of its tensors
  std::string type;        ///< "mamba2"
  std::string arithmetic;  ///< "f32" or "f64"
  std::int64_t rows = 0;   ///< tokens compared
  double largest = 0;      ///< max |output| of the original
  double max_abs = 0;      ///< max |difference|
  double tolerance = 0;    ///< of relative()

  /// max |difference| / max |output|.
  double relative() const noexcept { return largest > 0 ? max_abs / largest : max_abs; }
  bool within() const noexcept { return relative() <= tolerance; }
};

/// Re-ordered sums round differently: 7.6e-7 of the largest logit was measured for an inner
/// permutation of a 6-layer model in f32. A forgotten binding moves them by percents.
inline constexpr double kToleranceF32 = 1e-5;
inline constexpr double kToleranceF64 = 1e-12;

struct VerifyOptions {
  std::vector<TokenId> tokens = {};  ///< (shape), row-major; without tokens only bytes are compared
  BatchShape shape = {};
  bool in_double = false;  ///< also by the plain double-precision reference
  int threads = 0;
  GemmEngine gemm = GemmEngine::fixed_order;

  /// Makes the whole models that are run in f32; without it, fast_model().
  std::function<std::unique_ptr<LanguageModel<float>>(const Checkpoint&, const Layout&)>
      make_model = {};

  /// Where the whole model cannot be run: of the inputs that its blocks are run on.
  BatchShape block_shape = {.sequences = 2, .length = 48};
  std::uint64_t seed = 1;
};

struct VerifyReport {
  /// Does undoing the plan give back every byte? Absent without a plan.
  std::optional<bool> bytes_equal;
  std::string first_byte_fault;  ///< where it does not: "tensor 'x': element (3, 7) differs"

  /// What was run, in words: "whole model"; "3 blocks, each on random inputs"; "bytes only".
  std::string proof;

  std::vector<LogitDifference> logits;  ///< f32, then f64 if asked for
  std::vector<BlockDifference> blocks;  ///< f32 of all, then f64 if asked for

  /// Blocks that icd cannot run, by prefix: only the bytes speak for them.
  std::vector<std::string> not_run;

  /// Where the hidden states, or the outputs of a block, first part by more than the tolerance:
  /// "the embedding", "layer 3", "the head", "block 'layers.0.mixer.'". Empty if nowhere.
  std::string first_apart;

  bool equivalent() const noexcept;
};

/// Compares two checkpoints of one layout. With a plan (original to permuted): undoing it has
/// to give back every byte of every tensor, and all other bytes of weight files of the same kind
/// but checksums. Then the outputs, by the strongest proof there is:
///   where icd can run the whole model (has_model), both are run on the tokens, a layer at a
///   time; without tokens only bytes are compared.
///   Elsewhere every block that has a forward is run on random inputs in both checkpoints, input
///   and output channels in the orders that the plan gives them, as they were without a plan.
/// Throws Error{input} if the layouts differ or the plan was made for another model,
/// Error{unsupported} if there is no plan and nothing that icd can run.
VerifyReport verify(const Checkpoint& original, const Layout& layout, const Checkpoint& permuted,
                    const Layout& permuted_layout, const Plan* plan, const VerifyOptions& options,
                    Progress& progress);

}  // namespace icd
