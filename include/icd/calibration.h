#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
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
  std::vector<double> mean = {};        ///< (n)
  std::vector<double> variance = {};    ///< (n), of the population
  std::vector<float> correlation = {};  ///< (n, n), Pearson; NaN where a channel never moves
};

/// What calibration knows of one axis group: the same signal on the tokens that may be
/// solved on and on those that may not.
struct GroupStatistics {
  std::string group;   ///< "layers.3/inner", "model"
  std::string signal;  ///< "conv", "gated", "normed", "bc", "dt_rank"
  Moments train;
  Moments heldout;
  /// Quantiles of the step size dt per channel, (5, d_inner): 0.01, 0.25, 0.5, 0.75, 0.99 of
  /// the train tokens. Exact up to 2^26 values (tokens * d_inner), beyond that within 1/128 of
  /// the value between 1e-6 and 128. Only for signal "gated" of an inner group.
  std::vector<float> dt_quantiles = {};
};

struct CalibrationOptions {
  std::vector<std::string> kinds = {"inner", "state", "dt_rank", "model"};  ///< of groups
  std::vector<std::string> signals = {};  ///< empty: all that belong to the kinds
};

/// A group and signal that calibration is going to measure.
struct StatisticsEntry {
  std::string group;
  std::string signal;
  Index layer = -1;  ///< as AxisGroup has it
  Index size = 0;    ///< channels
  bool has_dt_quantiles = false;
};

/// The signal that tells how alike the members of a kind of group are: `wanted` if the kind
/// has it, else the kind's first; empty for a kind without signals.
std::string_view signal_for(std::string_view kind, std::string_view wanted);

/// What calibrate() hands over for these options, in its order: layers in order, groups
/// as the layout has them, "model" last. Kinds that the layout does not have are left out.
/// Throws Error{usage} for a kind without signals, or a signal that belongs to no kind asked for.
std::vector<StatisticsEntry> statistics_entries(const Layout& layout,
                                                const CalibrationOptions& options = {});

/// Runs `model` over the split, a layer at a time, and hands over the statistics of each
/// group and signal as soon as they are complete, in the order of statistics_entries().
/// Memory: the residual of all tokens, 2048 rows of activations and the matrices of one
/// layer. The same model and tokens give the same bits for any number of threads, if the
/// model's own arithmetic does.
///
/// Signals: inner has "conv" (post-convolution x) and "gated" (y * SiLU(z)); state has "bc"
/// (B and C as observations of the same states: two rows a token); dt_rank has "dt_rank" (the
/// low-rank step that dt_proj reads); model has "normed" (the normalised residual, all
/// layers pooled).
///
/// Throws Error{usage} if layout, model and split do not fit each other, Error{input} naming
/// group, signal and channel if the model computes a NaN or an infinity.
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
/// sibling temporary that finish() renames. Nothing is kept in memory: the file gets its
/// header and its size at once, from the entries. Throws Error{io}.
class StatisticsWriter {
 public:
  /// `entries` is what is going to be added.
  StatisticsWriter(const std::filesystem::path& file, const StatisticsInfo& info,
                   std::span<const StatisticsEntry> entries);

  /// Removes the temporary if finish() did not come that far.
  ~StatisticsWriter();
  StatisticsWriter(const StatisticsWriter&) = delete;
  StatisticsWriter& operator=(const StatisticsWriter&) = delete;

  /// In any order. Throws Error{usage} for what is not among the entries, is of another
  /// size, or comes twice.
  void add(const GroupStatistics& statistics);

  /// Puts the file in its place, on disk. Throws Error{usage} if an entry never came.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A statistics file, mapped. Throws Error{input} where it is not what the writer makes:
/// open() checks the container and our metadata, read() what it reads, values included.
class StatisticsFile {
 public:
  static StatisticsFile open(const std::filesystem::path& file);
  ~StatisticsFile();
  StatisticsFile(StatisticsFile&&) noexcept;
  StatisticsFile& operator=(StatisticsFile&&) noexcept;

  const StatisticsInfo& info() const noexcept;

  /// Throws Error{input} naming the group and signal if the file has none.
  GroupStatistics read(std::string_view group, std::string_view signal) const;

 private:
  struct Impl;
  explicit StatisticsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace icd
