#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace icd {

/// A stretch of a text, in bytes.
struct Stretch {
  std::size_t begin = 0;
  std::size_t end = 0;
  bool is_match = false;
};

/// A pattern that cuts text, run by PCRE2. Immutable; may be used by several threads.
class SplitPattern {
 public:
  /// `pattern` is written in the dialect of Oniguruma, which the tokenizers library uses;
  /// the part of it that PCRE2 reads alike, or that can be rewritten, is accepted.
  /// Throws Error{unsupported} that names the first thing outside that part.
  static SplitPattern regex(std::string_view pattern);

  /// Matches `text` itself, which is not empty.
  static SplitPattern literal(std::string_view text);

  ~SplitPattern();
  SplitPattern(SplitPattern&&) noexcept;
  SplitPattern& operator=(SplitPattern&&) noexcept;

  /// `text` (UTF-8) as matches and what is between them, without gaps. An empty match is
  /// kept unless it touches the match before it.
  /// Throws Error{unsupported} if a match takes more steps than PCRE2 allows.
  std::vector<Stretch> stretches(std::string_view text) const;

  /// Does a match begin at `offset`?
  bool matches_at(std::string_view text, std::size_t offset) const;

 private:
  struct Code;
  SplitPattern(std::string_view pcre2_pattern, std::uint32_t options);
  std::unique_ptr<Code> code_;
};

/// A pattern of Oniguruma as PCRE2 (options UTF, UCP, MULTILINE) reads it.
/// Throws Error{unsupported} for what would mean something else there.
std::string pcre2_pattern(std::string_view oniguruma);

/// What becomes of the matches, as the tokenizers library names it.
enum class SplitBehavior {
  removed,
  isolated,
  merged_with_previous,
  merged_with_next,
  contiguous,
};

/// The pieces that `stretches` leave, in order, without the empty ones.
std::vector<Stretch> pieces_of(const std::vector<Stretch>& stretches, SplitBehavior behavior);

}  // namespace icd
