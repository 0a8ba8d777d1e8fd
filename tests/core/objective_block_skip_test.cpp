#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "icd/objective.h"
#include "icd/random.h"
#include "plain_search.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

/// active[member][token].
AxisFacts axis_of(const std::vector<std::vector<bool>>& active) {
  AxisFacts facts;
  facts.size = static_cast<Index>(active.size());
  facts.graph = std::make_shared<const Graph>(Graph::from_edges(facts.size, {}));
  auto activity = std::make_shared<Activity>();
  activity->size = facts.size;
  activity->tokens = active.empty() ? 1 : std::ssize(active.front());
  for (const auto& row : active) {
    std::vector<std::uint64_t> words(static_cast<std::size_t>(activity->words()), 0);
    for (std::size_t t = 0; t < row.size(); ++t) {
      if (row[t]) words[t / 64] |= std::uint64_t{1} << (t % 64);
    }
    activity->bits.insert(activity->bits.end(), words.begin(), words.end());
  }
  facts.activity = std::move(activity);
  return facts;
}

/// Members in `communities`, of which one is active in a token; a few others are, too.
std::vector<std::vector<bool>> communities(Index n, std::int64_t tokens, std::uint64_t of,
                                           Random& random) {
  std::vector<std::uint64_t> community;
  for (Index i = 0; i < n; ++i) community.push_back(random.below(of));
  std::vector<std::vector<bool>> active(static_cast<std::size_t>(n));
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto awake = random.below(of);
    for (std::size_t i = 0; i < active.size(); ++i) {
      active[i].push_back(random.below(100) < (community[i] == awake ? 60 : 2));
    }
  }
  return active;
}

double naive_score(const std::vector<std::vector<bool>>& active, const Permutation& order,
                   Blocks blocks) {
  double sum = 0;
  const auto n = static_cast<Index>(active.size());
  const std::size_t tokens = active.front().size();
  for (std::size_t t = 0; t < tokens; ++t) {
    for (Index block = 0; block < blocks.count(n); ++block) {
      bool is_idle = true;
      for (Index i = blocks.begin(block); i < blocks.end(block, n); ++i) {
        if (active[static_cast<std::size_t>(order[i])][t]) is_idle = false;
      }
      if (is_idle) sum += blocks.end(block, n) - blocks.begin(block);
    }
  }
  return sum / static_cast<double>(tokens) / n;
}

struct Case {
  std::vector<std::vector<bool>> active;
  AxisFacts facts;
  Blocks blocks;
  Permutation order;
};

Case any_case() {
  const auto n = *rc::gen::inRange<Index>(1, 40);
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  Case any;
  any.active = communities(n, *rc::gen::inRange<std::int64_t>(1, 150),
                           *rc::gen::inRange<std::uint64_t>(1, 8), random);
  any.facts = axis_of(any.active);
  any.blocks = {*rc::gen::inRange<Index>(1, 45)};
  any.order = random_permutation(n, random);
  return any;
}

TEST(ObjectiveBlockSkip, CountsTilesThatNobodyNeeds) {
  const AxisFacts facts = axis_of({{1, 0, 0, 0}, {0, 1, 0, 0}, {1, 0, 0, 0}});
  const auto problem = block_skip_problem(facts, {.block = 2});
  const auto identity = Permutation::identity(3);
  // {0, 1}: idle in 2 of 4 tokens; {2}, a third of the members: in 3.
  EXPECT_DOUBLE_EQ(problem->score(identity), (2 * 2 + 3) / 12.0);
  EXPECT_DOUBLE_EQ(problem->swap_delta(identity, 1, 2), (2 * 3 + 3) / 12.0 - 7 / 12.0);
  EXPECT_THAT(problem->greedy().gather(), ElementsAre(0, 2, 1));
  EXPECT_THAT(problem->keys(), ElementsAre(3, 3, 3));
}

