#include "layout_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <stdexcept>
#include <utility>

#include "icd/error.h"
#include "layout_texts.h"

namespace icd {
namespace {

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts;
  while (true) {
    const auto end = text.find(at);
    parts.emplace_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words = split(text, ' ');
  std::erase(words, "");
  return words;
}

/// A line, and the lines that stand deeper below it.
struct Node {
  int line = 0;
  std::string text;
  std::vector<Node> below;
};

class Parser {
 public:
  Parser(std::string_view text, std::string_view name, LayoutTables& tables)
      : name_(name), tables_(tables) {
    int number = 0;
    for (std::string_view rest = text; !rest.empty();) {
      const auto end = rest.find('\n');
      std::string_view line = rest.substr(0, end);
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
      ++number;
      line = line.substr(0, line.find('#'));
      const auto indent = line.find_first_not_of(' ');
      if (indent == std::string_view::npos) continue;
      lines_.push_back({static_cast<int>(indent), {number, std::string(trimmed(line)), {}}});
    }
  }

  AxisFactor factor(std::string_view text) const { return factor_of(text); }

  void run() {
    std::size_t at = 0;
    for (const Node& node : nodes(at, 0)) {
      here_ = node.line;
      try {
        add(node);
      } catch (const std::out_of_range&) {
        fail(fmt::format("'{}' is cut short", node.text));
      }
    }
  }

 private:
  void add(const Node& node) {
    const auto words = words_of(node.text);
    if (words[0] == "block") {
      tables_.blocks.push_back(block(node, words));
    } else if (words[0] == "layout") {
      tables_.layouts.push_back(layout(node, words));
    } else if (words[0] == "lookalike") {
      tables_.look_alikes.push_back(look_alike(node));
    } else {
      fail(fmt::format("'{}' begins no table, expected block, layout or lookalike", words[0]));
    }
  }

  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorCode::input, fmt::format("{}, line {}: {}", name_, here_, what));
  }

  std::vector<Node> nodes(std::size_t& at, int indent) {
    std::vector<Node> found;
    while (at < lines_.size() && lines_[at].first >= indent) {
      if (lines_[at].first > indent) {
        here_ = lines_[at].second.line;
        fail("stands deeper than the line above allows");
      }
      found.push_back(std::move(lines_[at].second));
      ++at;
      if (at < lines_.size() && lines_[at].first > indent) {
        found.back().below = nodes(at, lines_[at].first);
      }
    }
    return found;
  }

  BlockTable block(const Node& node, const std::vector<std::string>& words) {
    if (words.size() != 2) fail("expected: block TYPE");
    BlockTable table;
    table.type = words[1];
    std::vector<Node> rest;
    for (const Node& child : node.below) {
      here_ = child.line;
      auto of_child = words_of(child.text);
      if (of_child[0] == "ports") {
        table.ports.assign(of_child.begin() + 1, of_child.end());
      } else if (of_child[0] == "anchor") {
        table.anchor = of_child.at(1);
      } else if (of_child[0] == "anywhere") {
        table.anywhere = true;
      } else if (of_child[0] == "without") {
        table.without.assign(of_child.begin() + 1, of_child.end());
      } else {
        rest.push_back(child);
      }
    }
    table.scope = scope(rest);
    if (table.scope.tensors.empty()) fail("a block has tensors");
    return table;
  }

  LayoutTable layout(const Node& node, const std::vector<std::string>& words) {
    if (words.size() < 2 || words.size() > 3) fail("expected: layout NAME [DIALECT]");
    LayoutTable table;
    table.name = words[1];
    table.dialect = words.size() > 2 ? words[2] : "";
    std::vector<Node> rest;
    for (const Node& child : node.below) {
      here_ = child.line;
      const auto of_child = words_of(child.text);
      if (of_child[0] == "when") {
        std::vector<ConditionRow> all;
        for (const std::string& part : split_at_and(child.text.substr(4))) {
          all.push_back(condition(words_of(part)));
        }
        table.when.push_back(std::move(all));
      } else if (of_child[0] == "root") {
        table.root = of_child.at(1);
      } else if (of_child[0] == "wiring") {
        for (const Node& line : child.below) {
          here_ = line.line;
          const auto of_line = words_of(line.text);
          if (of_line[0] == "embedding" || of_line[0] == "norm" || of_line[0] == "head") {
            table.wiring[of_line[0]] = of_line.at(1);
          } else {
            table.numbers.push_back(given(line));
          }
        }
      } else {
        rest.push_back(child);
      }
    }
    table.scope = scope(rest);
    here_ = node.line;
    if (table.root.empty() || table.scope.tensors.empty()) fail("a layout has a root and tensors");
    if (!table.wiring.empty() && table.wiring.size() < 3) {
      fail("wiring names embedding, norm and head");
    }
    return table;
  }

