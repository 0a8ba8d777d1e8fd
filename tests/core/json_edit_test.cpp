#include "json_edit.h"

#include <gtest/gtest.h>

#include <array>

#include "icd/error.h"

namespace icd {
namespace {

template <std::size_t N>
std::string edited(std::string_view text, const std::array<std::string_view, N>& path,
                   std::string_view value) {
  return with_json_value(text, path, value);
}

TEST(JsonEdit, ReplacesAValueAndNothingElse) {
  EXPECT_EQ(edited<1>("{ \"a\" :1,\n\t\"b\":  [2, {\"a\": 3}] , \"c\":4}\n", {"a"}, "17"),
            "{ \"a\" :17,\n\t\"b\":  [2, {\"a\": 3}] , \"c\":4}\n");
  EXPECT_EQ(edited<1>(R"({"a":1,"b":[2,{"a":3}],"c":4})", {"b"}, "null"),
            R"({"a":1,"b":null,"c":4})");
  EXPECT_EQ(edited<1>(R"({"a":1,"c":4})", {"c"}, "5"), R"({"a":1,"c":5})");
}

TEST(JsonEdit, FindsAKeyOnlyInItsOwnObject) {
  EXPECT_EQ(edited<1>(R"({"x":{"p":1},"s":"\"p\":2","p":3})", {"p"}, "4"),
            R"({"x":{"p":1},"s":"\"p\":2","p":4})");
  EXPECT_EQ((edited<2>(R"({"p":3,"x":{"q":0,"p":1}})", {"x", "p"}, "4")),
            R"({"p":3,"x":{"q":0,"p":4}})");
}

TEST(JsonEdit, AddsAKeyInTheStyleOfItsNeighbours) {
  EXPECT_EQ(edited<1>("{\n  \"a\": 1,\n  \"b\": 2\n}\n", {"c"}, "3"),
            "{\n  \"a\": 1,\n  \"b\": 2,\n  \"c\": 3\n}\n");
  EXPECT_EQ(edited<1>(R"({"a":1,"b":2})", {"c"}, "3"), R"({"a":1,"b":2,"c":3})");
  EXPECT_EQ((edited<2>(R"({"ssm_cfg": {"layer": "Mamba2"}, "n": 1})", {"ssm_cfg", "headdim"}, "8")),
            R"({"ssm_cfg": {"layer": "Mamba2","headdim": 8}, "n": 1})");
  EXPECT_EQ((edited<2>(R"({"ssm_cfg": {}})", {"ssm_cfg", "headdim"}, "8")),
            R"({"ssm_cfg": {"headdim": 8}})");
}

TEST(JsonEdit, RefusesAPathThroughSomethingElse) {
  EXPECT_THROW((edited<2>(R"({"ssm_cfg": 3})", {"ssm_cfg", "headdim"}, "8")), Error);
  EXPECT_THROW((edited<2>(R"({"a": 3})", {"ssm_cfg", "headdim"}, "8")), Error);
}

}  // namespace
}  // namespace icd
