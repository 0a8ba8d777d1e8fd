#include "icd/tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "safetensors.h"
#include "support/files.h"

namespace icd {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ScratchFolder;

/// A .npy file of version 1.0.
std::string npy(std::string header, std::string_view data) {
  header += '\n';
  std::string file("\x93NUMPY\x01\x00", 8);
  file += static_cast<char>(header.size() & 0xff);
  file += static_cast<char>(header.size() >> 8);
  return file + header + std::string(data);
}

std::string described(std::string_view descr, std::string_view shape,
                      std::string_view order = "False") {
  return "{'descr': '" + std::string(descr) + "', 'fortran_order': " + std::string(order) +
         ", 'shape': " + std::string(shape) + ", }";
}

std::string bytes_of(const std::vector<std::int64_t>& values, int item_bytes, bool is_big_endian) {
  std::string bytes;
  for (const std::int64_t value : values) {
    for (int i = 0; i < item_bytes; ++i) {
      const int shift = 8 * (is_big_endian ? item_bytes - 1 - i : i);
      bytes += static_cast<char>(static_cast<std::uint64_t>(value) >> shift);
    }
  }
  return bytes;
}

std::vector<TokenId> read(std::string_view name, std::string_view bytes) {
  const ScratchFolder folder;
  testing::write_file(folder / name, bytes);
  return read_tokens(folder / name);
}

std::string refusal(std::string_view name, std::string_view bytes) {
  try {
    read(name, bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input) << error.what();
    EXPECT_THAT(error.what(), AllOf(HasSubstr(std::string(name)), Not(HasSubstr("\n"))));
    return error.what();
  }
  ADD_FAILURE() << "was not refused";
  return {};
}

TEST(Tokens, ReadsNpyOfEveryWidthAndEndianness) {
  for (const char kind : {'i', 'u'}) {
    for (const int item_bytes : {1, 2, 4, 8}) {
      for (const char order : {'<', '>'}) {
        const std::string descr = {order, kind, static_cast<char>('0' + item_bytes)};
        const std::string data = bytes_of({0, 1, 127, 100}, item_bytes, order == '>');
        EXPECT_THAT(read("a.npy", npy(described(descr, "(4,)"), data)), ElementsAre(0, 1, 127, 100))
            << descr;
      }
    }
  }
}

TEST(Tokens, ReadsIdsThatFillTheirType) {
  EXPECT_THAT(read("a.npy", npy(described("|u1", "(1,)"), "\xff")), ElementsAre(255));
  EXPECT_THAT(read("a.npy", npy(described("<u2", "(1,)"), "\xff\xff")), ElementsAre(65535));
  EXPECT_THAT(read("a.npy", npy(described("<i4", "(1,)"), "\xff\xff\xff\x7f")),
              ElementsAre(2147483647));
}

TEST(Tokens, ReadsTwoAxesRowAfterRow) {
  const std::string data = bytes_of({0, 1, 2, 3, 4, 5}, 2, false);
  EXPECT_THAT(read("a.npy", npy(described("<i2", "(2, 3)"), data)), ElementsAre(0, 1, 2, 3, 4, 5));
  EXPECT_THAT(read("a.npy", npy(described("<i2", "(2, 3)", "True"), data)),
              ElementsAre(0, 2, 4, 1, 3, 5));
}

TEST(Tokens, ReadsTheLaterVersionsOfNpy) {
  for (const char version : {'\x02', '\x03'}) {
    const std::string header = described("<i2", "(1,)") + "\n";
    std::string file("\x93NUMPY", 6);
    file += {version, '\0', static_cast<char>(header.size()), '\0', '\0', '\0'};
    EXPECT_THAT(read("a.npy", file + header + bytes_of({42}, 2, false)), ElementsAre(42));
  }
}

TEST(Tokens, RefusesAMalformedNpy) {
  const std::string four = bytes_of({1, 2, 3, 4}, 2, false);
  for (const auto& [file, what] : std::vector<std::pair<std::string, std::string>>{
           {"NUMPY", "is not a .npy file"},
           {std::string("\x93NUMPY\x04\x00\x00\x00", 10), "version is 4.0, expected 1.0, 2.0 or"},
           {std::string("\x93NUMPY\x01\x00\xff\xff{", 11), "header has 65535 bytes, the file 1"},
           {npy("{'descr': '<i2'}", four), "has no 'fortran_order'"},
           {npy("{'descr': '<i2', 'descr': '<i2'}", four), "a second 'descr'"},
           {npy("{'x': 1}", four), "key 'x'"},
           {npy(described("<i2", "(4,)") + "x", four), "text after the dictionary"},
           {npy(described("<i2", "(4", "False"), four), "byte 54: an axis that is no length"},
           {npy(described("<i2", "(-4,)"), four), "an axis that is no length"},
           {npy(described("<i2", "(99999999999999999999,)"), four), "an axis that is no length"},
           {npy(described("<i2", "(4,)", "Maybe"), four), "no 'False'"},
           {npy(described("<f4", "(2,)"), four), "elements are '<f4', expected integers"},
           {npy(described("|b1", "(8,)"), four), "elements are '|b1', expected integers"},
           {npy(described("<i3", "(2,)"), four), "elements are '<i3', expected integers"},
           {npy("{'descr': [('a', '<i2')], }", four), "has fields, expected integers"},
           {npy(described("<i2", "(5,)"), four), "shape (5,) does not fit: the file holds 4"},
           {npy(described("<i2", "(4294967296, 4294967296)"), four), "does not fit"},
           {npy(described("<i2", "(3,)"), four), "shape (3,) takes 6 bytes, the file has 8"},
           {npy(described("<i2", "(2, 2, 1)"), four), "shape is (2, 2, 1), expected 1 or 2 axes"},
           {npy(described("<i2", "()"), four.substr(0, 2)), "shape is (), expected 1 or 2 axes"},
           {npy(described("<i2", "(0,)"), ""), "shape is (0,), expected ids"},
           {npy(described("<i2", "(99999999999, 0)"), ""), "expected ids"}}) {
    EXPECT_THAT(refusal("a.npy", file), HasSubstr(what));
  }
}

TEST(Tokens, RefusesNumbersThatAreNoIds) {
  for (const auto& [descr, value, what] :
       std::vector<std::tuple<std::string, std::int64_t, std::string>>{
           {"|i1", -1, "element 1 is -1, expected an id in 0..2147483647"},
           {"<i2", -300, "element 1 is -300,"},
           {">i4", -7, "element 1 is -7,"},
           {"<i8", -7, "element 1 is -7,"},
           {"<i8", std::int64_t{1} << 31, "element 1 is 2147483648,"},
           {"<u4", std::int64_t{1} << 31, "element 1 is 2147483648,"},
           {">u8", -1, "element 1 is 18446744073709551615,"}}) {
    const int item_bytes = descr[2] - '0';
    const std::string data = bytes_of({0, value}, item_bytes, descr[0] == '>');
    EXPECT_THAT(refusal("a.npy", npy(described(descr, "(2,)"), data)), HasSubstr(what));
  }
}

std::string safetensors(const std::vector<SafetensorsEntry>& entries) {
  std::string file = safetensors_header(entries);
  char next = 1;
  for (const SafetensorsEntry& entry : entries) {
    const std::int64_t bytes = entry_bytes(entry);
    const int item_bytes = dtype_bytes(entry.dtype);
    for (std::int64_t i = 0; i < bytes; ++i) file += i % item_bytes == 0 ? next++ : '\0';
  }
  return file;
}

TEST(Tokens, ReadsTheOnlyTensorOfSafetensors) {
  EXPECT_THAT(
      read("a.safetensors", safetensors({{.name = "x", .dtype = DType::i64, .shape = {2, 2}}})),
      ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(
      read("a.safetensors", safetensors({{.name = "x", .dtype = DType::u16, .shape = {3}}})),
      ElementsAre(1, 2, 3));
}

TEST(Tokens, ReadsTheTensorThatIsCalledInputIds) {
  EXPECT_THAT(read("a.safetensors",
                   safetensors({{.name = "attention_mask", .dtype = DType::u8, .shape = {2}},
                                {.name = "input_ids", .dtype = DType::i32, .shape = {2}}})),
              ElementsAre(3, 4));
}

TEST(Tokens, RefusesSafetensorsWithoutIds) {
  EXPECT_THAT(
      refusal("a.safetensors", safetensors({{.name = "x", .dtype = DType::u8, .shape = {2}},
                                            {.name = "y", .dtype = DType::u8, .shape = {2}}})),
      HasSubstr("has 2 tensors, expected one, or one called 'input_ids' or 'tokens'"));
  EXPECT_THAT(
      refusal("a.safetensors", safetensors({{.name = "x", .dtype = DType::f32, .shape = {2}}})),
      HasSubstr("tensor 'x': dtype is 'F32', expected an integer type"));
  EXPECT_THAT(refusal("a.safetensors",
                      safetensors({{.name = "x", .dtype = DType::u8, .shape = {1, 1, 2}}})),
              HasSubstr("tensor 'x': shape is (1, 1, 2), expected 1 or 2 axes"));
  refusal("a.safetensors", "not a header");
}

TEST(Tokens, ReadsTextApartByWhiteSpaceOrCommas) {
  EXPECT_THAT(read("a.txt", "1 2,3, 4\r\n\t5\n"), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(read("ids", "2147483647"), ElementsAre(2147483647));
}

TEST(Tokens, NamesTheLineOfTextThatIsNoId) {
  for (const auto& [text, what] : std::vector<std::pair<std::string, std::string>>{
           {"1\n2 x3\n", "line 2: found 'x3', expected an id in 0..2147483647"},
           {"1\n\n-4", "line 3: found '-4',"},
           {"1.5", "line 1: found '1.5',"},
           {"[1", "line 1: found '[1',"},
           {"+1", "line 1: found '+1',"},
           {"2147483648", "line 1: found '2147483648',"},
           {" ,\n", "holds no ids"}}) {
    EXPECT_THAT(refusal("a.txt", text), HasSubstr(what));
  }
}

TEST(Tokens, RefusesAFileThatIsNotThere) {
  EXPECT_THROW(read_tokens("/nonexistent/ids.txt"), Error);
}

TEST(Tokens, HasABuiltInTextThatIsTheCommittedOne) {
  EXPECT_EQ(builtin_text(), testing::read_file(std::string(ICD_SOURCE_DIR) +
                                               "/experiments/text/eltec-excerpt.txt"));
}

TEST(RandomTokens, AreAFunctionOfTheirArguments) {
  EXPECT_EQ(random_tokens(1000, 64, 7), random_tokens(1000, 64, 7));
  EXPECT_NE(random_tokens(1000, 64, 7), random_tokens(1000, 64, 8));
  EXPECT_TRUE(random_tokens(1000, 0, 7).empty());
}

TEST(RandomTokens, CoverTheVocabularyAndNoMore) {
  std::vector<int> counts(10);
  for (const TokenId id : random_tokens(10, 10'000, 1)) ++counts.at(static_cast<std::size_t>(id));
  // 1000 each, with a standard deviation of 30.
  for (const int count : counts) EXPECT_NEAR(count, 1000, 150);
}

TEST(RandomTokens, RefuseAnEmptyVocabulary) {
  EXPECT_THROW(random_tokens(0, 1, 1), Error);
  EXPECT_THROW(random_tokens(1, -1, 1), Error);
}

std::vector<TokenId> numbered(std::int64_t count) {
  std::vector<TokenId> ids(static_cast<std::size_t>(count));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(SplitTokens, HoldsTheLastSequencesOut) {
  const TokenSplit split = split_tokens(numbered(25), 4, 1000, 0.34);
  EXPECT_EQ(split.train_shape.sequences, 4);
  EXPECT_EQ(split.train_shape.length, 4);
  EXPECT_EQ(split.heldout_shape.sequences, 2);
  EXPECT_EQ(split.train, numbered(16));
  EXPECT_THAT(split.heldout, ElementsAre(16, 17, 18, 19, 20, 21, 22, 23));
}

TEST(SplitTokens, ShortensSequencesOfAShortText) {
  const TokenSplit split = split_tokens(numbered(9), 512, 1000, 0.1);
  EXPECT_EQ(split.train, numbered(4));
  EXPECT_THAT(split.heldout, ElementsAre(4, 5, 6, 7));
}

TEST(SplitTokens, RefusesTooFewIds) {
  for (const auto& [count, length, limit] : std::vector<std::tuple<int, Index, int>>{
           {3, 2, 100}, {0, 2, 100}, {100, 2, 3}, {100, 1, 100}, {100, 8, -1}}) {
    try {
      split_tokens(numbered(count), length, limit, 0.1);
      ADD_FAILURE() << count << ' ' << length << ' ' << limit;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
    }
  }
}

TEST(SplitTokens, RefusesAShareThatIsNone) {
  for (const double share : {-0.1, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(split_tokens(numbered(100), 4, 100, share), Error) << share;
  }
}

RC_GTEST_PROP(SplitTokens, TakesTheFrontOfTheTextInOrder, ()) {
  const auto count = *rc::gen::inRange<std::int64_t>(4, 300);
  const auto length = *rc::gen::inRange<Index>(2, 50);
  const auto limit = *rc::gen::inRange<std::int64_t>(4, 400);
  const double heldout = *rc::gen::inRange(0, 101) / 100.0;
  const TokenSplit split = split_tokens(numbered(count), length, limit, heldout);
  std::vector<TokenId> all = split.train;
  all.insert(all.end(), split.heldout.begin(), split.heldout.end());
  RC_ASSERT(all == numbered(static_cast<std::int64_t>(all.size())));
  const std::int64_t used = std::min(count, limit);
  RC_ASSERT(static_cast<std::int64_t>(all.size()) <= used);
  RC_ASSERT(static_cast<std::int64_t>(all.size()) > used - split.train_shape.length);
  RC_ASSERT(split.train_shape.sequences >= 1 && split.heldout_shape.sequences >= 1);
  RC_ASSERT(split.train_shape.length == split.heldout_shape.length);
  RC_ASSERT(split.train_shape.rows() == static_cast<std::int64_t>(split.train.size()));
}

}  // namespace
}  // namespace icd
