#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "icd/language_model.h"

namespace icd {

/// Token ids from a file: .npy (1-D or 2-D integers of any width, C or Fortran order,
/// little- or big-endian), .safetensors (its only tensor, or the one called "input_ids" or
/// "tokens"), or text (integers apart by white space or commas).
/// 2-D arrays are read row after row. Throws Error{input} naming the file, the place and
/// what was found: not an integer, negative, too large, empty.
std::vector<TokenId> read_tokens(const std::filesystem::path& file);

/// A short English text for calibration and verification when the user gives none:
/// an excerpt of an ELTeC-eng novel (see experiments/text).
std::string_view builtin_text() noexcept;

/// `count` ids drawn uniformly from [0, vocab), for models without a tokenizer.
std::vector<TokenId> random_tokens(Index vocab, std::int64_t count, std::uint64_t seed);

/// Ids cut into equal sequences, the last few of them held out.
struct TokenSplit {
  BatchShape train_shape;
  BatchShape heldout_shape;
  std::vector<TokenId> train;    ///< (train_shape), row-major
  std::vector<TokenId> heldout;  ///< (heldout_shape); later text than any of train
};

/// At most `limit` ids of `ids`, in sequences of `length`; the last `heldout` share of the
/// sequences, at least one, is held out. A shorter text gives shorter sequences.
/// Throws Error{usage} when there are not ids enough for two sequences of 2 tokens.
TokenSplit split_tokens(std::span<const TokenId> ids, Index length, std::int64_t limit,
                        double heldout);

}  // namespace icd
