#include "icd/axis_facts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"
#include "support/tiny_mamba2.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyMamba2;

std::vector<std::string> names_of(const std::vector<Reader>& readers) {
  std::vector<std::string> names;
  for (const Reader& reader : readers) names.push_back(reader.tensor);
  return names;
}

/// The whole matrix, row-major.
std::vector<float> matrix(const Checkpoint& checkpoint, std::string_view name) {
  const TensorView view = checkpoint.view(*checkpoint.find(name));
  std::vector<float> values(static_cast<std::size_t>(view.elements()));
  read_as(view, std::span<float>(values));
  return values;
}

struct Tiny {
  ScratchFolder folder;
  Checkpoint checkpoint;
  Layout layout;

  explicit Tiny(const TinyCheckpoint& tiny = TinyCheckpoint{}) {
    tiny.write(folder.path());
    checkpoint = Checkpoint::open(folder.path());
    layout = layout_of(checkpoint);
  }
};

TEST(AxisFacts, InnerChannelsAreReadByXProjAndOutProj) {
  const Tiny tiny;
  const AxisGroup& group = *tiny.layout.find("layers.1/inner");
  const auto readers = readers_of(tiny.checkpoint, tiny.layout, group);
  EXPECT_THAT(names_of(readers), ElementsAre("backbone.layers.1.mixer.x_proj.weight",
                                             "backbone.layers.1.mixer.out_proj.weight"));
  for (const Reader& reader : readers) {
    EXPECT_EQ(*reader.weights, matrix(tiny.checkpoint, reader.tensor)) << reader.tensor;
    EXPECT_EQ(reader.run, 1);
  }
  EXPECT_EQ(role_of(tiny.layout, readers[1].tensor), "out_proj.weight");
}

TEST(AxisFacts, TheStreamIsReadByEveryInProjAndTheHead) {
  const Tiny tied;
  EXPECT_THAT(names_of(readers_of(tied.checkpoint, tied.layout, *tied.layout.find("model"))),
              ::testing::UnorderedElementsAre("backbone.embeddings.weight",
                                              "backbone.layers.0.mixer.in_proj.weight",
                                              "backbone.layers.1.mixer.in_proj.weight"));
  // With a head of its own the embedding is looked up, not multiplied by.
  const Tiny untied(TinyCheckpoint({.tied_head = false}));
  EXPECT_THAT(
      names_of(readers_of(untied.checkpoint, untied.layout, *untied.layout.find("model"))),
      ::testing::UnorderedElementsAre("lm_head.weight", "backbone.layers.0.mixer.in_proj.weight",
                                      "backbone.layers.1.mixer.in_proj.weight"));
}

TEST(AxisFacts, StatesAreReadByNoMatrix) {
  const Tiny tiny;
  const AxisGroup& group = *tiny.layout.find("layers.0/state");
  EXPECT_FALSE(is_read(tiny.checkpoint, tiny.layout, group));  // A_log is no matrix
  EXPECT_TRUE(readers_of(tiny.checkpoint, tiny.layout, group).empty());
  EXPECT_TRUE(is_read(tiny.checkpoint, tiny.layout, *tiny.layout.find("layers.0/dt_rank")));
}

TEST(AxisFacts, HeadsAreRunsOfColumns) {
  const ScratchFolder folder;
  TinyMamba2().write(folder.path());
  const Checkpoint checkpoint = Checkpoint::open(folder.path());
  const Layout layout = layout_of(checkpoint);
  int heads = 0;
  for (const AxisGroup& group : layout.groups) {
    if (group.kind != "head") continue;
    const auto readers = readers_of(checkpoint, layout, group);
    ASSERT_EQ(readers.size(), 1U);
    EXPECT_EQ(readers[0].run, 4);  // headdim
    // Two heads of a group of B and C: half of out_proj's columns, in their order.
    const auto whole = matrix(checkpoint, readers[0].tensor);
    const std::size_t offset = heads % 2 == 0 ? 0 : 8;
    for (std::size_t row = 0; row < 8; ++row) {
      for (std::size_t column = 0; column < 8; ++column) {
        EXPECT_EQ((*readers[0].weights)[row * 8 + column], whole[row * 16 + offset + column]);
      }
    }
    ++heads;
  }
  EXPECT_EQ(heads, 4);
}

TEST(AxisFacts, LargeMatricesGiveEveryKthRow) {
  const Tiny tiny;
  const AxisGroup& group = *tiny.layout.find("layers.0/inner");
  // x_proj has 13 rows of 16, out_proj 8: 336 entries, so every third row is at most 120.
  const auto readers = readers_of(tiny.checkpoint, tiny.layout, group, 120);
  ASSERT_EQ(readers.size(), 2U);
  EXPECT_EQ(readers[0].rows, 5);
  EXPECT_EQ(readers[1].rows, 3);
  const auto whole = matrix(tiny.checkpoint, readers[0].tensor);
  for (std::size_t row = 0; row < 5; ++row) {
    for (std::size_t column = 0; column < 16; ++column) {
      EXPECT_EQ((*readers[0].weights)[row * 16 + column], whole[3 * row * 16 + column]);
    }
  }
}

TEST(AxisFacts, WeightSquaresAddUpAllThatMovesWithAMember) {
  const Tiny tiny;
  const AxisGroup& group = *tiny.layout.find("layers.0/state");
  const auto squares = weight_squares(tiny.checkpoint, group);
  ASSERT_EQ(squares.size(), 5U);
  const auto x_proj = matrix(tiny.checkpoint, "backbone.layers.0.mixer.x_proj.weight");
  const auto a_log = matrix(tiny.checkpoint, "backbone.layers.0.mixer.A_log");
  for (std::size_t state = 0; state < 5; ++state) {
    double sum = 0;
    for (std::size_t column = 0; column < 16; ++column) {
      for (const std::size_t row : {3 + state, 8 + state}) {  // of B and of C, after dt
        sum += double{x_proj[row * 16 + column]} * double{x_proj[row * 16 + column]};
      }
      sum += double{a_log[column * 5 + state]} * double{a_log[column * 5 + state]};
    }
    EXPECT_NEAR(squares[state], sum, 1e-5 * sum) << state;
  }
}

TEST(AxisFacts, NamesTheTensorThatHoldsNaN) {
  TinyCheckpoint tiny;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(tiny.tensor("backbone.layers.0.mixer.out_proj.weight").bytes.data() + 8, &nan, 4);
  const Tiny broken(tiny);
  try {
    readers_of(broken.checkpoint, broken.layout, *broken.layout.find("layers.0/inner"));
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    EXPECT_THAT(error.what(), HasSubstr("out_proj.weight': holds NaN"));
  }
}

}  // namespace
}  // namespace icd
