#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"
#include "icd/progress.h"
#include "icd/rewrite.h"

namespace icd {

/// A tensor made of rows (entries of axis 0) of another: row i of the new one is row rows[i].
struct RowGather {
  std::vector<Index> rows;
  Shape shape;  ///< of the result; axes after the first may be cut differently

  friend bool operator==(const RowGather&, const RowGather&) = default;
};

/// The same Mamba-2 heads cut differently. A head of P channels computes what P / P' heads of P'
/// channels do that all have its step size, A and D: channels of a head share nothing else.
struct Reshaping {
  Index headdim_before = 0;  ///< of the first block that changes
  Index headdim = 0;
  Index heads_before = 0;  ///< of a block; the blocks of a model may differ
  Index heads = 0;
  std::vector<std::string> blocks;           ///< prefixes of those that change
  std::map<std::string, RowGather> tensors;  ///< by name; others stay as they are
  std::map<std::string, RowGather> back;     ///< what undoes it

  /// config.json with its keys for headdim and number of heads brought up to date and every other
  /// byte as it was; empty if the checkpoint has none.
  std::string config;
  bool config_says_so = false;  ///< does the config state a headdim at all?
};

/// What cutting all Mamba-2 heads of a checkpoint to `headdim` channels takes. Smaller heads get
/// copies of dt's rows in in_proj, dt_bias, A_log and D; larger ones need copies that agree bit
/// for bit. Throws Error{usage} for a headdim that neither divides the present one nor is a
/// multiple of it, or for which the heads of a group are too few; Error{input} naming the first
/// tensor and head that differ; Error{unsupported} for a checkpoint without Mamba-2 blocks or a
/// PyTorch file that holds more than a state dict, which a new file would lose.
Reshaping reshape_heads(const Checkpoint& checkpoint, const Layout& layout, Index headdim);

/// A "mamba2" block as it is with its heads cut to `headdim`, which fits.
Block reshaped_block(Block block, Index headdim);

/// Writes the weight files, under the names they have, into `folder`, which exists. Streams.
/// Throws Error{unsupported} if tensors that share bytes would have to change differently,
/// Error{io}; what was written by then is the caller's to remove.
RewriteReport write_reshaped(const Checkpoint& checkpoint, const Reshaping& reshaping,
                             const std::filesystem::path& folder, Progress& progress);

/// Where `reshaped` is not the reshaping of `original`, or does not give back every byte when it
/// is undone: "tensor 'x': row 3 differs". Empty if nowhere.
std::string reshaping_fault(const Checkpoint& original, const Checkpoint& reshaped,
                            const Reshaping& reshaping);

/// The largest difference between outputs of the blocks before and after, relative to the largest
/// output of the block: each block that changes is run by itself, in f32, on kReshapeTokens
/// random rows.
double reshaping_difference(const Checkpoint& original, const Checkpoint& reshaped,
                            const Layout& layout, const Reshaping& reshaping, Progress& progress);

inline constexpr Index kReshapeTokens = 32;

}  // namespace icd
