#include "layout_table.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "icd/layout.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyTensor;

std::string refusal(std::string_view text) {
  LayoutTables tables;
  try {
    parse_layout_tables(text, "x.layout", tables);
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(LayoutTable, SaysWhichLineItDoesNotUnderstand) {
  EXPECT_EQ(refusal("network x\n"),
            "x.layout, line 1: 'network' begins no table, expected block, layout or lookalike");
  EXPECT_EQ(refusal("# a\nblock x\n  space\n"), "x.layout, line 3: expected: space KIND SIZE");
  EXPECT_EQ(refusal("block x\n  tensor A : (a + b\n"), "x.layout, line 2: '(' is not closed");
  EXPECT_EQ(refusal("block x\n  tensor A : a b\n"), "x.layout, line 2: 'b' is too much in 'a b'");
  EXPECT_EQ(refusal("block x\n  tensor A\n"), "x.layout, line 2: expected: tensor NAME : AXES");
  EXPECT_EQ(refusal("block x\n  anchor A\n"), "x.layout, line 2: a block has tensors");
  EXPECT_EQ(refusal("layout x\n  root\n"), "x.layout, line 2: 'layout x' is cut short");
  EXPECT_EQ(refusal("layout x\n    space a b\n  space c d\n"),
            "x.layout, line 3: stands deeper than the line above allows");
  EXPECT_EQ(refusal("layout x\n  space a b\n"),
            "x.layout, line 1: a layout has a root and tensors");
  EXPECT_EQ(refusal("layout x\n  each layers.\n"),
            "x.layout, line 2: 'layers.' counts nothing, expected a name in braces");
  EXPECT_EQ(refusal("block x\n  tensor A : " + std::string(100, '(') + "\n"),
            "x.layout, line 2: brackets are more than 16 deep");
  EXPECT_EQ(refusal("layout x\n  root a\n  tensor a : b\n  part mixer at m.\n"),
            "x.layout: part mixer: there is no such block");
}

TEST(LayoutTable, BuiltInTablesAreUnderstood) {
  const LayoutTables& tables = built_in_layout_tables();
  EXPECT_GT(tables.blocks.size(), 20u);
  EXPECT_GT(tables.layouts.size(), 15u);
  for (const BlockTable& block : tables.blocks) EXPECT_FALSE(block.anchor.empty()) << block.type;
  for (const LayoutTable& layout : tables.layouts) {
    EXPECT_FALSE(layout.when.empty()) << layout.name;
    EXPECT_FALSE(layout.root.empty()) << layout.name;
  }
}

/// The table of the walk-through, as it stands there.
std::string walk_through() {
  const std::string text = testing::read_file(fs::path(ICD_SOURCE_DIR) / "src/layouts/README.md");
  const auto begin = text.find("```\nblock wave_mlp");
  EXPECT_NE(begin, std::string::npos);
  return text.substr(begin + 4, text.find("```", begin + 4) - begin - 4);
}

TEST(LayoutTable, OfTheWalkThroughIsShortAndFindsEveryGroup) {
  const std::string table = walk_through();
  EXPECT_LT(std::count(table.begin(), table.end(), '\n'), 60);

  constexpr std::int64_t d = 6, heads = 4, headdim = 3, states = 5, groups = 2, hidden = 7;
  constexpr std::int64_t inner = heads * headdim;
  std::vector<TinyTensor> tensors;
  const auto add = [&](const std::string& name, Shape shape) {
    std::int64_t count = 1;
    for (const std::int64_t extent : shape) count *= extent;
    tensors.push_back({"net." + name, "F32", std::move(shape),
                       testing::random_bytes("F32", count, 1, 0, tensors.size())});
  };
  add("tok.weight", {11, d});
  add("norm_out.scale", {d});
  for (int i = 0; i < 2; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    add(block + "norm_a.scale", {d});
    add(block + "norm_b.scale", {d});
    add(block + "ff.w_in", {2 * hidden, d});
    add(block + "ff.w_out", {d, hidden});
    add(block + "mixer.A_log", {heads});
    add(block + "mixer.dt_bias", {heads});
    add(block + "mixer.D", {heads});
    add(block + "mixer.in_proj.weight", {2 * inner + 2 * groups * states + heads, d});
    add(block + "mixer.conv1d.weight", {inner + 2 * groups * states, 1, 4});
    add(block + "mixer.norm.weight", {inner});
    add(block + "mixer.out_proj.weight", {d, inner});
  }
  const ScratchFolder scratch;
  fs::create_directories(scratch / "m");
  testing::write_file(scratch / "m/model.safetensors", testing::safetensors_bytes(tensors));
  testing::write_file(scratch / "m/config.json", R"({"model_type": "wave", "n_groups": 2})");
  testing::write_file(scratch / "wave.layout", table);

  const Checkpoint checkpoint = Checkpoint::open(scratch / "m");
  const Layout layout = layout_of(checkpoint, {.name = (scratch / "wave.layout").string()});
  EXPECT_EQ(layout.name, "wave");
  EXPECT_THAT(layout.kinds(), ::testing::UnorderedElementsAre("channel", "head", "state", "group",
                                                              "hidden", "model"));
  EXPECT_EQ(layout.find("model")->segments.size(), 2u + 2u * 6u);
  EXPECT_EQ(layout.find("blocks.1/channel.3")->size, headdim);
  EXPECT_TRUE(layout.strangers.empty());
}

}  // namespace
}  // namespace icd