  static std::vector<std::string> split_at_and(std::string_view text) {
    std::vector<std::string> parts;
    while (true) {
      const auto end = text.find(" and ");
      parts.emplace_back(trimmed(text.substr(0, end)));
      if (end == std::string_view::npos) return parts;
      text.remove_prefix(end + 5);
    }
  }

  /// [no] KEY [is V|V], [no] tensor NAME
  ConditionRow condition(std::vector<std::string> words) const {
    ConditionRow row;
    if (!words.empty() && words[0] == "no") {
      row.negated = true;
      words.erase(words.begin());
    }
    if (!words.empty() && words[0] == "tensor") {
      row.of_tensors = true;
      words.erase(words.begin());
    }
    if (words.empty()) fail("a condition names a key of config.json or a tensor");
    row.key = words[0];
    if (words.size() >= 3 && words[1] == "is") row.values = split(words[2], '|');
    return row;
  }

  LookAlike look_alike(const Node& node) const {
    LookAlike row;
    const auto colon = node.text.find(" : ");
    if (colon == std::string::npos) fail("expected: lookalike TYPES [tensor NAME] : WORDS");
    const auto words = words_of(node.text.substr(0, colon));
    row.model_types = split(words.at(1), '|');
    if (words.size() == 4 && words[2] == "tensor") row.tensor = words[3];
    row.words = trimmed(std::string_view(node.text).substr(colon + 3));
    return row;
  }

  ScopeTable scope(const std::vector<Node>& nodes) {
    ScopeTable table;
    for (const Node& node : nodes) {
      here_ = node.line;
      const auto words = words_of(node.text);
      if (words[0] == "space" || words[0] == "index") {
        table.spaces.push_back(space(node.text.substr(5)));
        table.spaces.back().fixed = words[0] == "index";
      } else if (words[0] == "size") {
        const auto sides = split(node.text.substr(4), '=');
        if (sides.size() != 2) fail("expected: size NAME = SUM");
        table.sizes.push_back({sides[0], sum(sides[1])});
      } else if (words[0] == "tensor" || words[0] == "carried") {
        table.tensors.push_back(tensor(node.text, words[0] == "carried"));
      } else if (words[0] == "each") {
        table.eaches.push_back(each(node, words));
      } else if (words[0] == "part") {
        table.parts.push_back(part(node, words));
      } else if (words[0] == "step") {
        table.steps.push_back({words.at(1), {words.begin() + 2, words.end()}});
      } else if (node.text.find('=') != std::string::npos) {
        table.given.push_back(given(node));
      } else {
        fail(fmt::format("'{}' is no statement", words[0]));
      }
    }
    return table;
  }

  /// KIND SIZE or KIND[INDEX INDEX] SIZE
  SpaceRow space(std::string_view text) const {
    SpaceRow row;
    text = trimmed(text);
    const auto open = text.find('[');
    auto end = text.find(' ');
    if (open != std::string_view::npos && open < end) {
      const auto close = text.find(']');
      if (close == std::string_view::npos) fail("'[' is not closed");
      row.per = words_of(text.substr(open + 1, close - open - 1));
      row.kind = text.substr(0, open);
      end = close + 1;
    } else {
      row.kind = text.substr(0, end);
    }
    if (end >= text.size()) fail("expected: space KIND SIZE");
    row.size = product(text.substr(end));
    return row;
  }

