#include "pre_tokenizer.h"

#include <utility>

#include "byte_level.h"

namespace icd {
namespace {

using Pieces = PreTokenizer::Pieces;

void apply(const PreTokenizer::PrefixSpace&, Pieces& pieces) {
  for (std::string_view& piece : pieces.views) {
    if (piece.starts_with(' ')) continue;
    piece = pieces.made.emplace_back(std::string(piece).insert(0, 1, ' '));
  }
}

void apply(const PreTokenizer::Split& split, Pieces& pieces) {
  std::vector<std::string_view> views;
  for (const std::string_view piece : pieces.views) {
    std::vector<Stretch> stretches = split.pattern.stretches(piece);
    if (split.is_inverted) {
      for (Stretch& stretch : stretches) stretch.is_match = !stretch.is_match;
    }
    for (const Stretch& part : pieces_of(stretches, split.behavior)) {
      views.push_back(piece.substr(part.begin, part.end - part.begin));
    }
  }
  pieces.views = std::move(views);
}

void apply(const PreTokenizer::ByteSymbols&, Pieces& pieces) {
  for (std::string_view& piece : pieces.views) piece = pieces.made.emplace_back(to_symbols(piece));
}

}  // namespace

PreTokenizer::PreTokenizer(std::vector<Step> steps) : steps_(std::move(steps)) {
  // Symbols that no pattern sees need not be made.
  if (!steps_.empty() && std::holds_alternative<ByteSymbols>(steps_.back())) steps_.pop_back();
}

Pieces PreTokenizer::cut(std::string_view text) const {
  Pieces pieces;
  if (!text.empty()) pieces.views.push_back(text);
  bool are_symbols = false;
  for (const Step& step : steps_) {
    std::visit([&](const auto& one) { apply(one, pieces); }, step);
    are_symbols = are_symbols || std::holds_alternative<ByteSymbols>(step);
  }
  if (are_symbols) {
    for (std::string_view& piece : pieces.views) {
      piece = pieces.made.emplace_back(from_symbols(piece).value());
    }
  }
  return pieces;
}

}  // namespace icd
