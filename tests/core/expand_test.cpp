#include "icd/expand.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using testing::ScratchFolder;
using testing::TinyCheckpoint;

class Expand : public ::testing::Test {
 protected:
  Expand() {
    TinyCheckpoint({.n_layer = 1, .d_model = 2, .d_inner = 4, .d_state = 3, .dt_rank = 2})
        .write(scratch_ / "m");
    checkpoint_.emplace(Checkpoint::open(scratch_ / "m"));
    layout_ = layout_of(*checkpoint_, ModelSpec::of(*checkpoint_));
  }
  ScratchFolder scratch_;
  std::optional<Checkpoint> checkpoint_;
  Layout layout_;
};

TEST_F(Expand, MovesBothHalvesOfInProjAlike) {
  const auto moves =
      expand(*checkpoint_, layout_, {{"layers.0/inner", Permutation::from_gather({3, 0, 2, 1})}});
  const auto& in_proj = moves.at("backbone.layers.0.mixer.in_proj.weight").axes;
  ASSERT_EQ(in_proj.size(), 1u);
  EXPECT_EQ(in_proj[0].dim, 0);
  EXPECT_THAT(in_proj[0].order.gather(), ElementsAre(3, 0, 2, 1, 7, 4, 6, 5));
}

TEST_F(Expand, LeavesTheRestOfAnAxisWhereItIs) {
  const auto moves =
      expand(*checkpoint_, layout_, {{"layers.0/state", Permutation::from_gather({2, 0, 1})}});
  const auto& x_proj = moves.at("backbone.layers.0.mixer.x_proj.weight").axes;
  EXPECT_THAT(x_proj[0].order.gather(), ElementsAre(0, 1, 4, 2, 3, 7, 5, 6));  // dt, dt, B, C
}

TEST_F(Expand, PutsSeveralGroupsOfOneAxisIntoOneMove) {
  const auto moves = expand(*checkpoint_, layout_,
                            {{"layers.0/state", Permutation::from_gather({1, 0, 2})},
                             {"layers.0/dt_rank", Permutation::from_gather({1, 0})},
                             {"layers.0/inner", Permutation::from_gather({1, 0, 2, 3})}});
  const auto& x_proj = moves.at("backbone.layers.0.mixer.x_proj.weight").axes;
  ASSERT_EQ(x_proj.size(), 2u);
  EXPECT_THAT(x_proj[0].order.gather(), ElementsAre(1, 0, 3, 2, 4, 6, 5, 7));
  EXPECT_THAT(x_proj[1].order.gather(), ElementsAre(1, 0, 2, 3));
}

/// A layout of one file, with two nested groups, a sliced one and one of whole tensors.
class ExpandNested : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_file(
        scratch_ / "m.safetensors",
        testing::safetensors_bytes({{"heads", "F32", {6}, std::string(24, '1')},
                                    {"stack", "F32", {2, 3, 2}, std::string(48, '2')},
                                    {"e.0.w", "F32", {3}, std::string(12, '3')},
                                    {"e.1.w", "F32", {3}, std::string(12, '4')}}));
    checkpoint_.emplace(Checkpoint::open(scratch_ / "m.safetensors"));
    const auto group = [](const char* name, Index size, std::vector<AxisSegment> segments) {
      return AxisGroup{.name = name, .kind = name, .size = size, .segments = std::move(segments)};
    };
    layout_.groups = {
        group("channel.1", 3, {{.tensor = "heads", .offset = 3}}),
        group("pair.1", 3, {{.tensor = "stack", .dim = 1, .within = {{0, 1, 1}}}}),
        group("hidden.0", 3, {{.tensor = "e.0.w"}}),
        group("head", 2, {{.tensor = "heads", .stride = 3, .block = 3}}),
        group("mirror", 3, {{.tensor = "heads"}, {.tensor = "heads", .offset = 5, .stride = -1}}),
        group("expert", 2, {{.tensor = "e.{}.w", .dim = AxisSegment::kWholeTensors}})};
  }

  ScratchFolder scratch_;
  std::optional<Checkpoint> checkpoint_;
  Layout layout_;
};

TEST_F(ExpandNested, AppliesFinerGroupsWhereTheyStandBeforeCoarserOnes) {
  const auto moves = expand(*checkpoint_, layout_,
                            {{"channel.1", Permutation::from_gather({2, 0, 1})},
                             {"head", Permutation::from_gather({1, 0})}});
  EXPECT_THAT(moves.at("heads").axes[0].order.gather(), ElementsAre(5, 3, 4, 0, 1, 2));
}

TEST_F(ExpandNested, TakesAxesAsOneWhereAnOrderHoldsInASliceOnly) {
  const auto moves =
      expand(*checkpoint_, layout_, {{"pair.1", Permutation::from_gather({1, 2, 0})}});
  const AxisMove& move = moves.at("stack").axes[0];
  EXPECT_EQ(move.dim, 0);
  EXPECT_EQ(move.span, 2);
  EXPECT_THAT(move.order.gather(), ElementsAre(0, 1, 2, 4, 5, 3));
}

TEST_F(ExpandNested, MovesPairsFromBothEnds) {
  const auto moves =
      expand(*checkpoint_, layout_, {{"mirror", Permutation::from_gather({1, 2, 0})}});
  EXPECT_THAT(moves.at("heads").axes[0].order.gather(), ElementsAre(1, 2, 0, 5, 3, 4));
}

TEST_F(ExpandNested, GivesWholeTensorsTheMovesOfThoseTheyGet) {
  const auto moves = expand(*checkpoint_, layout_,
                            {{"hidden.0", Permutation::from_gather({2, 1, 0})},
                             {"expert", Permutation::from_gather({1, 0})}});
  EXPECT_EQ(moves.at("e.0.w").from, "e.1.w");
  EXPECT_TRUE(moves.at("e.0.w").axes.empty());
  EXPECT_EQ(moves.at("e.1.w").from, "e.0.w");
  EXPECT_THAT(moves.at("e.1.w").axes[0].order.gather(), ElementsAre(2, 1, 0));
  const auto undo = inverse(moves);
  EXPECT_EQ(undo.at("e.0.w").from, "e.1.w");
  EXPECT_THAT(undo.at("e.0.w").axes[0].order.gather(), ElementsAre(2, 1, 0));
}

TEST_F(Expand, OfTheIdentityMovesNothing) {
  EXPECT_TRUE(expand(*checkpoint_, layout_, {{"model", Permutation::identity(2)}}).empty());
}

}  // namespace
}  // namespace icd
