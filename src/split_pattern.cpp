#include "split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8  // pcre2.h asks for it
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <new>
#include <optional>
#include <utility>

#include "icd/error.h"
#include "quote.h"
#include "utf8.h"

namespace icd {
namespace {

/// Rewrites a pattern, left to right.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string translate() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape();
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        group();
      } else if (c == '{') {
        interval();
      } else if (c == '}') {
        refuse(1);
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::size_t bytes) const {
    throw Error(
        ErrorCode::unsupported,
        fmt::format(
            "pattern {}: {} at byte {} is not in the part of Oniguruma's dialect that icd reads",
            quote(pattern_), quote(pattern_.substr(at_, bytes)), at_));
  }

  std::string_view rest() const { return pattern_.substr(at_); }

  void copy(std::size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  void put(std::size_t bytes, std::string_view text) {
    out_ += text;
    at_ += bytes;
  }

  /// PCRE2's \s counts U+180E as white space, its \w leaves out marks and its \d, \h, \v,
  /// ... differ from Oniguruma's, so those that are used are written out by property.
  void escape() {
    // Oniguruma's CR_Word: Alphabetic, M, Nd, Pc.
    constexpr std::string_view kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
    if (rest().size() < 2) refuse(1);
    const char c = rest()[1];
    switch (c) {
      case 's':
        return put(2, "\\p{White_Space}");
      case 'S':
        return put(2, "\\P{White_Space}");
      case 'd':
        return put(2, "\\p{Nd}");
      case 'D':
        return put(2, "\\P{Nd}");
      case 'w':
        return put(2, in_class_ ? std::string(kWord) : fmt::format("[{}]", kWord));
      case 'W':
        if (in_class_) refuse(2);
        return put(2, fmt::format("[^{}]", kWord));
      case 'n':
      case 'r':
      case 't':
      case 'f':
        return copy(2);
      case 'p':
      case 'P':
        return property();
      case 'x':
        return code_point();
      default:
        // Letters and digits that are left are anchors, back references and classes.
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) refuse(2);
        return copy(1 + utf8_step(rest().substr(1)).bytes);
    }
  }

  void property() {
    const std::size_t end = rest().find('}');
    if (end == std::string_view::npos || rest()[2] != '{') refuse(2);
    copy(end + 1);
  }

  void code_point() {
    if (rest().size() > 2 && rest()[2] == '{') {
      const std::size_t end = rest().find('}');
      if (end == std::string_view::npos) refuse(3);
      return copy(end + 1);
    }
    const auto is_hex = [&](std::size_t i) {
      return i < rest().size() && std::isxdigit(static_cast<unsigned char>(rest()[i])) != 0;
    };
    // \x80 and up are bytes to Oniguruma, characters to PCRE2.
    if (!is_hex(2) || !is_hex(3) || rest()[2] > '7') refuse(2);
    copy(4);
  }

  void character_class() {
    copy(1);
    if (rest().starts_with("^")) copy(1);
    if (rest().starts_with("]")) refuse(1);
    in_class_ = true;
    while (!rest().starts_with("]")) {
      if (rest().empty()) refuse(0);
      if (rest().starts_with("&&")) refuse(2);  // intersection
      if (rest().starts_with("[")) refuse(1);   // a nested class, or one of POSIX
      if (rest().starts_with("\\")) {
        escape();
      } else {
        copy(1);
      }
    }
    in_class_ = false;
    copy(1);
  }

  void group() {
    if (rest().starts_with("(*")) refuse(2);
    if (!rest().starts_with("(?")) return copy(1);
    for (const std::string_view start :
         {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?i)"}) {
      if (rest().starts_with(start)) return copy(start.size());
    }
    refuse(3);
  }

  /// {n}, {n,} and {n,m}; after them Oniguruma reads '+' as a second quantifier, and '?'
  /// after {n} too, where PCRE2 reads possessive and lazy.
  void interval() {
    std::size_t i = 1;
    const auto digits = [&] {
      const std::size_t begin = i;
      while (i < rest().size() && std::isdigit(static_cast<unsigned char>(rest()[i])) != 0) ++i;
      return i > begin;
    };
    if (!digits()) refuse(1);
    const bool is_range = rest().substr(i).starts_with(",");
    if (is_range) {
      ++i;
      digits();
    }
    if (!rest().substr(i).starts_with("}")) refuse(i);
    ++i;
    if (rest().substr(i).starts_with("+")) refuse(i + 1);
    if (!is_range && rest().substr(i).starts_with("?")) refuse(i + 1);
    copy(i);
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
  std::string out_;
};

std::string pcre2_message(int code) {
  std::array<unsigned char, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

struct MatchData {
  explicit MatchData(const pcre2_code* code)
      : data(pcre2_match_data_create_from_pattern(code, nullptr)) {
    if (data == nullptr) throw std::bad_alloc();
  }
  ~MatchData() { pcre2_match_data_free(data); }
  MatchData(const MatchData&) = delete;
  MatchData& operator=(const MatchData&) = delete;
  pcre2_match_data* data;
};

}  // namespace

struct SplitPattern::Code {
  Code(std::string_view pattern, std::uint32_t options) {
    int error = 0;
    std::size_t at = 0;
    pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
    if (context == nullptr) throw std::bad_alloc();
    // Oniguruma's '.', '^' and '$' know no other end of line; PCRE2's default is a build option.
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                         &error, &at, context);
    pcre2_compile_context_free(context);
    if (code == nullptr) {
      throw Error(ErrorCode::unsupported, fmt::format("pattern {}: PCRE2 says: {}, at byte {}",
                                                      quote(pattern), pcre2_message(error), at));
    }
    // Without a JIT for this machine pcre2_match interprets: slower, the same matches.
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  }
  ~Code() { pcre2_code_free(code); }
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;