  /// tensor NAME|NAME [?flag] [as ROLE] : AXES | AXES
  TensorRow tensor(std::string_view text, bool carried) const {
    TensorRow row;
    const auto colon = text.find(" : ");
    if (!carried && colon == std::string_view::npos) fail("expected: tensor NAME : AXES");
    const auto words = words_of(text.substr(0, colon));
    row.names = split(words.at(1), '|');
    for (std::string& name : row.names) {
      const auto open = name.find('{');
      const auto close = name.find('}');
      if (open == std::string::npos || close == std::string::npos) continue;
      row.index = {sum(std::string_view(name).substr(open + 1, close - open - 1))};
      name.replace(open, close - open + 1, "{}");
    }
    row.role = row.names.front();
    row.carried = carried;
    if (carried) row.presence = TensorRow::Presence::either;
    for (std::size_t w = 2; w < words.size(); ++w) {
      if (words[w] == "?") {
        row.presence = TensorRow::Presence::either;
      } else if (words[w].starts_with("?!")) {
        row.presence = TensorRow::Presence::unless_flagged;
        row.flag = words[w].substr(2);
      } else if (words[w].starts_with('?')) {
        row.presence = TensorRow::Presence::flagged;
        row.flag = words[w].substr(1);
      } else if (words[w] == "as" && w + 1 < words.size()) {
        row.role = words[++w];
      } else {
        fail(fmt::format("'{}' after a tensor's name", words[w]));
      }
    }
    if (colon == std::string_view::npos) return row;
    for (const std::string& shape : split(text.substr(colon + 3), '|')) {
      row.texts.push_back(shape);
      row.shapes.emplace_back();
      for (const std::string& axis : split(shape, ',')) row.shapes.back().push_back(sum(axis));
    }
    return row;
  }

  /// each PREFIX{i}. [with NAME] [cycle VAR SIZE]
  EachRow each(const Node& node, const std::vector<std::string>& words) {
    EachRow row;
    row.prefix = words.at(1);
    const auto open = row.prefix.find('{');
    if (open == std::string::npos || row.prefix.find('}', open) == std::string::npos) {
      fail(fmt::format("'{}' counts nothing, expected a name in braces", row.prefix));
    }
    for (std::size_t w = 2; w < words.size(); ++w) {
      if (words[w] == "with" && w + 1 < words.size()) {
        row.with = words[++w];
      } else if (words[w] == "cycle" && w + 2 < words.size()) {
        row.cycle = words[++w];
        row.modulus = words[++w];
      } else {
        fail(fmt::format("'{}' after each", words[w]));
      }
    }
    row.scope.push_back(scope(node.below));
    return row;
  }

  /// part TYPE at PREFIX [as SHOWN] [if CONDITION] [unless CONDITION]
  PartRow part(const Node& node, const std::vector<std::string>& words) {
    PartRow row;
    row.type = words.at(1);
    std::size_t w = 2;
    if (w + 1 < words.size() && words[w] == "at") {
      row.prefix = words[w + 1];
      w += 2;
    }
    if (w + 1 < words.size() && words[w] == "as") {
      row.shown = words[w + 1];
      w += 2;
    }
    if (w < words.size()) {
      if (words[w] != "if" && words[w] != "unless")
        fail(fmt::format("'{}' after a part", words[w]));
      row.conditions.push_back(
          condition({words.begin() + static_cast<std::ptrdiff_t>(w) + 1, words.end()}));
      if (words[w] == "unless") row.conditions.back().negated = !row.conditions.back().negated;
    }
    for (const Node& child : node.below) {
      here_ = child.line;
      row.given.push_back(given(child));
    }
    return row;
  }

  /// NAME = KEY|KEY [or FALLBACK], NAME = LITERAL
  GivenRow given(const Node& node) const {
    const auto sides = split(node.text, '=');
    if (sides.size() != 2) fail("expected: NAME = VALUE");
    GivenRow row;
    row.name = sides[0];
    const auto words = words_of(sides[1]);
    if (words.empty()) fail("expected: NAME = VALUE");
    if (words[0].find('(') != std::string::npos) {  // an axis, for a port
      row.keys = {sides[1]};
      return row;
    }
    const char first = words[0].front();
    if ((first >= '0' && first <= '9') || first == '-' || first == '@') {
      row.fallback = words[0];
    } else {
      row.keys = split(words[0], '|');
      if (words.size() == 3 && words[1] == "or") row.fallback = words[2];
    }
    return row;
  }

