#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "icd/objective.h"
#include "icd/quantise.h"
#include "icd/random.h"
#include "plain_search.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

AxisFacts axis_of(Index n) {
  AxisFacts facts;
  facts.size = n;
  facts.graph = std::make_shared<const Graph>(Graph::from_edges(n, {}));
  return facts;
}

Reader reader(Index rows, std::vector<float> weights, Index run = 1) {
  Reader result;
  result.tensor = "w.weight";
  result.rows = rows;
  result.run = run;
  result.weights = std::make_shared<const std::vector<float>>(std::move(weights));
  return result;
}

/// Columns of scales 1/4 to 4, so that who shares a group matters.
Reader scaled(Index rows, Index columns, Index run, Random& random) {
  std::vector<float> scales;
  for (Index c = 0; c < columns; ++c) {
    scales.push_back(std::ldexp(1.0F, static_cast<int>(random.below(5)) - 2));
  }
  std::vector<float> weights;
  for (Index r = 0; r < rows; ++r) {
    for (const float scale : scales) weights.push_back(scale * static_cast<float>(random.normal()));
  }
  return reader(rows, std::move(weights), run);
}

struct Case {
  AxisFacts facts;
  ObjectiveOptions options;
  Index group = 0;
  Permutation order;
};

Case any_case(bool wide_runs) {
  const auto n = *rc::gen::inRange<Index>(1, 50);
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const Index run = wide_runs ? *rc::gen::element<Index>(2, 4, 16) : 1;
  const GroupFormat& format = all_group_formats()[random.below(all_group_formats().size())];
  Case any;
  any.facts = axis_of(n);
  const auto readers = *rc::gen::inRange<Index>(1, 3);
  for (Index i = 0; i < readers; ++i) {
    any.facts.readers.push_back(
        scaled(static_cast<Index>(1 + random.below(9)), n * run, run, random));
    if (random.below(2) == 0) continue;
    for (Index c = 0; c < n * run; ++c) {
      any.facts.readers.back().input_square.push_back(static_cast<float>(random.uniform()));
    }
  }
  any.options.format = format.name;
  any.group = format.group;
  if (!format.is_fixed) {
    any.group = any.options.group =
        wide_runs ? *rc::gen::element<Index>(2, 4, 8, 16, 32) : *rc::gen::inRange<Index>(1, 60);
    if (any.group % run != 0 && run % any.group != 0) any.group = any.options.group = 16;
  }
  any.order = random_permutation(n, random);
  return any;
}

/// Column after column, group after group.
double naive_score(const Case& any, const Permutation& order) {
  const GroupFormat& format = *find_group_format(any.options.format);
  const bool has_inputs = std::all_of(any.facts.readers.begin(), any.facts.readers.end(),
                                      [](const Reader& one) { return !one.input_square.empty(); });
  double errors = 0;
  double squares = 0;
  for (const Reader& one : any.facts.readers) {
    float largest = 0;
    for (const float w : *one.weights) largest = std::max(largest, std::fabs(w));
    const Index columns = any.facts.size * one.run;
    const Permutation order_of_columns = inflate(order, one.run);
    for (Index r = 0; r < one.rows; ++r) {
      for (Index begin = 0; begin < columns; begin += any.group) {
        std::vector<float> group;
        for (Index c = begin; c < std::min(columns, begin + any.group); ++c) {
          group.push_back(
              (*one.weights)[static_cast<std::size_t>(r * columns + order_of_columns[c])]);
        }
        std::vector<float> stored(group.size());
        quantise(format, group, stored, tensor_scale(format, largest));
        for (std::size_t i = 0; i < group.size(); ++i) {
          const auto column =
              static_cast<std::size_t>(order_of_columns[begin + static_cast<Index>(i)]);
          const double square = has_inputs ? double{one.input_square[column]} : 1.0;
          const double error = double{group[i]} - double{stored[i]};
          errors += square * error * error;
          squares += square * double{group[i]} * double{group[i]};
        }
      }
    }
  }
  return errors / squares;
}

