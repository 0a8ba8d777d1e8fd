#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "icd/language_model.h"

namespace icd {

/// Byte-pair encoding of one piece of text. Immutable; may be used by several threads.
/// Source: R. Sennrich, B. Haddow, A. Birch, "Neural machine translation of rare words with
/// subword units", ACL 2016; over bytes: GPT-2 (byte_level.h).
struct Bpe {
  struct Merge {
    std::int32_t rank = 0;
    TokenId merged = 0;
  };

  std::unordered_map<std::string, TokenId> vocab;   ///< by the token's symbols
  std::unordered_map<std::uint64_t, Merge> merges;  ///< by pair_key
  std::array<TokenId, 256> bytes{};                 ///< ids of single bytes, -1 without one
  TokenId unknown = -1;             ///< stands for a byte without an id; -1: such bytes vanish
  bool is_fusing_unknown = false;   ///< one `unknown` for a run of such bytes
  bool is_ignoring_merges = false;  ///< a piece that is a token is that token

  static std::uint64_t pair_key(TokenId left, TokenId right) noexcept {
    return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 |
           static_cast<std::uint32_t>(right);
  }

  /// Appends the ids of `piece`.
  /// Ties: of two merges of one rank the left one goes first. Cost: O(n log n).
  void encode(std::string_view piece, std::vector<TokenId>& ids) const;
};

}  // namespace icd