  // Axes: sums of products of names, numbers and sums in brackets.
  AxisSum sum(std::string_view text) const {
    std::string_view rest = text;
    AxisSum result = sum_of(rest);
    if (!trimmed(rest).empty()) fail(fmt::format("'{}' is too much in '{}'", rest, text));
    return result;
  }

  AxisProduct product(std::string_view text) const {
    AxisSum parsed = sum(text);
    if (parsed.terms.size() != 1) fail(fmt::format("'{}' is not a product", text));
    return std::move(parsed.terms.front());
  }

  AxisSum sum_of(std::string_view& rest) const {
    AxisSum result;
    do {
      result.terms.push_back(product_of(rest));
    } while (accept(rest, '+'));
    return result;
  }

  AxisProduct product_of(std::string_view& rest) const {
    AxisProduct result;
    do {
      result.factors.push_back(factor_of(rest));
    } while (accept(rest, '*'));
    return result;
  }

  AxisFactor factor_of(std::string_view& rest) const {
    AxisFactor factor;
    rest = trimmed(rest);
    if (accept(rest, '(')) {
      constexpr int kDeepest = 16;
      if (++depth_ > kDeepest) fail(fmt::format("brackets are more than {} deep", kDeepest));
      factor.kind = AxisFactor::Kind::sum;
      factor.sum.push_back(sum_of(rest));
      --depth_;
      if (!accept(rest, ')')) fail("'(' is not closed");
      return factor;
    }
    std::size_t end = 0;
    while (end < rest.size() &&
           (std::isalnum(static_cast<unsigned char>(rest[end])) != 0 || rest[end] == '_')) {
      ++end;
    }
    if (end == 0) fail(fmt::format("'{}': expected a name, a number or '('", rest));
    const std::string_view word = rest.substr(0, end);
    rest.remove_prefix(end);
    if (word.front() >= '0' && word.front() <= '9') {
      factor.kind = AxisFactor::Kind::number;
      std::from_chars(word.data(), word.data() + word.size(), factor.number);
      return factor;
    }
    factor.name = word;
    if (word == "mirror" && accept(rest, '(')) {
      factor.kind = AxisFactor::Kind::mirror;
      const auto close = rest.find(')');
      if (close == std::string_view::npos) fail("'(' is not closed");
      const auto names = words_of(rest.substr(0, close));
      if (names.empty()) fail("expected a space in the brackets");
      factor.name = names.front();
      if (names.size() > 1) factor.side = names[1];
      rest.remove_prefix(close + 1);
      return factor;
    }
    return factor;
  }

  static bool accept(std::string_view& rest, char c) {
    rest = trimmed(rest);
    if (!rest.starts_with(c)) return false;
    rest.remove_prefix(1);
    return true;
  }

  std::string name_;
  LayoutTables& tables_;
  std::vector<std::pair<int, Node>> lines_;
  int here_ = 0;
  mutable int depth_ = 0;  // of brackets
};

/// Throws Error{input} for a part of a type that no block has.
void check_parts(const ScopeTable& scope, const LayoutTables& tables, std::string_view name) {
  for (const PartRow& part : scope.parts) {
    if (tables.block(part.type) != nullptr) continue;
    throw Error(ErrorCode::input,
                fmt::format("{}: part {}: there is no such block", name, part.type));
  }
  for (const EachRow& row : scope.eaches) check_parts(row.scope.front(), tables, name);
}

}  // namespace

const BlockTable* LayoutTables::block(std::string_view type) const noexcept {
  const auto at = std::find_if(blocks.begin(), blocks.end(),
                               [&](const BlockTable& block) { return block.type == type; });
  return at == blocks.end() ? nullptr : &*at;
}

void parse_layout_tables(std::string_view text, std::string_view name, LayoutTables& tables) {
  Parser(text, name, tables).run();
  for (const LayoutTable& layout : tables.layouts) check_parts(layout.scope, tables, name);
}

AxisFactor parse_axis_factor(std::string_view text) {
  LayoutTables none;
  return Parser("", text, none).factor(text);
}

const LayoutTables& built_in_layout_tables() {
  static const LayoutTables kTables = [] {
    LayoutTables tables;
    for (const LayoutText& text : layout_texts()) {
      parse_layout_tables(text.text, text.name, tables);
    }
    return tables;
  }();
  return kTables;
}

}  // namespace icd