RC_GTEST_PROP(ObjectiveBlockSkip, IsWhatANaiveCountGives, ()) {
  const Case any = any_case();
  const auto problem = block_skip_problem(any.facts, {.block = any.blocks.size});
  RC_ASSERT(std::fabs(problem->score(any.order) - naive_score(any.active, any.order, any.blocks)) <
            1e-12);
}

RC_GTEST_PROP(ObjectiveBlockSkip, ChangesBySwapDeltaUnderASwap, ()) {
  const Case any = any_case();
  const auto problem = block_skip_problem(any.facts, {.block = any.blocks.size});
  const auto i = *rc::gen::inRange<Index>(0, any.order.size());
  const auto j = *rc::gen::inRange<Index>(0, any.order.size());
  const double change = problem->score(exchanged(any.order, i, j)) - problem->score(any.order);
  RC_ASSERT(std::fabs(problem->swap_delta(any.order, i, j) - change) < 1e-12);
}

RC_GTEST_PROP(ObjectiveBlockSkip, SearchEndsWhereNoExchangeGains, ()) {
  const Case any = any_case();
  const auto problem = block_skip_problem(any.facts, {.block = any.blocks.size});
  const auto search = problem->search(any.order);
  std::int64_t steps = 1'000'000;
  search->descend(steps);
  RC_ASSERT(steps > 0);
  const Permutation end = search->order();
  RC_ASSERT(problem->score(end) >= problem->score(any.order) - 1e-12);
  for (Index i = 0; i < end.size(); ++i) {
    for (Index j = i + 1; j < end.size(); ++j) {
      RC_ASSERT(problem->swap_delta(end, i, j) <= 0);  // counts are exact
    }
  }
  Random random(2);
  search->kick(random, 4);
  const double kicked = problem->score(search->order());
  search->descend(steps);
  RC_ASSERT(problem->score(search->order()) >= kicked - 1e-12);
}

TEST(ObjectiveBlockSkip, FindsCommunities) {
  Random random(5);
  const AxisFacts facts = axis_of(communities(128, 500, 8, random));
  const auto problem = block_skip_problem(facts, {.block = 16});
  const auto search = problem->search(problem->greedy());
  std::int64_t steps = 1'000'000;
  search->descend(steps);
  EXPECT_LT(problem->score(Permutation::identity(128)), 0.25);
  EXPECT_GT(problem->score(search->order()), 0.5);
}

TEST(ObjectiveBlockSkip, SearchIsTheSameForAnyNumberOfThreads) {
  Random random(6);
  const AxisFacts facts = axis_of(communities(600, 300, 10, random));
  const auto problem = block_skip_problem(facts, {.block = 32});
  std::vector<Permutation> ends;
  const int threads = omp_get_max_threads();
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    const auto search = problem->search(problem->greedy());
    std::int64_t steps = 6000;
    search->descend(steps);
    ends.push_back(search->order());
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(ends[0], ends[1]);
  EXPECT_EQ(ends[0], ends[2]);
}

TEST(ObjectiveBlockSkip, OfNothingIsNothing) {
  const AxisFacts facts = axis_of({});
  const auto problem = block_skip_problem(facts, {});
  EXPECT_EQ(problem->score({}), 0);
  EXPECT_EQ(problem->greedy().size(), 0);
  EXPECT_EQ(problem->search({})->order().size(), 0);
}

TEST(ObjectiveBlockSkip, RefusesWhatNobodyMeasured) {
  AxisFacts facts = axis_of({{1, 0}});
  EXPECT_THROW(block_skip_problem(facts, {.block = 0}), Error);
  facts.size = 2;
  EXPECT_THROW(block_skip_problem(facts, {}), Error);
  facts.activity = nullptr;
  try {
    block_skip_problem(facts, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    EXPECT_THAT(error.what(), HasSubstr("axis: nobody measured which members are active"));
  }
}

}  // namespace
}  // namespace icd
