#include "added_tokens.h"

#include <algorithm>
#include <utility>

#include "utf8.h"

namespace icd {
namespace {

/// White_Space of the Unicode Character Database, the same since version 6.3, in UTF-8.
constexpr std::string_view kWhiteSpace[] = {
    "\t",           "\n",           "\v",           "\f",           "\r",           " ",
    "\xc2\x85",     "\xc2\xa0",     "\xe1\x9a\x80", "\xe2\x80\x80", "\xe2\x80\x81", "\xe2\x80\x82",
    "\xe2\x80\x83", "\xe2\x80\x84", "\xe2\x80\x85", "\xe2\x80\x86", "\xe2\x80\x87", "\xe2\x80\x88",
    "\xe2\x80\x89", "\xe2\x80\x8a", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xe2\x80\xaf", "\xe2\x81\x9f",
    "\xe3\x80\x80"};

std::size_t white_space_before(std::string_view text) {
  const std::size_t bytes = text.size();
  for (bool is_found = true; is_found;) {
    is_found = false;
    for (const std::string_view space : kWhiteSpace) {
      if (!text.ends_with(space)) continue;
      text.remove_suffix(space.size());
      is_found = true;
      break;
    }
  }
  return bytes - text.size();
}

std::size_t white_space_after(std::string_view text) {
  const std::size_t bytes = text.size();
  for (bool is_found = true; is_found;) {
    is_found = false;
    for (const std::string_view space : kWhiteSpace) {
      if (!text.starts_with(space)) continue;
      text.remove_prefix(space.size());
      is_found = true;
      break;
    }
  }
  return bytes - text.size();
}

}  // namespace

// \w of Rust's regex: Unicode Technical Standard 18, annex C.
AddedTokenFinder::AddedTokenFinder(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)),
      token_at_(1),
      word_(SplitPattern::regex("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]")) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    std::uint32_t node = 0;
    for (const char byte : tokens_[i].content) {
      const auto [edge, is_new] =
          next_.try_emplace(std::uint64_t{node} << 8 | static_cast<unsigned char>(byte),
                            static_cast<std::uint32_t>(token_at_.size()));
      if (is_new) token_at_.emplace_back();
      node = edge->second;
    }
    is_first_[static_cast<unsigned char>(tokens_[i].content.front())] = true;
    if (!token_at_[node]) token_at_[node] = i;
  }
}

std::optional<AddedTokenFinder::Match> AddedTokenFinder::find(std::string_view text,
                                                              std::size_t from) const {
  for (std::size_t begin = from; begin < text.size(); ++begin) {
    if (!is_first_[static_cast<unsigned char>(text[begin])]) continue;
    std::optional<Match> match;
    std::uint32_t node = 0;
    for (std::size_t i = begin; i < text.size(); ++i) {
      const auto edge = next_.find(std::uint64_t{node} << 8 | static_cast<unsigned char>(text[i]));
      if (edge == next_.end()) break;
      node = edge->second;
      if (token_at_[node]) match = Match{begin, i + 1, *token_at_[node]};
    }
    if (match) return match;
  }
  return std::nullopt;
}

bool AddedTokenFinder::ends_in_word(std::string_view text) const {
  std::size_t last = text.size() - 1;
  while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xc0) == 0x80) --last;
  return word_.matches_at(text, last);
}

bool AddedTokenFinder::begins_with_word(std::string_view text) const {
  return word_.matches_at(text, 0);
}

std::vector<Fragment> AddedTokenFinder::cut(std::string_view text) const {
  std::vector<Fragment> fragments;
  std::size_t done = 0;
  std::size_t from = 0;
  while (const std::optional<Match> match = find(text, from)) {
    from = match->end;
    const AddedToken& token = tokens_[match->token];
    std::size_t begin = match->begin;
    std::size_t end = match->end;
    if (token.is_single_word) {
      const bool is_glued = (begin > 0 && ends_in_word(text.substr(0, begin))) ||
                            (end < text.size() && begins_with_word(text.substr(end)));
      if (is_glued) continue;
    }
    // The token before may have taken this white space already.
    if (token.strips_left) {
      begin = std::max(begin - white_space_before(text.substr(0, begin)), done);
    }
    if (token.strips_right) end += white_space_after(text.substr(end));
    if (done < begin) fragments.push_back({.text = text.substr(done, begin - done)});
    fragments.push_back({.text = {}, .token = token.id});
    done = end;
  }
  if (done < text.size()) fragments.push_back({.text = text.substr(done)});
  return fragments;
}

}  // namespace icd
