#include "tokenizer_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "byte_level.h"
#include "icd/error.h"
#include "json.h"
#include "mapped_file.h"
#include "quote.h"

namespace icd {
namespace {

constexpr std::int64_t kMaxBytes = 256 << 20;   // the largest in use have 30 MB
constexpr std::int64_t kMaxId = (1 << 24) - 1;  // the decoding table has an entry for each id
constexpr int kMaxDepth = 64;

// Source: A. Radford et al., "Language models are unsupervised multitask learners", 2019.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// A value in the file and the way to it. Not json.h's Json: that keeps the order of keys
/// and finds them one by one, which takes seconds for a vocabulary.
class Node {
 public:
  Node(std::string where, const nlohmann::json& value, std::string_view separator = ".")
      : where_(std::move(where)), value_(&value), separator_(separator) {}

  [[noreturn]] void refuse(ErrorCode code, std::string_view what) const {
    throw Error(code, fmt::format("{}: {}", where_, what));
  }

  [[noreturn]] void refuse_type(std::string_view expected) const {
    refuse(ErrorCode::input, fmt::format("is {}, expected {}", value_->type_name(), expected));
  }

  /// Nothing if it is absent or null.
  std::optional<Node> find(const std::string& key) const {
    const auto found = object().find(key);
    if (found == value_->end() || found->is_null()) return std::nullopt;
    return child(key, *found);
  }

  Node child(std::string_view key, const nlohmann::json& value) const {
    return Node(fmt::format("{}{}{}", where_, separator_, key), value);
  }

  Node at(const std::string& key) const {
    const std::optional<Node> found = find(key);
    if (!found) refuse(ErrorCode::input, fmt::format("'{}' is missing", key));
    return *found;
  }

  const nlohmann::json& object() const {
    if (!value_->is_object()) refuse_type("an object");
    return *value_;
  }

  const nlohmann::json& array() const {
    if (!value_->is_array()) refuse_type("an array");
    return *value_;
  }

  std::vector<Node> items() const {
    std::vector<Node> nodes;
    for (const nlohmann::json& item : array()) {
      nodes.emplace_back(fmt::format("{}[{}]", where_, nodes.size()), item);
    }
    return nodes;
  }

  const std::string& text() const {
    if (!value_->is_string()) refuse_type("a string");
    return value_->get_ref<const std::string&>();
  }

  TokenId id() const {
    if (!value_->is_number_integer()) refuse_type("an id");
    const bool fits = value_->is_number_unsigned() && value_->get<std::uint64_t>() <= kMaxId;
    if (!fits) {
      refuse(ErrorCode::input, fmt::format("id {} is not in 0..{}", value_->dump(), kMaxId));
    }
    return value_->get<TokenId>();
  }

  bool flag(const std::string& key, bool otherwise) const {
    const std::optional<Node> found = find(key);
    if (!found) return otherwise;
    if (!found->value_->is_boolean()) found->refuse_type("true or false");
    return found->value_->get<bool>();
  }

  /// Refuses a member that changes ids in a way that icd does not follow.
  void refuse_unless_unset(const std::string& key) const {
    const std::optional<Node> found = find(key);
    if (!found) return;
    const nlohmann::json& value = *found->value_;
    const bool is_unset = (value.is_string() && value.get_ref<const std::string&>().empty()) ||
                          (value.is_boolean() && !value.get<bool>()) ||
                          (value.is_number() && value.get<double>() == 0.0);
    if (!is_unset) found->refuse(ErrorCode::unsupported, "is set; icd does not implement it");
  }

  [[noreturn]] void refuse_kind(std::string_view kind, std::string_view known) const {
    refuse(ErrorCode::unsupported,
           fmt::format("type {} is not implemented, expected {}", quote(kind), known));
  }

