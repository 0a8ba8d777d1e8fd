#pragma once

#include <optional>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"
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
};

struct VerifyReport {
  /// Does undoing the plan give back every byte? Absent without a plan.
  std::optional<bool> bytes_equal;
  std::string first_byte_fault;  ///< where it does not: "tensor 'x': element (3, 7) differs"

  std::vector<LogitDifference> logits;  ///< f32, then f64 if asked for

  /// Where the hidden states first part by more than the tolerance: "the embedding",
  /// "layer 3", "the head". Empty if nowhere.
  std::string first_apart;

  bool equivalent() const noexcept;
};

/// Compares two checkpoints. With a plan (original to permuted): undoing it has to give
/// back every byte of every tensor, and all other bytes of weight files of the same kind
/// but checksums. With tokens: both models are run on them, a layer at a time.
/// Throws Error{input} if either is no model, or the plan was made for another.
VerifyReport verify(const Checkpoint& original, const Checkpoint& permuted, const Plan* plan,
                    const VerifyOptions& options, Progress& progress);

}  // namespace icd
