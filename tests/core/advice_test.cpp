#include "icd/advice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/solver.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;
using ::testing::StartsWith;
using testing::TinyCheckpoint;

struct Tiny {
  ScratchFolder folder;
  Checkpoint checkpoint;
  Layout layout;
  Progress silent;

  Tiny() {
    TinyCheckpoint().write(folder.path());
    checkpoint = Checkpoint::open(folder.path());
    layout = layout_of(checkpoint);
  }
};

TEST(Advice, ScoresThePresentOrderARandomOneAndTheSolvers) {
  Tiny tiny;
  const Objective* objective = find_objective("importance");
  const EvidenceSource source = evidence_of_weights(tiny.checkpoint, tiny.layout);
  const AdviceRequest request{.kinds = {"inner"}, .aims = {{objective, find_solver("sort")}}};
  const auto table = advise(tiny.checkpoint, tiny.layout, request, source, tiny.silent);
  ASSERT_EQ(table.size(), 1U);
  EXPECT_EQ(table[0].groups, 2);

  // The same by hand.
  double present = 0;
  double solved = 0;
  source.gather(
      groups_of(tiny.layout, {"inner"}, {}), {.needs = objective->needs},
      [&](const AxisGroup& group, Evidence&& evidence) {
        const auto problem = objective->problem(evidence.calibration, {});
        present += problem->score(Permutation::identity(group.size)) / 2;
        solved += problem->score(find_solver("sort")->solve(*problem, {})) / 2;
        EXPECT_FALSE(evidence.heldout.has_value());
      },
      tiny.silent);
  EXPECT_DOUBLE_EQ(table[0].present.calibration, present);
  EXPECT_DOUBLE_EQ(table[0].solved.calibration, solved);
  EXPECT_FALSE(table[0].solved.heldout.has_value());
  EXPECT_LT(table[0].random.calibration, solved);
  EXPECT_DOUBLE_EQ(table[0].gap_closed(), (solved - present) / (1 - present));
}

TEST(Advice, SaysWhyAnObjectiveSaysNothing) {
  Tiny tiny;
  const EvidenceSource source = evidence_of_weights(tiny.checkpoint, tiny.layout);
  const AdviceRequest request{.kinds = {"state"},
                              .aims = {{find_objective("nm"), find_solver("swap")},
                                       {find_objective("timescale"), find_solver("sort")}}};
  const auto table = advise(tiny.checkpoint, tiny.layout, request, source, tiny.silent);
  ASSERT_EQ(table.size(), 2U);
  EXPECT_EQ(in_words(table[0]), "not assessed: no matrix reads state");
  EXPECT_EQ(in_words(table[1]), "not assessed: it reads activations, and only weights are known");
  EXPECT_EQ(worth(table[0]), Worth::nothing);
}

Assessment some(const char* objective, double present, double solved) {
  return {.objective = find_objective(objective),
          .kind = "inner",
          .groups = 1,
          .present = {.calibration = 0, .heldout = present},
          .random = {},
          .solved = {.calibration = 1, .heldout = solved}};
}

TEST(Advice, JudgesByTheGapClosedOnHeldOutTokens) {
  EXPECT_EQ(worth(some("importance", 0.5, 0.6)), Worth::yes);
  EXPECT_EQ(worth(some("importance", 0.5, 0.51)), Worth::little);
  EXPECT_EQ(worth(some("importance", 0.5, 0.501)), Worth::nothing);
  EXPECT_EQ(worth(some("importance", 0.5, 0.4)), Worth::nothing);
  EXPECT_THAT(in_words(some("importance", 0.5, 0.6)), StartsWith("yes: closes 20.0 % of the gap"));
  EXPECT_THAT(in_words(some("importance", 0.5, 0.4)), HasSubstr("does not beat"));
}

TEST(Advice, ALowerScoreIsAGapToZero) {
  EXPECT_DOUBLE_EQ(some("quant", 0.04, 0.03).gap_closed(), 0.25);
  EXPECT_EQ(worth(some("quant", 0.04, 0.03)), Worth::yes);
}

TEST(Advice, WhatChangesNothingThatIsKeptIsWorthNothing) {
  EXPECT_EQ(worth(some("modularity", 0.0, 0.9)), Worth::nothing);
  EXPECT_EQ(worth(some("timescale", 1.0, 0.0)), Worth::nothing);
  EXPECT_THAT(in_words(some("timescale", 1.0, 0.0)), StartsWith("no: "));
}

}  // namespace
}  // namespace icd
