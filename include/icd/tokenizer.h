#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/language_model.h"

namespace icd {

/// Byte-level BPE as a Hugging Face tokenizer.json describes it: added tokens, normaliser
/// (none or NFC, NFD, NFKC, NFKD, alone or in a Sequence), pre-tokeniser (ByteLevel, Split,
/// Digits, Punctuation, Sequence of them), model BPE. Ids are those of the tokenizers library
/// for encode(text, add_special_tokens=False) without truncation and padding, but for
/// characters that were added to Unicode after the versions that PCRE2 and utf8proc here, or
/// the library's parts, know. Calls are const and may run concurrently.
class Tokenizer {
 public:
  /// Throws Error{input} for a malformed file, Error{unsupported} naming the part of a
  /// well-formed one that icd does not implement, Error{io} if it cannot be read.
  static Tokenizer open(const std::filesystem::path& tokenizer_json);

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  /// `text` is UTF-8. Throws Error{input} with the byte offset if it is not.
  std::vector<TokenId> encode(std::string_view text) const;

  /// The text of ids: what the ByteLevel decoder gives, special tokens included.
  /// Throws Error{usage} for an id that is not in the vocabulary.
  std::string decode(std::span<const TokenId> ids) const;

  Index vocab() const noexcept;  ///< highest id + 1

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace icd
