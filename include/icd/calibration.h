#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/tokens.h"

namespace icd {

/// First and second moments of n channels over some rows.
struct Moments {
  std::int64_t rows = 0;
  std::vector<double> mean;        ///< (n)
  std::vector<double> variance;    ///< (n), of the population
  std::vector<float> correlation;  ///< (n, n), Pearson; NaN where a channel never moves
};

/// What calibration knows of one axis group: the same signal on the tokens that may be
/// solved on and on those that may not.
struct GroupStatistics {
  std::string group;   ///< "layers.3/inner", "model"
  std::string signal;  ///< "conv", "gated", "normed", "bc", "dt_rank"
  Moments train;
  Moments heldout;
  /// Quantiles of the step size dt per channel, (5, d_inner): 0.01, 0.25, 0.5, 0.75, 0.99 of
  /// the train tokens. Only for signal "gated" of an inner group.
  std::vector<float> dt_quantiles;
};

struct CalibrationOptions {
  std::vector<std::string> kinds = {"inner", "state", "dt_rank", "model"};  ///< of groups
  std::vector<std::string> signals = {};  ///< empty: all that belong to the kinds
};

/// Runs `model` over the split, a layer at a time, and hands over the statistics of each
/// group and signal as soon as they are complete: layers in order, "model" last. Memory:
/// the residual of all tokens and the matrices of one layer. The same model and tokens
/// give the same bits for any number of threads, if the model's own arithmetic does.
///
/// Signals: inner has "conv" (post-convolution x) and "gated" (y * SiLU(z)); state has "bc"
/// (B and C as observations of the same states); dt_rank has "dt_rank" (the low-rank step
/// that dt_proj reads); model has "normed" (the normalised residual, all layers pooled).
void calibrate(const LanguageModel<float>& model, const Layout& layout, const TokenSplit& tokens,
               const CalibrationOptions& options,
               const std::function<void(GroupStatistics&&)>& sink, Progress& progress);

/// What a statistics file says of itself.
struct StatisticsInfo {
  std::string structure;      ///< Checkpoint::structure_digest() of the model
  std::string source;         ///< what the tokens came from, in words
  std::string tokens_digest;  ///< SHA-256 of the ids, little-endian int32
};

/// Writes statistics as they come, as safetensors (tensors "layers.3/inner.gated.train.mean"
/// (n), ".variance" (n), ".correlation" (n, n), ".rows" (1), "...dt_quantiles" (5, n)), to a
/// sibling temporary that finish() renames. Throws Error{io}.
class StatisticsWriter {
 public:
  StatisticsWriter(const std::filesystem::path& file, StatisticsInfo info);
  ~StatisticsWriter();
  void add(const GroupStatistics& statistics);
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A statistics file, mapped. Throws Error{input} where it is not what the writer makes.
class StatisticsFile {
 public:
  static StatisticsFile open(const std::filesystem::path& file);
  ~StatisticsFile();
  StatisticsFile(StatisticsFile&&) noexcept;

  const StatisticsInfo& info() const noexcept;

  /// Throws Error{input} naming the group and signal if the file has none.
  GroupStatistics read(std::string_view group, std::string_view signal) const;

 private:
  struct Impl;
  explicit StatisticsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace icd