  /// The next match at or after `offset`; with PCRE2_ANCHORED at `offset` only.
  std::optional<Stretch> find(std::string_view text, std::size_t offset, std::uint32_t options,
                              pcre2_match_data* data) const {
    const auto match = [&](std::uint32_t more) {
      return pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), offset,
                         PCRE2_NO_UTF_CHECK | options | more, data, nullptr);
    };
    int found = match(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match(PCRE2_NO_JIT);  // its stack is a heap
    if (found == PCRE2_ERROR_NOMATCH) return std::nullopt;
    if (found < 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("text: byte {} of a stretch of {}: the pattern that cuts it was "
                              "given up: {}",
                              offset, text.size(), pcre2_message(found)));
    }
    const std::size_t* ends = pcre2_get_ovector_pointer(data);
    return Stretch{ends[0], ends[1], true};
  }

  pcre2_code* code = nullptr;
};

SplitPattern::SplitPattern(std::string_view pcre2_pattern, std::uint32_t options)
    : code_(std::make_unique<Code>(pcre2_pattern, options)) {}
SplitPattern::~SplitPattern() = default;
SplitPattern::SplitPattern(SplitPattern&&) noexcept = default;
SplitPattern& SplitPattern::operator=(SplitPattern&&) noexcept = default;

SplitPattern SplitPattern::regex(std::string_view pattern) {
  return {pcre2_pattern(pattern), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE};
}

SplitPattern SplitPattern::literal(std::string_view text) {
  return {text, PCRE2_UTF | PCRE2_LITERAL};
}

std::vector<Stretch> SplitPattern::stretches(std::string_view text) const {
  const MatchData data(code_->code);
  std::vector<Stretch> out;
  std::size_t end = 0;  // of the last match
  std::size_t from = 0;
  while (from <= text.size()) {
    const std::optional<Stretch> match = code_->find(text, from, 0, data.data);
    if (!match) break;
    if (match->end == match->begin && match->begin == end && !out.empty()) {
      if (from == text.size()) break;
      from += utf8_step(text.substr(from)).bytes;
      continue;
    }
    if (end < match->begin) out.push_back({end, match->begin, false});
    out.push_back(*match);
    end = from = match->end;
  }
  if (end < text.size()) out.push_back({end, text.size(), false});
  return out;
}

bool SplitPattern::matches_at(std::string_view text, std::size_t offset) const {
  const MatchData data(code_->code);
  return code_->find(text, offset, PCRE2_ANCHORED, data.data).has_value();
}

std::string pcre2_pattern(std::string_view oniguruma) { return Translator(oniguruma).translate(); }

std::vector<Stretch> pieces_of(const std::vector<Stretch>& stretches, SplitBehavior behavior) {
  std::vector<Stretch> pieces;
  pieces.reserve(stretches.size());
  if (behavior == SplitBehavior::merged_with_next) {
    bool is_after_match = false;
    for (auto stretch = stretches.rbegin(); stretch != stretches.rend(); ++stretch) {
      if (stretch->is_match && !is_after_match && !pieces.empty()) {
        pieces.back().begin = stretch->begin;
      } else {
        pieces.push_back(*stretch);
      }
      is_after_match = stretch->is_match;
    }
    std::reverse(pieces.begin(), pieces.end());
  } else {
    bool was_match = false;
    for (const Stretch& stretch : stretches) {
      const bool is_joined =
          behavior == SplitBehavior::contiguous
              ? stretch.is_match == was_match
              : behavior == SplitBehavior::merged_with_previous && stretch.is_match && !was_match;
      if (is_joined && !pieces.empty()) {
        pieces.back().end = stretch.end;
      } else if (!stretch.is_match || behavior != SplitBehavior::removed) {
        pieces.push_back(stretch);
      }
      was_match = stretch.is_match;
    }
  }
  std::erase_if(pieces, [](const Stretch& piece) { return piece.begin == piece.end; });
  return pieces;
}

}  // namespace icd
