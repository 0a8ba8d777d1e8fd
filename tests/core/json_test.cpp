#include "json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"

namespace icd {
namespace {

using ::testing::StartsWith;

std::string message(std::string_view text) {
  try {
    parse_json(text, "x.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    return error.what();
  }
  return "accepted";
}

TEST(ParseJson, RefusesAKeyThatStandsTwice) {
  EXPECT_EQ(message(R"({"a": 1, "b": {"a": 1}, "a": 2})"), "x.json: key 'a' stands twice");
  EXPECT_EQ(message(R"([{"a": 1}, {"a": 1}])"), "accepted");
}

TEST(ParseJson, SaysWhereTheTextIsNotJson) {
  EXPECT_THAT(message("{\"a\": }"), StartsWith("x.json: is not JSON: parse error at line 1"));
  EXPECT_THAT(message("{} x"), StartsWith("x.json: is not JSON"));
  EXPECT_THAT(message("\"\xff\""), StartsWith("x.json: is not JSON"));
  EXPECT_THAT(message(""), StartsWith("x.json: is not JSON"));
}

TEST(ParseJson, StopsAtADepthNobodyNeeds) {
  EXPECT_EQ(message(std::string(100000, '[')), "x.json: is nested deeper than 64 levels");
}

TEST(Members, AreCheckedForTheirKind) {
  const Json object =
      parse_json(R"({"n": 3, "big": 18446744073709551615, "x": 1.5, "s": "t"})", "x");
  EXPECT_EQ(integer_at(object, "n", "x"), 3);
  EXPECT_EQ(number_at(object, "x", "x"), 1.5);
  EXPECT_EQ(text_at(object, "s", "x"), "t");
  const auto refused = [&](auto ask) {
    try {
      ask();
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refused([&] { integer_at(object, "missing", "x"); }), "x: 'missing' is missing");
  EXPECT_EQ(refused([&] { integer_at(object, "x", "x"); }),
            "x: 'x' is 1.5, expected a whole number of 64 bits");
  EXPECT_EQ(refused([&] { integer_at(object, "big", "x"); }),
            "x: 'big' is 18446744073709551615, expected a whole number of 64 bits");
  EXPECT_EQ(refused([&] { boolean_at(object, "s", "x"); }),
            "x: 's' is of type string, expected true or false");
}

}  // namespace
}  // namespace icd
