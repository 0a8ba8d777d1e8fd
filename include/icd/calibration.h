#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/axis_facts.h"
#include "icd/language_model.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/tokens.h"

namespace icd {

/// What a signal of n channels is like over some rows.
struct Moments {
  std::int64_t rows = 0;
  std::vector<double> mean = {};        ///< (n)
  std::vector<double> variance = {};    ///< (n), of the population
  std::vector<float> minimum = {};      ///< (n)
  std::vector<float> maximum = {};      ///< (n)
  std::vector<float> correlation = {};  ///< (n, n), Pearson; NaN where a channel never moves

  /// (n): the mean over tokens and states of dt |A|, the inverse of the memory in tokens. Empty
  /// where channels have no step size of their own.
  std::vector<double> decay = {};

  /// Which channels were active in the first tokens; null: not asked for.
  std::shared_ptr<const Activity> activity = {};
};

/// What calibration knows of one axis group: the same signal on the tokens that may be
/// solved on and on those that may not.
struct GroupStatistics {
  std::string group;   ///< "layers.3/inner", "model"
  std::string signal;  ///< "gated", "conv", "bc", "dt_rank", "normed"
  Moments train;
  Moments heldout;
  /// Quantiles of the step size dt per channel, (5, n): 0.01, 0.25, 0.5, 0.75, 0.99 of the train
  /// tokens. Exact up to 2^26 values (tokens * n), beyond that within 1/128 of the value between
  /// 1e-6 and 128. Only for signal "gated" of groups whose channels have step sizes.
  std::vector<float> dt_quantiles = {};
};

/// What to measure; a caller pays for what it asks.
struct CalibrationOptions {
  std::vector<std::string> kinds = {};    ///< of groups; empty: all that have signals
  std::vector<std::string> signals = {};  ///< empty: all that the groups have
  std::vector<std::string> groups = {};   ///< by name; empty: all of the kinds
  bool correlation = true;                ///< the dear part: n^2 products a row, 4 n^2 bytes a half
  bool activity = false;
  double active_share = 0.1;  ///< of a token's values, (0, 1]: the largest are the active ones
};

/// Tokens whose activity is kept.
inline constexpr std::int64_t kActivityTokens = 4096;

/// A group and signal that calibration is going to measure.
struct StatisticsEntry {
  std::string group;
  std::string signal;
  Index layer = -1;  ///< as AxisGroup has it
  Index size = 0;    ///< channels
  bool has_dt_quantiles = false;
  bool has_decay = false;
  bool has_correlation = true;
  bool has_activity = false;
};

/// What can be measured of a group, by where its members stand among the channels of what the
/// blocks show (block_sites()); the first is what its order is solved on unless another is asked
/// for. Empty for a group that no site shows.
///
///   gated    what out_proj reads
///   conv     what the convolution gives
///   bc       B and C, where x_proj or the convolution gives them: two rows a token
///   dt_rank  the low-rank step, which dt_proj reads
///   normed   the normalised residual, all layers and steps pooled
///
/// A member that is a run of columns, as a head is one of channels, gives a row for each.
std::vector<std::string_view> signals_of(const Layout& layout, const AxisGroup& group);

/// The signal that tells how alike the members of a group are: `wanted` if the group has it,
/// else its first; empty if it has none.
std::string_view signal_for(const Layout& layout, const AxisGroup& group, std::string_view wanted);

/// The signal that a matrix in this role of a block reads: "gated" for "out_proj.weight",
/// "normed" for a head, which is part of no block and has role "". Empty for a role whose input
/// nothing shows.
std::string_view signal_read_by(std::string_view role) noexcept;

/// Is it a language model that icd can run, with groups that its blocks show?
bool can_calibrate(const Layout& layout);

/// What calibrate() hands over for these options, in its order: layers in order, groups
/// as the layout has them, those of no layer last. Throws Error{usage} for a kind without signals,
/// or a signal that belongs to no kind asked for.
std::vector<StatisticsEntry> statistics_entries(const Layout& layout,
                                                const CalibrationOptions& options = {});

/// Runs `model` over the split, a layer at a time, and hands over the statistics of each
/// group and signal as soon as they are complete, in the order of statistics_entries().
/// Memory: the residual of all tokens, 2048 rows of activations and the matrices of one
/// layer. The same model and tokens give the same bits for any number of threads, if the
/// model's own arithmetic does.
///
/// Activity: a value is active if it is among the active_share largest in magnitude of its
/// token's (rounded, at least one), ties to the lower channel; a channel is if any of its values
/// is. Kept of the first kActivityTokens rows of tokens; where layers are pooled, each has the
/// same share of them.
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
/// (n), ".variance", ".minimum", ".maximum" and ".decay" likewise, ".correlation" (n, n), ".rows"
/// (1), ".activity" (n, 64) and ".active_tokens" (1), "...dt_quantiles" (5, n)), to a
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
/// open() checks the container and our metadata, read() what it reads, values included. What
/// older files do not have, and what was not asked for, is empty.
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
