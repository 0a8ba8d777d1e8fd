#include "safetensors.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cstring>

#include "icd/error.h"
#include "icd/random.h"
#include "support/tiny_checkpoint.h"
#include "support/torch_archive_builder.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::MemoryFile;
using testing::safetensors_bytes;
using testing::TinyTensor;

std::vector<TinyTensor> two_tensors() {
  return {{"a", "F32", {2, 3}, std::string(24, 'a')}, {"b", "BF16", {}, std::string(2, 'b')}};
}

/// A file whose header is `json`, with `data` bytes behind it.
std::string raw(const std::string& json, std::size_t data) {
  std::uint64_t length = json.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + json + std::string(data, 'x');
}

std::string message(const std::string& file) {
  try {
    read_safetensors(MemoryFile(file, "m.safetensors"), 0);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  return "accepted";
}

TEST(ReadSafetensors, FindsTensorsWhereTheyLie) {
  const std::string text = safetensors_bytes(two_tensors());
  const auto tensors = read_safetensors(MemoryFile(text, "m.safetensors"), 3);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].shape, (Shape{2, 3}));
  EXPECT_EQ(tensors[0].strides, (std::vector<std::int64_t>{3, 1}));
  EXPECT_EQ(tensors[0].file, 3);
  EXPECT_EQ(text.substr(static_cast<std::size_t>(tensors[0].begin), 24), std::string(24, 'a'));
  EXPECT_EQ(tensors[1].dtype, DType::bf16);
  EXPECT_EQ(tensors[1].span_bytes, 2);
}

TEST(ReadSafetensors, ToleratesWhatTheReferenceTolerates) {
  // White space around the object, empty tensors, fields it does not know, sub-byte types.
  EXPECT_EQ(message(raw(R"(  {"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}   )", 2)),
            "accepted");
  EXPECT_EQ(message(raw(R"({"a":{"dtype":"U8","shape":[0,9],"data_offsets":[0,0]}})", 0)),
            "accepted");
  EXPECT_EQ(
      message(raw(R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,1],"new":{"x":[1.5]}}})", 1)),
      "accepted");
  EXPECT_EQ(message(raw(R"({"a":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}})", 3)),
            "accepted");
  EXPECT_EQ(message(raw("{}", 0)), "accepted");
  // A type that is newer than icd: carried, so its size is taken on trust.
  EXPECT_EQ(message(raw(R"({"a":{"dtype":"F3","shape":[3],"data_offsets":[0,2]}})", 2)),
            "accepted");
}

struct BadHeader {
  const char* json;
  std::size_t data;
  const char* reason;
};
class BadHeaders : public ::testing::TestWithParam<BadHeader> {};

TEST_P(BadHeaders, AreRefusedWithTheReason) {
  EXPECT_THAT(message(raw(GetParam().json, GetParam().data)), HasSubstr(GetParam().reason));
}

INSTANTIATE_TEST_SUITE_P(
    Each, BadHeaders,
    ::testing::Values(
        BadHeader{R"([1])", 0, "is an array, expected an object"},
        BadHeader{R"(3)", 0, "is a number, expected an object"},
        BadHeader{R"({"a":)", 0, "is not JSON"}, BadHeader{"{\"\xff\":1}", 0, "is not JSON"},
        BadHeader{R"({"a":5})", 0, "tensor 'a': is a number, expected an object"},
        BadHeader{R"({"__metadata__":{"x":1}})", 0,
                  "__metadata__: 'x' is a number, expected a string"},
        BadHeader{R"({"__metadata__":{"x":"1","x":"2"}})", 0, "__metadata__: holds 'x' twice"},
        BadHeader{
            R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
            2, "holds 'a' twice"},
        BadHeader{R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1,
                  "tensor 'a': holds 'dtype' twice"},
        BadHeader{R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1, "'dtype' is missing"},
        BadHeader{R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1, "'shape' is missing"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1]}})", 1, "'data_offsets' is missing"},
        BadHeader{R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1,
                  "'dtype' holds a number"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1,
                  "holds a negative number"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}})", 1,
                  "holds a fraction"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", 1,
                  "holds an array"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}})", 1,
                  "holds a fraction"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,2]}})", 2,
                  "has 3 entries, expected 2"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1,
                  "begins at byte 1 and ends before it"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3,
                  "the file holds 3 data bytes"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", 1,
                  "takes 2 bytes, but data_offsets give it 1"},
        BadHeader{R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1,
                  "do not end on a byte"},
        BadHeader{R"({"a":{"dtype":"F64","shape":[4294967296,4294967296],"data_offsets":[0,1]}})",
                  1, "overflows"},
        BadHeader{
            R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})",
            3, "inside that of 'a'"},
        BadHeader{
            R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})",
            3, "leaving a hole after byte 1"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2,
                  "leaving a hole after byte 0"},
        BadHeader{R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 2,
                  "tensors end at data byte 1"}));

