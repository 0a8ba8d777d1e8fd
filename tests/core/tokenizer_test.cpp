#include "icd/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <bit>
#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "byte_level.h"
#include "icd/digest.h"
#include "icd/error.h"
#include "normal_form.h"
#include "split_pattern.h"
#include "support/files.h"
#include "utf8.h"

namespace icd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ScratchFolder;

std::filesystem::path bundled_file() { return testing::bundled_model() / "tokenizer.json"; }

nlohmann::json bundled_json() { return nlohmann::json::parse(testing::read_file(bundled_file())); }

/// Ids that the tokenizers library gave; experiments/conformance/tokenizer.py writes them.
const nlohmann::json& golden() {
  static const auto json = nlohmann::json::parse(
      testing::read_file(std::string(ICD_SOURCE_DIR) + "/tests/data/tokenizer_golden.json"));
  return json;
}

Tokenizer opened(const nlohmann::json& json) {
  const ScratchFolder folder;
  testing::write_file(folder / "tokenizer.json", json.dump());
  return Tokenizer::open(folder / "tokenizer.json");
}

Tokenizer patched(const nlohmann::json& patch) {
  nlohmann::json json = bundled_json();
  json.merge_patch(patch);
  return opened(json);
}

/// SHA-256 of the ids as little-endian 32-bit integers.
std::string digest(const std::vector<TokenId>& ids) {
  static_assert(std::endian::native == std::endian::little);
  return sha256_of(std::as_bytes(std::span(ids)));
}

struct Refusal {
  ErrorCode code = ErrorCode::io;
  std::string what;
};

Refusal refusal_of_text(std::string_view text) {
  const ScratchFolder folder;
  testing::write_file(folder / "tokenizer.json", text);
  try {
    Tokenizer::open(folder / "tokenizer.json");
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("tokenizer.json: "), Not(HasSubstr("\n"))));
    return {error.code(), error.what()};
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

Refusal refusal_of(const nlohmann::json& json) { return refusal_of_text(json.dump()); }

Refusal refusal_of_patch(const nlohmann::json& patch) {
  nlohmann::json json = bundled_json();
  json.merge_patch(patch);
  return refusal_of(json);
}

TEST(Tokenizer, GivesTheIdsOfTheTokenizersLibraryForEveryVariant) {
  ASSERT_GT(golden()["cases"].size(), 60u);
  for (const nlohmann::json& one : golden()["cases"]) {
    const Tokenizer tokenizer = patched(one["patch"]);
    for (std::size_t i = 0; i < golden()["texts"].size(); ++i) {
      EXPECT_EQ(tokenizer.encode(golden()["texts"][i].get<std::string>()),
                one["ids"][i].get<std::vector<TokenId>>())
          << one["patch"].dump().substr(0, 200) << "\n"
          << golden()["texts"][i];
    }
  }
}

TEST(Tokenizer, GivesTheIdsOfTheTokenizersLibraryForVeryLongWords) {
  const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  for (const nlohmann::json& one : golden()["long"]) {
    std::string text;
    for (int i = 0; i < one["times"]; ++i) text += one["unit"].get<std::string>();
    const std::vector<TokenId> ids = tokenizer.encode(text);
    EXPECT_EQ(ids.size(), one["count"].get<std::size_t>()) << one["unit"];
    EXPECT_EQ(digest(ids), one["sha256"]) << one["unit"];
  }
}

