#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "split_pattern.h"

namespace icd {

/// Cuts text into the pieces that merges do not cross. Immutable; may be used by several
/// threads.
class PreTokenizer {
 public:
  /// Puts a space before every piece that does not begin with one.
  struct PrefixSpace {};
  struct Split {
    SplitPattern pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool is_inverted = false;  ///< what is between the matches counts as the matches
  };
  /// From here on patterns see the symbols of bytes (byte_level.h), not the text.
  struct ByteSymbols {};
  using Step = std::variant<PrefixSpace, Split, ByteSymbols>;

  /// Among `steps` there is one ByteSymbols.
  explicit PreTokenizer(std::vector<Step> steps);

  /// Bytes of a text, none of them empty.
  struct Pieces {
    Pieces() = default;
    Pieces(Pieces&&) = default;
    Pieces& operator=(Pieces&&) = default;

    std::vector<std::string_view> views;  ///< into the text or into `made`
    std::deque<std::string> made;
  };

  /// `text` has to outlive the pieces.
  Pieces cut(std::string_view text) const;

 private:
  std::vector<Step> steps_;
};

}  // namespace icd
