#include "icd/joint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "icd/error.h"
#include "icd/make_plan.h"
#include "icd/random.h"
#include "support/files.h"
#include "support/graphs.h"
#include "support/tiny_mamba2.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyMamba2;

struct Tiny {
  ScratchFolder folder;
  Checkpoint checkpoint;
  Layout layout;
  Progress silent;

  Tiny() {
    TinyMamba2({.ngroups = 1, .heads_per_group = 4, .headdim = 6}).write(folder.path());
    checkpoint = Checkpoint::open(folder.path());
    layout = layout_of(checkpoint);
  }
};

/// A nest of `runs` runs without a checkpoint.
Nest nest_of(const AxisGroup& coarse, const AxisGroup& fine, Index run) {
  Nest nest;
  nest.coarse = &coarse;
  nest.fine.assign(static_cast<std::size_t>(coarse.size), &fine);
  nest.run = run;
  return nest;
}

TEST(Joint, FindsHeadsAndTheChannelsInsideThem) {
  const Tiny tiny;
  const auto groups = groups_of(tiny.layout, {"channel", "head", "state"}, {});
  const auto nests = nests_of(tiny.checkpoint, tiny.layout, groups);
  ASSERT_EQ(nests.size(), 2U);  // one a layer
  for (const Nest& nest : nests) {
    EXPECT_EQ(nest.coarse->kind, "head");
    EXPECT_EQ(nest.run, 6);
    EXPECT_EQ(nest.line.size, 24);
    ASSERT_EQ(nest.fine.size(), 4U);
    for (std::size_t k = 0; k < 4; ++k) {
      ASSERT_NE(nest.fine[k], nullptr);
      EXPECT_EQ(nest.fine[k]->kind, "channel");
      EXPECT_EQ(nest.fine[k]->layer, nest.coarse->layer);
      EXPECT_THAT(nest.fine[k]->name, HasSubstr("." + std::to_string(k)));
    }
    // Nothing that belongs to whole heads is on the line: dt_bias has no entry a channel.
    for (const AxisSegment& segment : nest.line.segments) {
      EXPECT_THAT(segment.tensor, ::testing::Not(HasSubstr("dt_bias")));
    }
  }
  EXPECT_TRUE(nests_of(tiny.checkpoint, tiny.layout, groups_of(tiny.layout, {"head"}, {})).empty());
}

TEST(Joint, ALineIsTheRunsInOrderEachInItsOwn) {
  const NestOrders orders{.coarse = Permutation::from_gather({1, 0}),
                          .fine = {Permutation::from_gather({2, 0, 1}), Permutation::identity(3)}};
  EXPECT_EQ(orders.line(), Permutation::from_gather({3, 4, 5, 2, 0, 1}));
}

// Blocks of 4 over runs of 6 cut across runs: which runs meet and which of their members is one
// question, and neither group alone can answer it.
TEST(Joint, EndsWhereNoExchangeOfRunsOrInsideRunsHelps) {
  const AxisGroup coarse{.name = "head", .kind = "head", .size = 4};
  const AxisGroup fine{.name = "channel", .kind = "channel", .size = 6};
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const auto problem =
        testing::problem_of("intra-block", testing::random_graph(24, 0.6, seed), {.block = 4});
    std::int64_t steps = 1'000'000;
    const NestOrders orders = solve_jointly(*problem, nest_of(coarse, fine, 6), steps);
    const double best = problem->score(orders.line());
    EXPECT_GT(best, problem->score(Permutation::identity(24)));
    for (Index i = 0; i < 6; ++i) {
      for (Index j = 0; j < i; ++j) {
        for (std::size_t run = 0; run < 4; ++run) {
          NestOrders other = orders;
          std::vector<Index> inside(other.fine[run].gather().begin(),
                                    other.fine[run].gather().end());
          std::swap(inside[static_cast<std::size_t>(i)], inside[static_cast<std::size_t>(j)]);
          other.fine[run] = Permutation::from_gather(inside);
          EXPECT_LE(problem->score(other.line()), best + 1e-9);
        }
        if (i >= 4) continue;
        NestOrders other = orders;
        std::vector<Index> runs(other.coarse.gather().begin(), other.coarse.gather().end());
        std::swap(runs[static_cast<std::size_t>(i)], runs[static_cast<std::size_t>(j)]);
        other.coarse = Permutation::from_gather(runs);
        EXPECT_LE(problem->score(other.line()), best + 1e-9);
      }
    }
  }
}

TEST(Joint, StopsWhenTheStepsAreUsedUp) {
  const AxisGroup coarse{.name = "head", .kind = "head", .size = 4};
  const AxisGroup fine{.name = "channel", .kind = "channel", .size = 6};
  const auto problem =
      testing::problem_of("intra-block", testing::random_graph(24, 0.6, 1), {.block = 4});
  std::int64_t steps = 0;
  EXPECT_TRUE(solve_jointly(*problem, nest_of(coarse, fine, 6), steps).line().is_identity());
}

TEST(Joint, APlanOrdersEveryGroupOfTheNestAndScoresTheLine) {
  Tiny tiny;
  PlanRequest request{.kinds = {"channel", "head"},
                      .objective = find_objective("intra-block"),
                      .options = {.block = 4},
                      .solver = find_solver("swap"),
                      .joint = true};
  const Layout lines = with_lines(tiny.checkpoint, tiny.layout, request.kinds, {});
  const EvidenceSource source = evidence_of_weights(tiny.checkpoint, lines);
  const Plan plan = make_plan(tiny.checkpoint, lines, request, source, tiny.silent);
  EXPECT_EQ(plan.groups.size(), 10U);  // 4 channels and a head, 2 layers
  ASSERT_EQ(plan.scores.size(), 2U);
  for (const GroupScore& score : plan.scores) {
    EXPECT_THAT(score.group, HasSubstr("head"));
    EXPECT_GE(score.calibration_after, score.calibration_before);
  }
  check_plan(plan, tiny.checkpoint, tiny.layout);

  request.kinds = {"state"};
  try {
    make_plan(tiny.checkpoint, lines, request, source, tiny.silent);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("--joint: none of the groups asked for (state)"));
  }
}

}  // namespace
}  // namespace icd