TEST(Tokenizer, EncodesALongWordInLessThanQuadraticTime) {
  const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  const std::string word(1'000'000, 'a');
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(tokenizer.encode(word).empty());
  // Measured 0.2 s; a scan of all pairs for every merge takes hours.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

TEST(Tokenizer, GivesTheIdsOfTheTokenizersLibraryForWikiText) {
  if (!testing::shared_material("text")) GTEST_SKIP() << "no shared material";
  for (const nlohmann::json& one : golden()["shared"]) {
    const auto tokenizer = testing::shared_material(one["tokenizer"].get<std::string>());
    const auto text = testing::shared_material(one["text"].get<std::string>());
    if (!tokenizer || !text) GTEST_SKIP() << one["tokenizer"] << " or " << one["text"] << " absent";
    const std::vector<TokenId> ids = Tokenizer::open(*tokenizer).encode(testing::read_file(*text));
    EXPECT_EQ(ids.size(), one["count"].get<std::size_t>()) << one;
    EXPECT_EQ(digest(ids), one["sha256"]) << one;
  }
}

/// Text over characters of one to four bytes, spaces and the special token.
rc::Gen<std::string> any_text() {
  const auto part = rc::gen::element<std::string>(
      "a", "e", "t", "the", " ", "  ", "\n", "\r\n", "'s", "7", "?!", "\xc3\xa9", "e\xcc\x81",
      "\xe6\x97\xa5", "\xf0\x9f\x91\xa8\xe2\x80\x8d\xf0\x9f\x91\xa9", "<|endoftext|>", "<|", "|>",
      std::string(1, '\0'));
  return rc::gen::map(rc::gen::container<std::vector<std::string>>(part),
                      [](const std::vector<std::string>& parts) {
                        std::string text;
                        for (const std::string& one : parts) text += one;
                        return text;
                      });
}

RC_GTEST_PROP(Tokenizer, DecodesWhatItEncoded, ()) {
  static const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  const std::string text = *any_text();
  RC_ASSERT(tokenizer.decode(tokenizer.encode(text)) == text);
}

RC_GTEST_PROP(Tokenizer, EncodesTheSideOfASpecialTokenAsIfItStoodAlone, ()) {
  static const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  const std::string left = *any_text();
  const std::string right = *any_text();
  std::vector<TokenId> parts = tokenizer.encode(left);
  parts.push_back(0);
  for (const TokenId id : tokenizer.encode(right)) parts.push_back(id);
  RC_ASSERT(tokenizer.encode(left + "<|endoftext|>" + right) == parts);
}

TEST(Tokenizer, GivesNoIdsForNoText) {
  EXPECT_TRUE(Tokenizer::open(bundled_file()).encode("").empty());
}

TEST(Tokenizer, HasAVocabularyUpToItsHighestId) {
  EXPECT_EQ(Tokenizer::open(bundled_file()).vocab(), 2048);
}

TEST(Tokenizer, RefusesTextThatIsNotUtf8) {
  const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"ab\xff", "text: byte 2 is 0xff, expected UTF-8"},
           {"\xc0\x80", "text: byte 0 is 0xc0, expected UTF-8"},
           {"a\xed\xa0\x80", "text: byte 1 is 0xed, expected UTF-8"},
           {"\xf4\x90\x80\x80", "text: byte 0 is 0xf4, expected UTF-8"},
           {"abc\xe6\x97", "text: byte 3 is 0xe6, expected UTF-8"}}) {
    try {
      tokenizer.encode(text);
      ADD_FAILURE() << what;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::input);
      EXPECT_EQ(std::string(error.what()), what);
    }
  }
}

TEST(Tokenizer, DecodesACutCharacterToAReplacement) {
  const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  std::vector<TokenId> ids = tokenizer.encode("\xf0\x9f\x91\xa8");
  ASSERT_GT(ids.size(), 1u);
  ids.pop_back();
  EXPECT_EQ(tokenizer.decode(ids), "\xef\xbf\xbd");
}

TEST(Tokenizer, RefusesToDecodeAnIdOutsideTheVocabulary) {
  const Tokenizer tokenizer = Tokenizer::open(bundled_file());
  for (const TokenId id : {-1, 2048}) {
    try {
      tokenizer.decode(std::vector<TokenId>{5, id});
      ADD_FAILURE() << id;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
      EXPECT_EQ(std::string(error.what()),
                "id " + std::to_string(id) + " at place 1 is not in the vocabulary of 2048");
    }
  }
}

TEST(Tokenizer, RefusesAFileThatIsNotJson) {
  const Refusal refusal = refusal_of_text("{\"model\": ");
  EXPECT_EQ(refusal.code, ErrorCode::input);
  EXPECT_THAT(refusal.what, HasSubstr("is not JSON"));
}

