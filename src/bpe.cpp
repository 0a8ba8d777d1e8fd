#include "bpe.h"

#include <queue>
#include <tuple>

#include "byte_level.h"

namespace icd {
namespace {

struct Symbol {
  TokenId id = 0;
  std::int32_t left = -1;
  std::int32_t right = -1;
  bool is_gone = false;
};

/// A merge to come: of the symbol at `place` and the one on its right.
struct Candidate {
  std::int32_t rank = 0;
  std::int32_t place = 0;
  TokenId merged = 0;

  // std::priority_queue has the greatest on top: the lowest rank, then the lowest place.
  friend bool operator<(const Candidate& a, const Candidate& b) noexcept {
    return std::tie(a.rank, a.place) > std::tie(b.rank, b.place);
  }
};

}  // namespace

void Bpe::encode(std::string_view piece, std::vector<TokenId>& ids) const {
  if (is_ignoring_merges) {
    if (const auto token = vocab.find(to_symbols(piece)); token != vocab.end()) {
      ids.push_back(token->second);
      return;
    }
  }
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  bool was_unknown = false;
  for (const char byte : piece) {
    const TokenId id = bytes[static_cast<unsigned char>(byte)];
    const bool is_unknown = id < 0;
    if (!is_unknown || (unknown >= 0 && !(was_unknown && is_fusing_unknown))) {
      const auto place = static_cast<std::int32_t>(symbols.size());
      if (place > 0) symbols.back().right = place;
      symbols.push_back({.id = is_unknown ? unknown : id, .left = place - 1});
    }
    was_unknown = is_unknown;
  }

  std::priority_queue<Candidate> queue;
  const auto propose = [&](std::int32_t place) {
    if (place < 0 || symbols[place].right < 0) return;
    const auto merge = merges.find(pair_key(symbols[place].id, symbols[symbols[place].right].id));
    if (merge != merges.end()) queue.push({merge->second.rank, place, merge->second.merged});
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) propose(static_cast<std::int32_t>(i));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& symbol = symbols[top.place];
    if (symbol.is_gone || symbol.right < 0) continue;
    Symbol& next = symbols[symbol.right];
    // The pair may be another one by now. As in the tokenizers library, what counts is that
    // it still merges into the same token.
    const auto merge = merges.find(pair_key(symbol.id, next.id));
    if (merge == merges.end() || merge->second.merged != top.merged) continue;
    symbol.id = top.merged;
    symbol.right = next.right;
    next.is_gone = true;
    if (symbol.right >= 0) symbols[symbol.right].left = top.place;
    propose(symbol.left);
    propose(top.place);
  }
  for (const Symbol& symbol : symbols) {
    if (!symbol.is_gone) ids.push_back(symbol.id);
  }
}

}  // namespace icd
