#include "kernels/bench_run.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "icd/error.h"
#include "support/device.h"

namespace icd {
namespace {

BenchRequest small_request() {
  BenchRequest request;
  request.shapes = {{.model = "small", .d_model = 256, .d_inner = 512, .batch = 2, .length = 40}};
  return request;
}

TEST(BenchKernels, HaveControlsOfBothKinds) {
  std::set<std::string> names;
  int null = 0;
  for (const BenchKernel& kernel : bench_kernels()) {
    names.insert(std::string(kernel.name) + " " + std::string(kernel.layout));
    null += kernel.control == BenchControl::null;
  }
  EXPECT_EQ(names.size(), bench_kernels().size()) << "a kernel is there twice";
  EXPECT_GT(null, 4);
  EXPECT_GT(std::ssize(bench_kernels()) - null, 3);
}

TEST(BenchCells, AreKernelsTimesShapesTimesCaches) {
  BenchRequest request = small_request();
  request.shapes.push_back(request.shapes[0]);
  request.shapes[1].length = 80;
  request.kernels = {"selective-scan channel-last", "state-update", "block-sparse"};
  const std::vector<BenchCell> cells = cells_of(request);
  // the scan at two lengths, three layouts of a state without one, one product; cold and warm
  EXPECT_EQ(cells.size(), 2U * (2 + 3 + 1));
  EXPECT_EQ(cell_name(cells[0]), "selective-scan channel-last, small, batch 2, length 40, cold L2");
  EXPECT_EQ(cell_name(cells.back()), "block-sparse 32 x 32, small, batch 2, warm L2");
  request.kernels = {"scan"};
  EXPECT_THROW(cells_of(request), Error);
}

// A cell with an identity, a placebo and one more order.
BenchCell cell_with(BenchControl control, double predicted, Verdict verdict) {
  BenchCell cell;
  cell.kernel.control = control;
  cell.series.resize(3);
  cell.series[0].order = "identity";
  cell.series[1].order = "placebo";
  cell.series[2].order = "solved";
  for (BenchSeries& one : cell.series) one.verdict = Verdict::no_effect;
  cell.series[2].predicted = predicted;
  cell.series[2].verdict = verdict;
  return cell;
}

CounterValues sectors(double amount) {
  CounterValues values;
  values.values.push_back({"l1_load", "sectors", "some metric", amount});
  return values;
}

void count(BenchCell& cell, double identity, double solved) {
  cell.counter_of_model = "l1_load";
  cell.series[0].counters = sectors(identity);
  cell.series[2].counters = sectors(solved);
}

BenchOutcome outcome_of(BenchControl control, double predicted, Verdict verdict) {
  return cell_with(control, predicted, verdict).outcome();
}

TEST(NullControl, HoldsWhereNothingMoves) {
  constexpr auto kNull = BenchControl::null;
  EXPECT_EQ(outcome_of(kNull, 1, Verdict::no_effect), BenchOutcome::holds);
  EXPECT_EQ(outcome_of(kNull, 1, Verdict::inconclusive), BenchOutcome::undecided);
  EXPECT_EQ(outcome_of(kNull, 1, Verdict::faster), BenchOutcome::fails);
  EXPECT_EQ(outcome_of(kNull, 1, Verdict::slower), BenchOutcome::fails);
  BenchCell wrong = cell_with(kNull, 1, Verdict::no_effect);
  wrong.series[2].difference = 0.5;
  EXPECT_EQ(wrong.outcome(), BenchOutcome::fails) << "a fast kernel with another result";
  wrong.series[2].difference = NAN;
  EXPECT_EQ(wrong.outcome(), BenchOutcome::fails);
}

TEST(PositiveControl, HoldsWhereItMovesAsPredicted) {
  constexpr auto kPositive = BenchControl::positive;
  EXPECT_EQ(outcome_of(kPositive, 0.5, Verdict::faster), BenchOutcome::holds);
  EXPECT_EQ(outcome_of(kPositive, 2, Verdict::slower), BenchOutcome::holds);
  EXPECT_EQ(outcome_of(kPositive, 0.5, Verdict::no_effect), BenchOutcome::fails);
  EXPECT_EQ(outcome_of(kPositive, 0.5, Verdict::slower), BenchOutcome::fails);
  EXPECT_EQ(outcome_of(kPositive, 0.97, Verdict::no_effect), BenchOutcome::undecided)
      << "without an order that should move, time shows nothing";
}

TEST(PositiveControl, IsDecidedByTheCounterWhereThereIsOne) {
  BenchCell cell = cell_with(BenchControl::positive, 0.5, Verdict::no_effect);
  count(cell, 1000, 520);
  EXPECT_EQ(cell.outcome(), BenchOutcome::holds) << "launch-bound: sectors go, time stays";
  EXPECT_DOUBLE_EQ(cell.counted(cell.series[2]).value(), 0.52);
  count(cell, 1000, 1000);
  EXPECT_EQ(cell.outcome(), BenchOutcome::fails);
  cell = cell_with(BenchControl::positive, 0.5, Verdict::slower);
  count(cell, 1000, 520);
  EXPECT_EQ(cell.outcome(), BenchOutcome::fails) << "time went the other way";
}

TEST(PositiveControl, MayPredictLittleAndIsStillCounted) {
  BenchCell cell = cell_with(BenchControl::positive, 0.97, Verdict::slower);
  count(cell, 1000, 960);
  EXPECT_EQ(cell.outcome(), BenchOutcome::holds) << "time is free where little is predicted";
  count(cell, 1000, 500);
  EXPECT_EQ(cell.outcome(), BenchOutcome::fails);
  count(cell, 0, 0);
  EXPECT_EQ(cell.outcome(), BenchOutcome::undecided) << "nothing was counted";
}

class BenchOnDevice : public testing::DeviceTest {};

// Every kernel of the table, the ones that do not run by default too: outputs of all orders agree.
TEST_F(BenchOnDevice, EveryKernelGivesTheSameInEveryOrder) {
  BenchRequest request = small_request();
  for (const BenchKernel& kernel : bench_kernels()) {
    request.kernels.push_back(std::string(kernel.name) + " " + std::string(kernel.layout));
  }
  request.rounds = 3;
  request.counters = CounterMode::off;
  const BenchInputs inputs = synthetic_inputs(request.shapes[0], 1);
  const BenchResult result = run_bench(
      request, [&](const BenchShape&) -> const BenchInputs& { return inputs; },
      [](const std::string&) {});
  EXPECT_EQ(result.cells.size(), 2 * bench_kernels().size());
  EXPECT_NE(result.device.name, "");
  for (const BenchCell& cell : result.cells) {
    SCOPED_TRACE(cell_name(cell));
    if (cell.kernel.name != "gemm") {  // cuBLAS may not be there
      EXPECT_EQ(cell.skipped, "");
    }
    if (!cell.skipped.empty()) continue;
    ASSERT_EQ(cell.series.size(), 12U);
    EXPECT_EQ(cell.sets > 1, cell.cache == "cold");
    for (const BenchSeries& one : cell.series) {
      EXPECT_LE(one.difference, 5e-3) << one.order;
      EXPECT_EQ(one.latency_us.size(), 3U);
      for (const double us : one.latency_us) EXPECT_GT(us, 0);
    }
    // what treats channels one by one gives the same bits
    const bool is_elementwise = cell.kernel.name == "selective-scan" ||
                                cell.kernel.name == "causal-conv1d" || cell.kernel.name == "gather";
    if (!is_elementwise) continue;
    for (const BenchSeries& one : cell.series) EXPECT_EQ(one.difference, 0) << one.order;
  }
}

TEST_F(BenchOnDevice, CountersComeWithAValueOrAReason) {
  BenchRequest request = small_request();
  request.kernels = {"gather"};
  request.caches = {"cold"};
  request.shapes[0].length = 1024;
  request.rounds = 3;
  request.ncu = "/nowhere/ncu";
  request.child = {"true"};
  const BenchInputs inputs = synthetic_inputs(request.shapes[0], 1);
  const BenchResult result = run_bench(
      request, [&](const BenchShape&) -> const BenchInputs& { return inputs; },
      [](const std::string&) {});
  ASSERT_EQ(result.cells.size(), 1U);
  if (result.counter_source.empty()) {
    EXPECT_NE(result.counter_reason, "");
    for (const BenchSeries& one : result.cells[0].series) EXPECT_FALSE(one.counters);
    GTEST_SKIP() << result.counter_reason;
  }
  for (const BenchSeries& one : result.cells[0].series) {
    if (one.order != "random 1") continue;
    ASSERT_TRUE(one.counters);
    const double found = result.cells[0].counted(one).value_or(0);
    EXPECT_NEAR(found / one.predicted, 1, 0.1) << "sectors of a random gather";
  }
}

}  // namespace
}  // namespace icd