TEST(ObjectiveQuant, IsTheErrorOfGroupsOfTheFormat) {
  AxisFacts facts = axis_of(4);
  facts.readers = {reader(1, {7, 0.4F, 0.7F, 0.04F})};
  const auto problem = quant_problem(facts, {.format = "int4", .group = 2});
  const auto identity = Permutation::identity(4);
  // Steps of 1 and of 0.1: 0.4 and 0.04 are lost.
  const double square = 49 + 0.16 + 0.49 + 0.0016;
  EXPECT_NEAR(problem->score(identity), (0.16 + 0.0016) / square, 1e-7);
  // [7 0.7 | 0.4 0.04]: 0.7 becomes 1; in steps of 0.4 / 7 the last is 0.057.
  EXPECT_NEAR(problem->swap_delta(identity, 1, 2),
              (0.09 + std::pow(0.4 / 7 - 0.04, 2) - 0.16 - 0.0016) / square, 1e-7);
  EXPECT_EQ(problem->swap_delta(identity, 0, 1), 0);
  EXPECT_THAT(problem->greedy().gather(), ElementsAre(0, 2, 1, 3));
  // By size 0, 2, 1, 3, but neighbours have their large weights in the same row.
  facts.readers = {reader(2, {14, 12, 0.04F, 0.04F, 0.04F, 0.04F, 13, 11.142857F})};
  EXPECT_TRUE(quant_problem(facts, {.format = "int4", .group = 2})->greedy().is_identity());
}

RC_GTEST_PROP(ObjectiveQuant, IsWhatANaiveLoopGives, ()) {
  const Case any = any_case(*rc::gen::arbitrary<bool>());
  const auto problem = quant_problem(any.facts, any.options);
  // With w and -w the extremes of a group q4_0 tells orders apart; normal numbers have no ties.
  RC_ASSERT(std::fabs(problem->score(any.order) - naive_score(any, any.order)) < 1e-12);
}

RC_GTEST_PROP(ObjectiveQuant, ChangesBySwapDeltaUnderASwap, ()) {
  const Case any = any_case(*rc::gen::arbitrary<bool>());
  const auto problem = quant_problem(any.facts, any.options);
  const auto i = *rc::gen::inRange<Index>(0, any.order.size());
  const auto j = *rc::gen::inRange<Index>(0, any.order.size());
  const double change = problem->score(exchanged(any.order, i, j)) - problem->score(any.order);
  RC_ASSERT(std::fabs(problem->swap_delta(any.order, i, j) - change) < 1e-12);
}

RC_GTEST_PROP(ObjectiveQuant, StartIsNoWorseThanTheIdentity, ()) {
  const Case any = any_case(*rc::gen::arbitrary<bool>());
  const auto problem = quant_problem(any.facts, any.options);
  RC_ASSERT(problem->score(problem->greedy()) <=
            problem->score(Permutation::identity(any.facts.size)));
}

