#include "icd/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "added_tokens.h"
#include "bpe.h"
#include "byte_level.h"
#include "icd/error.h"
#include "normal_form.h"
#include "pre_tokenizer.h"
#include "tokenizer_json.h"
#include "utf8.h"

namespace icd {
namespace {

/// The ids of short pieces that came up before. What it holds changes no result.
class PieceCache {
 public:
  explicit PieceCache(const Bpe& bpe) : bpe_(bpe) {}

  void encode(std::string_view piece, std::vector<TokenId>& ids) {
    // English text has few pieces that are longer, and they seldom come back.
    constexpr std::size_t kMaxPiece = 48;
    constexpr std::size_t kMaxPieces = 1 << 17;
    if (piece.size() > kMaxPiece) return bpe_.encode(piece, ids);
    if (const auto known = pieces_.find(piece); known != pieces_.end()) {
      const auto begin = ids_.begin() + static_cast<std::ptrdiff_t>(known->second.begin);
      ids.insert(ids.end(), begin, begin + static_cast<std::ptrdiff_t>(known->second.count));
      return;
    }
    const std::size_t begin = ids.size();
    bpe_.encode(piece, ids);
    if (pieces_.size() == kMaxPieces) return;
    pieces_.emplace(piece, Ids{ids_.size(), ids.size() - begin});
    ids_.insert(ids_.end(), ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end());
  }

 private:
  struct Ids {
    std::size_t begin = 0;
    std::size_t count = 0;
  };
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const noexcept {
      return std::hash<std::string_view>()(text);
    }
  };

  const Bpe& bpe_;
  std::unordered_map<std::string, Ids, Hash, std::equal_to<>> pieces_;
  std::vector<TokenId> ids_;
};

}  // namespace

struct Tokenizer::Impl {
  explicit Impl(TokenizerParts parts)
      : normal_forms(std::move(parts.normal_forms)),
        raw_tokens(chosen(parts.added, false)),
        normalized_tokens(chosen(parts.added, true)),
        pre_tokenizer(std::move(parts.pre_tokenizer)),
        bpe(std::move(parts.bpe)) {
    for (const auto& [token, id] : bpe.vocab) name(id, token);
    for (const AddedToken& token : parts.added) name(token.id, token.content);
  }

  std::string normal(std::string_view raw) const {
    std::string text(raw);
    for (const NormalForm form : normal_forms) text = normalized(text, form);
    return text;
  }

  std::vector<AddedToken> chosen(const std::vector<AddedToken>& added, bool is_normalized) const {
    std::vector<AddedToken> some;
    for (const AddedToken& token : added) {
      if (token.is_normalized != is_normalized) continue;
      some.push_back(token);
      if (is_normalized) some.back().content = normal(token.content);
    }
    return some;
  }

  /// The decoder takes a token with a character that is no symbol as it is.
  void name(TokenId id, std::string_view token) {
    const auto place = static_cast<std::size_t>(id);
    if (place >= tokens.size()) tokens.resize(place + 1);
    tokens[place] = from_symbols(token).value_or(std::string(token));
  }

  std::vector<NormalForm> normal_forms;  // first: `chosen` reads them
  AddedTokenFinder raw_tokens;
  AddedTokenFinder normalized_tokens;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<std::optional<std::string>> tokens;  ///< bytes by id
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::open(const std::filesystem::path& tokenizer_json) {
  return Tokenizer(std::make_unique<Impl>(read_tokenizer_json(tokenizer_json)));
}

std::vector<TokenId> Tokenizer::encode(std::string_view text) const {
  if (const auto place = first_not_utf8(text)) {
    throw Error(ErrorCode::input, fmt::format("text: byte {} is {:#04x}, expected UTF-8", *place,
                                              static_cast<unsigned char>(text[*place])));
  }
  std::vector<TokenId> ids;
  PieceCache cache(impl_->bpe);
  for (const Fragment& raw : impl_->raw_tokens.cut(text)) {
    if (raw.token >= 0) {
      ids.push_back(raw.token);
      continue;
    }
    std::string normal;
    if (!impl_->normal_forms.empty()) normal = impl_->normal(raw.text);
    const std::string_view seen = impl_->normal_forms.empty() ? raw.text : normal;
    for (const Fragment& fragment : impl_->normalized_tokens.cut(seen)) {
      if (fragment.token >= 0) {
        ids.push_back(fragment.token);
        continue;
      }
      const PreTokenizer::Pieces pieces = impl_->pre_tokenizer.cut(fragment.text);
      for (const std::string_view piece : pieces.views) {
        if (piece.size() > static_cast<std::size_t>(std::numeric_limits<Index>::max())) {
          throw Error(ErrorCode::usage,
                      fmt::format("text: a piece without a cut has {} bytes, expected at most {}",
                                  piece.size(), std::numeric_limits<Index>::max()));
        }
        cache.encode(piece, ids);
      }
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const TokenId> ids) const {
  std::string bytes;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const TokenId id = ids[i];
    if (id < 0 || id >= vocab() || !impl_->tokens[static_cast<std::size_t>(id)]) {
      throw Error(ErrorCode::usage,
                  fmt::format("id {} at place {} is not in the vocabulary of {}", id, i, vocab()));
    }
    bytes += *impl_->tokens[static_cast<std::size_t>(id)];
  }
  return utf8_lossy(bytes);
}

Index Tokenizer::vocab() const noexcept { return static_cast<Index>(impl_->tokens.size()); }

}  // namespace icd