TEST(ReadSafetensors, BoundsTheHeaderByTheFile) {
  EXPECT_THAT(message("1234567"), HasSubstr("is 7 bytes long"));
  std::string file = safetensors_bytes(two_tensors());
  file[7] = '\x7f';
  EXPECT_THAT(message(file), HasSubstr("expected at most 100000000"));
  EXPECT_THAT(message(safetensors_bytes(two_tensors()).substr(0, 40)),
              HasSubstr("but the file holds"));
}

TEST(ReadSafetensors, NeverReadsBeyondAPrefixOrAFlippedByte) {
  const std::string whole = safetensors_bytes(two_tensors());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_NE(message(whole.substr(0, size)), "accepted") << size;
  }
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = whole;
      flipped[at] = static_cast<char>(flipped[at] ^ (1 << bit));
      message(flipped);  // any answer will do, as long as there is one
    }
  }
}

TEST(SafetensorsHeader, IsWhatTheReaderReads) {
  const std::vector<SafetensorsEntry> entries = {
      {"x", DType::f32, {2, 2}}, {"y \"quoted\"", DType::bf16, {}}, {"z", DType::u8, {0, 4}}};
  std::string file =
      safetensors_header(entries, std::vector<std::pair<std::string, std::string>>{{"k", "v"}});
  EXPECT_EQ(file.size() % 8, 0u);
  EXPECT_THAT(file, HasSubstr(R"("__metadata__":{"format":"pt","k":"v"})"));
  file += std::string(18, 'x');
  const auto tensors = read_safetensors(MemoryFile(file, "m.safetensors"), 0);
  ASSERT_EQ(tensors.size(), 3u);
  for (std::size_t i = 0; i < entries.size(); ++i) {
    const auto at = std::find_if(tensors.begin(), tensors.end(),
                                 [&](const StoredTensor& t) { return t.name == entries[i].name; });
    ASSERT_NE(at, tensors.end());
    EXPECT_EQ(at->shape, entries[i].shape);
    EXPECT_EQ(at->dtype, entries[i].dtype);
  }
}

RC_GTEST_PROP(SafetensorsProperty, AnyListOfTensorsIsReadBack, ()) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  std::vector<TinyTensor> written;
  const auto count = random.below(6);
  for (std::uint64_t i = 0; i < count; ++i) {
    Shape shape;
    std::int64_t elements = 1;
    for (std::uint64_t axis = random.below(4); axis > 0; --axis) {
      shape.push_back(static_cast<std::int64_t>(random.below(4)));
      elements *= shape.back();
    }
    written.push_back(
        {fmt::format("t{}", i), "I16", shape,
         std::string(static_cast<std::size_t>(2 * elements), static_cast<char>('0' + i))});
  }
  const std::string text = safetensors_bytes(written);
  const auto read = read_safetensors(MemoryFile(text, "m.safetensors"), 0);
  RC_ASSERT(read.size() == written.size());
  for (const TinyTensor& tensor : written) {
    const auto at = std::find_if(read.begin(), read.end(),
                                 [&](const StoredTensor& t) { return t.name == tensor.name; });
    RC_ASSERT(at != read.end() && at->shape == tensor.shape);
    RC_ASSERT(text.substr(static_cast<std::size_t>(at->begin),
                          static_cast<std::size_t>(at->span_bytes)) == tensor.bytes);
  }
}

}  // namespace
}  // namespace icd
