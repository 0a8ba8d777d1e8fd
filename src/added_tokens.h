#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "icd/language_model.h"
#include "split_pattern.h"

namespace icd {

/// A token that is found in the text before anything else looks at it.
struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool is_single_word = false;  ///< only between characters that are not of a word
  bool strips_left = false;     ///< takes the white space before it along
  bool strips_right = false;
  bool is_normalized = false;  ///< is looked for in the normalised text
};

/// A stretch of text, or a token in its place.
struct Fragment {
  std::string_view text;
  TokenId token = -1;  ///< -1: none
};

/// Finds added tokens, the leftmost first, of those the longest. Immutable; may be used by
/// several threads.
/// Source: what the tokenizers library does with AhoCorasick, MatchKind::LeftmostLongest.
class AddedTokenFinder {
 public:
  /// Of tokens with one content the first counts. No content is empty.
  explicit AddedTokenFinder(std::vector<AddedToken> tokens);

  /// `text` in fragments; none is empty but for a token's text, which is unused.
  std::vector<Fragment> cut(std::string_view text) const;

 private:
  struct Match {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::size_t token = 0;
  };
  std::optional<Match> find(std::string_view text, std::size_t from) const;
  bool ends_in_word(std::string_view text) const;
  bool begins_with_word(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  /// A trie: node << 8 | byte gives the next node; 0 is the root.
  std::unordered_map<std::uint64_t, std::uint32_t> next_;
  std::vector<std::optional<std::size_t>> token_at_;  // by node
  std::array<bool, 256> is_first_{};                  // by byte: does a token begin with it?
  SplitPattern word_;
};

}  // namespace icd