 private:
  std::string where_;
  const nlohmann::json* value_;
  std::string_view separator_;  ///< between where_ and a key
};

nlohmann::json parse(const std::filesystem::path& file) {
  const std::string text = read_text(file, kMaxBytes);
  const auto watch = [&](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
    if (depth <= kMaxDepth) return true;
    throw Error(ErrorCode::input,
                fmt::format("{}: is nested deeper than {} levels", file.string(), kMaxDepth));
  };
  try {
    return nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::input,
                fmt::format("{}: is not JSON: {}", file.string(), json_reason(error)));
  }
}

void read_normal_forms(const Node& node, std::vector<NormalForm>& forms) {
  const std::string& kind = node.at("type").text();
  if (kind == "NFC") {
    forms.push_back(NormalForm::nfc);
  } else if (kind == "NFD") {
    forms.push_back(NormalForm::nfd);
  } else if (kind == "NFKC") {
    forms.push_back(NormalForm::nfkc);
  } else if (kind == "NFKD") {
    forms.push_back(NormalForm::nfkd);
  } else if (kind == "Sequence") {
    for (const Node& item : node.at("normalizers").items()) read_normal_forms(item, forms);
  } else {
    node.refuse_kind(kind, "NFC, NFD, NFKC, NFKD or a Sequence of them");
  }
}

SplitBehavior read_behavior(const Node& node) {
  const std::string& name = node.text();
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  node.refuse(ErrorCode::input, fmt::format("{} is not one of Removed, Isolated, "
                                            "MergedWithPrevious, MergedWithNext, Contiguous",
                                            quote(name)));
}

SplitPattern read_pattern(const Node& node) {
  try {
    if (const auto regex = node.find("Regex")) return SplitPattern::regex(regex->text());
  } catch (const Error& error) {
    node.refuse(error.code(), error.what());
  }
  const Node literal = node.at("String");
  if (literal.text().empty()) literal.refuse(ErrorCode::input, "is empty");
  return SplitPattern::literal(literal.text());
}

void read_steps(const Node& node, std::vector<PreTokenizer::Step>& steps) {
  const std::string& kind = node.at("type").text();
  if (kind == "Sequence") {
    for (const Node& item : node.at("pretokenizers").items()) read_steps(item, steps);
  } else if (kind == "ByteLevel") {
    if (node.flag("add_prefix_space", true)) steps.emplace_back(PreTokenizer::PrefixSpace{});
    if (node.flag("use_regex", true)) {
      steps.emplace_back(PreTokenizer::Split{.pattern = SplitPattern::regex(kGpt2Pattern)});
    }
    const auto is_bytes = [](const PreTokenizer::Step& step) {
      return std::holds_alternative<PreTokenizer::ByteSymbols>(step);
    };
    if (std::any_of(steps.begin(), steps.end(), is_bytes)) {
      node.refuse(ErrorCode::unsupported, "is a second ByteLevel, expected one");
    }
    steps.emplace_back(PreTokenizer::ByteSymbols{});
  } else if (kind == "Split") {
    steps.emplace_back(PreTokenizer::Split{.pattern = read_pattern(node.at("pattern")),
                                           .behavior = read_behavior(node.at("behavior")),
                                           .is_inverted = node.flag("invert", false)});
  } else if (kind == "Digits") {
    const bool is_single = node.flag("individual_digits", false);
    steps.emplace_back(PreTokenizer::Split{
        .pattern = SplitPattern::regex("\\p{N}"),
        .behavior = is_single ? SplitBehavior::isolated : SplitBehavior::contiguous});
  } else if (kind == "Punctuation") {
    // ASCII counts symbols such as '$' and '+' too.
    steps.emplace_back(
        PreTokenizer::Split{.pattern = SplitPattern::regex("[\\p{P}!-/:-@\\[-`\\{-~]"),
                            .behavior = node.find("behavior") ? read_behavior(node.at("behavior"))
                                                              : SplitBehavior::isolated});
  } else {
    node.refuse_kind(kind, "ByteLevel, Split, Digits, Punctuation or a Sequence of them");
  }
}

PreTokenizer read_pre_tokenizer(const Node& root) {
  std::vector<PreTokenizer::Step> steps;
  if (const auto node = root.find("pre_tokenizer")) read_steps(*node, steps);
  for (const PreTokenizer::Step& step : steps) {
    if (std::holds_alternative<PreTokenizer::ByteSymbols>(step)) {
      return PreTokenizer(std::move(steps));
    }
  }
  root.refuse(ErrorCode::unsupported,
              "pre_tokenizer has no ByteLevel; icd reads byte-level tokenizers only");
}

void read_vocab(const Node& node, Bpe& bpe) {
  const nlohmann::json& vocab = node.object();
  std::map<TokenId, const std::string*> tokens;
  bpe.vocab.reserve(vocab.size());
  for (auto token = vocab.begin(); token != vocab.end(); ++token) {
    const nlohmann::json& value = token.value();
    const bool fits = value.is_number_unsigned() && value.get<std::uint64_t>() <= kMaxId;
    const TokenId id = fits ? value.get<TokenId>() : node.child(quote(token.key()), value).id();
    const auto [other, is_new] = tokens.try_emplace(id, &token.key());
    if (!is_new) {
      node.refuse(ErrorCode::input, fmt::format("id {} belongs to {} and to {}", id,
                                                quote(*other->second), quote(token.key())));
    }
    bpe.vocab.emplace(token.key(), id);
  }
}

void read_merges(const Node& node, Bpe& bpe) {
  bpe.merges.reserve(node.array().size());
  std::int32_t rank = 0;
  std::size_t place = 0;
  for (const nlohmann::json& item : node.array()) {
    const auto refuse = [&](const std::string& what) {
      node.refuse(ErrorCode::input, fmt::format("item {}: {}", place, what));
    };
    const auto id_of = [&](const std::string& token) {
      const auto found = bpe.vocab.find(token);
      if (found == bpe.vocab.end()) {
        refuse(fmt::format("{} is not in the vocabulary", quote(token)));
      }
      return found->second;
    };
    std::string left;
    std::string right;
    if (item.is_string()) {
      const auto& pair = item.get_ref<const std::string&>();
      const std::size_t space = pair.find(' ');
      if (space == std::string::npos || pair.find(' ', space + 1) != std::string::npos) {
        refuse(fmt::format("{} is not two tokens and a space", quote(pair)));
      }
      left = pair.substr(0, space);
      right = pair.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get<std::string>();
      right = item[1].get<std::string>();
    } else {
      refuse("is neither a string nor a pair of strings");
    }
    // Of merges of one pair the last counts, as in the tokenizers library.
    bpe.merges[Bpe::pair_key(id_of(left), id_of(right))] = {rank++, id_of(left + right)};
    ++place;
  }
}

Bpe read_model(const Node& node) {
  if (const auto kind = node.find("type"); kind && kind->text() != "BPE") {
    node.refuse_kind(kind->text(), "BPE");
  }
  for (const char* key :
       {"dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"}) {
    node.refuse_unless_unset(key);
  }
  Bpe bpe;
  read_vocab(node.at("vocab"), bpe);
  read_merges(node.at("merges"), bpe);
  bpe.is_fusing_unknown = node.flag("fuse_unk", false);
  bpe.is_ignoring_merges = node.flag("ignore_merges", false);

  bool has_every_byte = true;
  for (int byte = 0; byte < 256; ++byte) {
    const char text = static_cast<char>(byte);
    const auto found = bpe.vocab.find(to_symbols({&text, 1}));
    bpe.bytes[static_cast<std::size_t>(byte)] = found == bpe.vocab.end() ? -1 : found->second;
    const bool is_in_utf8 = byte != 0xc0 && byte != 0xc1 && byte <= 0xf4;
    has_every_byte = has_every_byte && (found != bpe.vocab.end() || !is_in_utf8);
  }
  if (const auto unknown = node.find("unk_token"); unknown && !has_every_byte) {
    const auto found = bpe.vocab.find(unknown->text());
    if (found == bpe.vocab.end()) {
      unknown->refuse(ErrorCode::input,
                      fmt::format("{} is not in the vocabulary", quote(unknown->text())));
    }
    bpe.unknown = found->second;
  }
  return bpe;
}

/// The tokenizers library does not use the ids that the file gives: a token of the model
/// keeps its id, another gets the next free one. A file where the two differ would give
/// ids that its author did not mean.
std::vector<AddedToken> read_added_tokens(const Node& root, const Bpe& bpe) {
  std::vector<AddedToken> special;
  std::vector<AddedToken> others;
  std::set<std::string> contents;
  const auto model_size = static_cast<TokenId>(bpe.vocab.size());
  TokenId next = model_size;
  const auto list = root.find("added_tokens");
  if (!list) return {};
  for (const Node& node : list->items()) {
    AddedToken token;
    token.id = node.at("id").id();
    token.content = node.at("content").text();
    token.is_single_word = node.flag("single_word", false);
    token.strips_left = node.flag("lstrip", false);
    token.strips_right = node.flag("rstrip", false);
    const bool is_special = node.flag("special", false);
    token.is_normalized = node.flag("normalized", !is_special);
    if (token.content.empty()) node.refuse(ErrorCode::input, "content is empty");
    if (!contents.insert(token.content).second) {
      node.refuse(ErrorCode::input, fmt::format("{} stands twice", quote(token.content)));
    }
    const auto in_model = bpe.vocab.find(token.content);
    const TokenId expected = in_model == bpe.vocab.end() ? next : in_model->second;
    if (token.id != expected) {
      node.refuse(ErrorCode::unsupported,
                  fmt::format("id of {} is {}, expected {} (its id in model.vocab, or the next "
                              "after all ids)",
                              quote(token.content), token.id, expected));
    }
    next = std::max(next, token.id + 1);
    (is_special ? special : others).push_back(std::move(token));
  }
  special.insert(special.end(), std::make_move_iterator(others.begin()),
                 std::make_move_iterator(others.end()));
  return special;
}

}  // namespace

TokenizerParts read_tokenizer_json(const std::filesystem::path& file) {
  const nlohmann::json json = parse(file);
  const Node root(file.string(), json, ": ");
  Bpe bpe = read_model(root.at("model"));
  std::vector<AddedToken> added = read_added_tokens(root, bpe);
  std::vector<NormalForm> forms;
  if (const auto node = root.find("normalizer")) read_normal_forms(*node, forms);
  return {std::move(added), std::move(forms), read_pre_tokenizer(root), std::move(bpe)};
}

}  // namespace icd