TEST(Tokenizer, RefusesAFileThatIsNestedDeeply) {
  const Refusal refusal = refusal_of_text(std::string(100'000, '['));
  EXPECT_EQ(refusal.code, ErrorCode::input);
  EXPECT_THAT(refusal.what, HasSubstr("is nested deeper than 64 levels"));
}

TEST(Tokenizer, RefusesAFileThatIsNotThere) {
  EXPECT_THROW(Tokenizer::open("/nonexistent/tokenizer.json"), Error);
}

TEST(Tokenizer, NamesThePlaceOfADefect) {
  const nlohmann::json bundled = bundled_json();
  const auto with = [&](std::string_view pointer, nlohmann::json value) {
    nlohmann::json json = bundled;
    json[nlohmann::json::json_pointer(std::string(pointer))] = std::move(value);
    return json;
  };
  const nlohmann::json end = bundled["added_tokens"][0];
  nlohmann::json moved = end;
  moved["id"] = 7;
  for (const auto& [json, what] : std::vector<std::pair<nlohmann::json, std::string>>{
           {with("/model", 3), "model: is number, expected an object"},
           {with("/model/vocab", 3), "model.vocab: is number, expected an object"},
           {with("/model/vocab/!", "x"), "model.vocab.'!': is string, expected an id"},
           {with("/model/vocab/!", -4), "model.vocab.'!': id -4 is not in 0..16777215"},
           {with("/model/vocab/!", 1 << 24), "id 16777216 is not in 0..16777215"},
           {with("/model/vocab/!", 2), "model.vocab: id 2 belongs to '!' and to"},
           {with("/model/merges/1", "x"), "item 1: 'x' is not two tokens and a space"},
           {with("/model/merges/1", "h e x"), "item 1: 'h e x' is not two tokens and a space"},
           {with("/model/merges/1", "h qqq"), "model.merges: item 1: 'qqq' is not in the vocab"},
           {with("/model/merges/1", 5), "item 1: is neither a string nor a pair of strings"},
           {with("/added_tokens/0/content", ""), "added_tokens[0]: content is empty"},
           {with("/added_tokens/1", end), "added_tokens[1]: '<|endoftext|>' stands twice"},
           {with("/added_tokens/0/special", 1), "special: is number, expected true or false"},
           {with("/pre_tokenizer/type", 1), "pre_tokenizer.type: is number, expected a string"}}) {
    const Refusal refusal = refusal_of(json);
    EXPECT_THAT(refusal.what, HasSubstr(what));
    EXPECT_EQ(refusal.code, ErrorCode::input) << what;
  }
  EXPECT_THAT(refusal_of(with("/added_tokens/0", moved)).what,
              HasSubstr("added_tokens[0]: id of '<|endoftext|>' is 7, expected 0"));
}

TEST(Tokenizer, NamesThePartThatIsNotImplemented) {
  for (const auto& [patch, what] : std::vector<std::pair<std::string, std::string>>{
           {R"({"model": {"type": "Unigram"}})", "model: type 'Unigram' is not implemented"},
           {R"({"model": {"dropout": 0.1}})", "model.dropout: is set"},
           {R"({"model": {"byte_fallback": true}})", "model.byte_fallback: is set"},
           {R"({"model": {"end_of_word_suffix": "</w>"}})", "model.end_of_word_suffix: is set"},
           {R"({"normalizer": {"type": "Lowercase"}})", "normalizer: type 'Lowercase' is not"},
           {R"({"pre_tokenizer": {"type": "Metaspace"}})",
            "pre_tokenizer: type 'Metaspace' is not"},
           {R"({"pre_tokenizer": null})", "pre_tokenizer has no ByteLevel"},
           {R"({"pre_tokenizer": {"type": "Sequence",
                                  "pretokenizers": [{"type": "ByteLevel"}, {"type": "ByteLevel"}]}})",
            "pre_tokenizer.pretokenizers[1]: is a second ByteLevel"},
           {R"({"pre_tokenizer": {"type": "Split", "behavior": "Isolated",
                                  "pattern": {"Regex": "(?<n>b)*"}}})",
            "pre_tokenizer.pattern: pattern '(?<n>b)*': '(?<' at byte 0"}}) {
    const Refusal refusal = refusal_of_patch(nlohmann::json::parse(patch));
    EXPECT_EQ(refusal.code, ErrorCode::unsupported) << what;
    EXPECT_THAT(refusal.what, HasSubstr(what));
  }
}