RC_GTEST_PROP(ObjectiveQuant, SearchNeverEndsWorseThanItBegan, ()) {
  const Case any = any_case(*rc::gen::arbitrary<bool>());
  const auto problem = quant_problem(any.facts, any.options);
  const auto search = problem->search(any.order);
  std::int64_t steps = *rc::gen::element<std::int64_t>(0, 20, 100'000);
  search->descend(steps);
  RC_ASSERT(steps >= 0);
  RC_ASSERT(problem->score(search->order()) <= problem->score(any.order) + 1e-12);
  Random random(1);
  search->kick(random, 3);
  const double kicked = problem->score(search->order());
  search->descend(steps = 100'000);
  RC_ASSERT(problem->score(search->order()) <= kicked + 1e-12);
}

TEST(ObjectiveQuant, SearchBeatsTheSortWhereRowsDisagree) {
  Random random(3);
  AxisFacts facts = axis_of(256);
  std::vector<float> weights;
  for (int i = 0; i < 40 * 256; ++i) weights.push_back(static_cast<float>(random.normal()));
  facts.readers = {reader(40, std::move(weights))};
  for (const char* format : {"int4", "int4-asym", "q4_0"}) {
    const auto problem = quant_problem(facts, {.format = format, .group = 32});
    const auto search = problem->search(problem->greedy());
    std::int64_t steps = 1'000'000;
    search->descend(steps);
    EXPECT_GT(steps, 0);
    EXPECT_LT(problem->score(search->order()), 0.92 * problem->score(problem->greedy())) << format;
  }
}

TEST(ObjectiveQuant, SearchIsTheSameForAnyNumberOfThreads) {
  Random random(4);
  AxisFacts facts = axis_of(600);  // above what one thread does alone
  facts.readers = {scaled(150, 600, 1, random)};
  const auto problem = quant_problem(facts, {.format = "int4", .group = 128});
  std::vector<Permutation> ends;
  std::vector<double> scores;
  const int threads = omp_get_max_threads();
  for (const int count : {1, 2, 3}) {
    omp_set_num_threads(count);
    const auto search = problem->search(problem->greedy());
    std::int64_t steps = 3000;
    search->descend(steps);
    ends.push_back(search->order());
    scores.push_back(problem->score(ends.back()));
  }
  omp_set_num_threads(threads);
  EXPECT_NE(ends[0], problem->greedy());
  EXPECT_EQ(ends[0], ends[1]);
  EXPECT_EQ(ends[0], ends[2]);
  EXPECT_EQ(scores[0], scores[1]);
}

TEST(ObjectiveQuant, OfNothingAndOfZerosIsNoError) {
  AxisFacts none = axis_of(0);
  none.readers = {reader(2, {})};
  EXPECT_EQ(quant_problem(none, {})->score({}), 0);
  EXPECT_EQ(quant_problem(none, {})->search({})->order().size(), 0);
  AxisFacts zeros = axis_of(40);
  zeros.readers = {reader(2, std::vector<float>(80, 0.0F))};
  const auto problem = quant_problem(zeros, {.format = "mxfp4"});
  EXPECT_EQ(problem->score(Permutation::identity(40)), 0);
  EXPECT_EQ(problem->swap_delta(Permutation::identity(40), 0, 39), 0);
}

std::string refusal(const AxisFacts& facts, const ObjectiveOptions& options) {
  try {
    quant_problem(facts, options);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ObjectiveQuant, RefusesInOneLineWhatDoesNotFit) {
  AxisFacts facts = axis_of(2);
  EXPECT_THAT(refusal(facts, {}), HasSubstr("axis: no matrix reads it"));
  facts.readers = {reader(1, {1, 2, 3, 4, 5, 6}, 3)};
  EXPECT_THAT(refusal(facts, {.format = "int3"}),
              HasSubstr("--quant-format int3: no such format, expected one of int8, int4"));
  EXPECT_THAT(refusal(facts, {.format = "q4_0", .group = 64}),
              HasSubstr("--group-size 64: q4_0 has groups of 32"));
  EXPECT_THAT(refusal(facts, {.group = -1}), HasSubstr("--group-size -1: expected 1 or more"));
  EXPECT_THAT(refusal(facts, {.group = 128}),
              HasSubstr("--group-size 128: expected a multiple or a divisor of the 3 columns"));
  facts.readers = {reader(1, {1, std::numeric_limits<float>::infinity()})};
  EXPECT_THAT(refusal(facts, {}), HasSubstr("tensor 'w.weight': the weight at (0, 1) is inf"));
  facts.readers = {reader(1, {1, 1e37F})};
  EXPECT_THAT(refusal(facts, {.format = "q8_0"}),
              HasSubstr("expected no more than a scale of q8_0"));
}

AxisFacts with_ranges(std::vector<float> minimum, std::vector<float> maximum) {
  AxisFacts facts = axis_of(static_cast<Index>(minimum.size()));
  facts.minimum = std::move(minimum);
  facts.maximum = std::move(maximum);
  return facts;
}

TEST(ObjectiveRanges, IsTheNoiseOfSharedScales) {
  const AxisFacts facts = with_ranges({-4, 0, -1, 0}, {1, 2, 1, 1});  // 4, 2, 1, 1
  const auto problem = ranges_problem(facts, {.block = 2});
  const auto identity = Permutation::identity(4);
  EXPECT_DOUBLE_EQ(problem->score(identity), (2 * 16 + 2 * 1) / 22.0);
  EXPECT_DOUBLE_EQ(problem->swap_delta(identity, 1, 2), (2 * 16 + 2 * 4) / 22.0 - 34 / 22.0);
  EXPECT_DOUBLE_EQ(ranges_problem(facts, {.block = 1})->score(identity), 1);
  EXPECT_THAT(problem->keys(), ElementsAre(4, 2, 1, 1));
}

TEST(ObjectiveRanges, GivesTheShortBlockWhatItServesBest) {
  // {1, 1} and {10} rather than {10, 1} and {1}.
  const AxisFacts facts = with_ranges({-10, -1, -1}, {0, 0, 0});
  const auto problem = ranges_problem(facts, {.block = 2});
  EXPECT_DOUBLE_EQ(problem->score(problem->greedy()), 1);
}

RC_GTEST_PROP(ObjectiveRanges, NoOrderIsBetterThanItsStart, ()) {
  const auto n = *rc::gen::inRange<Index>(0, 8);
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  std::vector<float> minimum;
  std::vector<float> maximum;
  for (Index i = 0; i < n; ++i) {
    minimum.push_back(-static_cast<float>(random.below(6)));
    maximum.push_back(static_cast<float>(random.below(6)));
  }
  const AxisFacts facts = with_ranges(minimum, maximum);
  const auto problem = ranges_problem(facts, {.block = *rc::gen::inRange<Index>(1, 10)});
  std::vector<Index> order(static_cast<std::size_t>(n));
  for (Index i = 0; i < n; ++i) order[static_cast<std::size_t>(i)] = i;
  const double best = problem->score(problem->greedy());
  do {
    RC_ASSERT(best <= problem->score(Permutation::from_gather(order)) + 1e-12);
  } while (std::next_permutation(order.begin(), order.end()));
}

RC_GTEST_PROP(ObjectiveRanges, ChangesBySwapDeltaUnderASwap, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 30);
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  std::vector<float> minimum;
  for (Index i = 0; i < n; ++i) minimum.push_back(static_cast<float>(random.normal()));
  const AxisFacts facts = with_ranges(minimum, minimum);
  const auto problem = ranges_problem(facts, {.block = *rc::gen::inRange<Index>(1, 35)});
  const Permutation order = random_permutation(n, random);
  const auto i = *rc::gen::inRange<Index>(0, n);
  const auto j = *rc::gen::inRange<Index>(0, n);
  const double change = problem->score(exchanged(order, i, j)) - problem->score(order);
  RC_ASSERT(std::fabs(problem->swap_delta(order, i, j) - change) < 1e-12);
}

TEST(ObjectiveRanges, RefusesWhatWasNotMeasured) {
  EXPECT_THROW(ranges_problem(axis_of(3), {}), Error);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(ranges_problem(with_ranges({nan}, {1}), {}), Error);
  EXPECT_THROW(ranges_problem(with_ranges({0}, {1}), {.block = 0}), Error);
  EXPECT_EQ(ranges_problem(with_ranges({0}, {0}), {})->score(Permutation::identity(1)), 1);
}

}  // namespace
}  // namespace icd
