#pragma once

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/expand.h"
#include "icd/plan.h"
#include "icd/progress.h"

namespace icd {

struct RewriteOptions {
  /// The kind of file to write. Files of the input's own kind keep everything but the bytes
  /// of moved tensors: header, pickle, order, names, alignment. Others are written anew.
  Container container = Container::safetensors;

  bool digests = true;  ///< SHA-256 of every weight file read and written

  /// Only where files are written anew: names to leave out, and names to add for tensors
  /// that are there (a PyTorch file can hold one storage under two names).
  std::set<std::string> omitted = {};
  std::map<std::string, std::string> aliases = {};
};

struct RewriteReport {
  std::vector<FileDigest> inputs;   ///< weight files, in order
  std::vector<FileDigest> outputs;  ///< weight files and index, in order
  std::int64_t tensors = 0;
  std::int64_t moved_tensors = 0;
  std::int64_t moved_bytes = 0;
  std::vector<std::string> non_finite;  ///< tensors that hold NaN or infinity, carried bit for bit
};

/// Writes the weight files of `checkpoint` into `folder`, which exists, every tensor that
/// has moves re-ordered: out[i, j, ...] = in[p0[i], p1[j], ...].
///
/// Streams in pieces of a few megabytes: memory stays below 200 MB plus, for PyTorch
/// archives, the largest storage. Reading, moving, hashing and writing overlap.
/// Throws Error{unsupported} if tensors that share bytes would have to move differently,
/// Error{io} if writing fails; what was written by then is the caller's to remove.
RewriteReport rewrite(const Checkpoint& checkpoint, const TensorMoves& moves,
                      const std::filesystem::path& folder, const RewriteOptions& options,
                      Progress& progress);

}  // namespace icd