TEST(SplitPattern, RewritesWhatPcre2WouldReadOtherwise) {
  EXPECT_EQ(pcre2_pattern("\\s+(?!\\S)"), "\\p{White_Space}+(?!\\P{White_Space})");
  EXPECT_EQ(pcre2_pattern("[^\\s\\p{L}]"), "[^\\p{White_Space}\\p{L}]");
  EXPECT_EQ(pcre2_pattern("\\p{N}{1,3}"), "\\p{N}{1,3}");
  EXPECT_EQ(pcre2_pattern("\\w"), "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}]");
}

TEST(SplitPattern, RefusesWhatPcre2WouldReadOtherwise) {
  for (const char* pattern :
       {"\\h", "\\R", "a{1,3}+", "a{2}?", "a{,3}", "[a&&b]", "[[:alpha:]]", "[[a]b]", "(*ACCEPT)",
        "(?R)", "\\1", "[\\W]", "\\xe9", "a\\", "[a", "a}", "[]a]", "\\pL", "(?m:a)"}) {
    EXPECT_THROW(SplitPattern::regex(pattern), Error) << pattern;
  }
}

TEST(SplitPattern, RefusesWhatIsNoPattern) {
  for (const char* pattern : {"(a", "a)", "\\p{Nonsense}", "*", "[b-a]"}) {
    EXPECT_THROW(SplitPattern::regex(pattern), Error) << pattern;
  }
}

TEST(SplitPattern, GivesUpOnAPatternThatBacktracksWithoutEnd) {
  const SplitPattern pattern = SplitPattern::regex("(a|aa)+b");
  EXPECT_THROW(pattern.stretches(std::string(200, 'a') + "cb"), Error);
}

TEST(ByteLevel, HasASymbolForEveryByte) {
  std::string bytes;
  for (int byte = 0; byte < 256; ++byte) bytes += static_cast<char>(byte);
  EXPECT_EQ(from_symbols(to_symbols(bytes)), bytes);
  EXPECT_EQ(to_symbols(" A\n"),
            "\xc4\xa0"
            "A\xc4\x8a");
  EXPECT_EQ(from_symbols(" "), std::nullopt);
  EXPECT_EQ(from_symbols("\xe6\x97\xa5"), std::nullopt);
}

RC_GTEST_PROP(NormalForm, IsThatOfTheWholeText, ()) {
  // `normalized` looks at runs; a space in front of the text makes other runs.
  const std::string text = *any_text();
  for (const NormalForm form : {NormalForm::nfc, NormalForm::nfkd}) {
    const std::string once = normalized(text, form);
    RC_ASSERT(normalized(once, form) == once);
    RC_ASSERT(normalized(" " + text, form) == " " + once);
  }
}

TEST(NormalForm, ComposesAcrossTheEndOfAscii) {
  EXPECT_EQ(normalized("xe\xcc\x81y", NormalForm::nfc), "x\xc3\xa9y");
  EXPECT_EQ(normalized("\xc3\xa9", NormalForm::nfd), "e\xcc\x81");
  EXPECT_EQ(normalized("a\xef\xac\x81", NormalForm::nfkc), "afi");
  EXPECT_EQ(normalized("\xef\xac\x81", NormalForm::nfc), "\xef\xac\x81");
}

TEST(Utf8, ReplacesMaximalSubparts) {
  // The Unicode Standard, section 3.9, table 3-11.
  EXPECT_EQ(utf8_lossy("a\xe1\x80\xe2\xf0\x91\x92\xf1\xbf"
                       "A"),
            "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
            "A");
}

}  // namespace
}  // namespace icd
