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
  const auto& in_proj = moves.at("backbone.layers.0.mixer.in_proj.weight");
  ASSERT_EQ(in_proj.size(), 1u);
  EXPECT_EQ(in_proj[0].dim, 0);
  EXPECT_THAT(in_proj[0].order.gather(), ElementsAre(3, 0, 2, 1, 7, 4, 6, 5));
}

TEST_F(Expand, LeavesTheRestOfAnAxisWhereItIs) {
  const auto moves =
      expand(*checkpoint_, layout_, {{"layers.0/state", Permutation::from_gather({2, 0, 1})}});
  const auto& x_proj = moves.at("backbone.layers.0.mixer.x_proj.weight");
  EXPECT_THAT(x_proj[0].order.gather(), ElementsAre(0, 1, 4, 2, 3, 7, 5, 6));  // dt, dt, B, C
}

TEST_F(Expand, PutsSeveralGroupsOfOneAxisIntoOneMove) {
  const auto moves = expand(*checkpoint_, layout_,
                            {{"layers.0/state", Permutation::from_gather({1, 0, 2})},
                             {"layers.0/dt_rank", Permutation::from_gather({1, 0})},
                             {"layers.0/inner", Permutation::from_gather({1, 0, 2, 3})}});
  const auto& x_proj = moves.at("backbone.layers.0.mixer.x_proj.weight");
  ASSERT_EQ(x_proj.size(), 2u);
  EXPECT_THAT(x_proj[0].order.gather(), ElementsAre(1, 0, 3, 2, 4, 6, 5, 7));
  EXPECT_THAT(x_proj[1].order.gather(), ElementsAre(1, 0, 2, 3));
}

TEST_F(Expand, OfTheIdentityMovesNothing) {
  EXPECT_TRUE(expand(*checkpoint_, layout_, {{"model", Permutation::identity(2)}}).empty());
}

}  // namespace
}  // namespace icd
