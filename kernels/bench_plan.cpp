#include <algorithm>
#include <array>
#include <cmath>

#include "icd/error.h"
#include "kernels/bench_run.h"

namespace icd {
namespace {

constexpr BenchControl kNull = BenchControl::null;
constexpr BenchControl kPositive = BenchControl::positive;

// name, layout, control, has_length, has_batch, is_default
constexpr auto kKernels = std::to_array<BenchKernel>({
    {"selective-scan", "channel-last", kNull, true, true, true},
    {"selective-scan", "channel-first", kNull, true, true, false},
    {"causal-conv1d", "channel-last", kNull, true, true, true},
    {"causal-conv1d", "channel-first", kNull, true, true, true},
    {"ssd", "heads", kNull, true, true, true},
    {"gemm", "row-major", kNull, true, true, true},
    {"state-update", "[D][N] f32", kNull, false, true, true},
    {"state-update", "[D][N] bf16", kNull, false, true, true},
    {"state-update", "[N][D] f32", kNull, false, true, true},
    {"skip-zero-gemv", "input-major", kNull, false, false, true},
    {"gather", "run-time", kPositive, true, true, true},
    {"active-subset", "[D][N] f32", kPositive, false, true, true},
    {"active-subset", "[N][D] f32", kPositive, false, true, true},
    {"active-subset", "[N][D] bf16", kPositive, false, true, true},
    {"skip-zero-gemv", "row-major", kPositive, false, false, true},
    {"block-sparse", "32 x 32", kPositive, false, true, true},
});

// Sums over channels in another order, rounded to bf16.
constexpr double kMostDifference = 5e-3;

// Of what was counted from what was predicted, both relative to the identity. On an H200 they were
// 5 % apart at most.
constexpr double kMostOff = 0.2;

// Time follows bytes where there are enough of them: a quarter more or less. An order with 22 %
// more sectors for a small product that skips zeros took 0.8 % less time.
constexpr double kClear = 1.25;

bool names(const std::string& wanted, const BenchKernel& kernel) {
  return wanted == kernel.name ||
         wanted == std::string(kernel.name) + " " + std::string(kernel.layout);
}

const BenchSeries* series_of(const BenchCell& cell, std::string_view order) {
  for (const BenchSeries& series : cell.series) {
    if (series.order == order) return &series;
  }
  return nullptr;
}

}  // namespace

std::string_view to_string(BenchControl control) noexcept {
  return control == BenchControl::null ? "null" : "positive";
}

std::string_view to_string(BenchOutcome outcome) noexcept {
  return outcome == BenchOutcome::holds       ? "holds"
         : outcome == BenchOutcome::undecided ? "undecided"
                                              : "fails";
}

std::span<const BenchKernel> bench_kernels() noexcept { return kKernels; }

double BenchSeries::median_cycles() const {
  std::vector<double> cycles;
  for (std::size_t i = 0; i < latency_us.size(); ++i) cycles.push_back(latency_us[i] * sm_mhz[i]);
  return median(cycles);
}

std::optional<double> BenchCell::counted(const BenchSeries& one) const {
  const BenchSeries* identity = series_of(*this, "identity");
  if (identity == nullptr || !identity->counters || !one.counters) return {};
  return ratio((*one.counters)[counter_of_model], (*identity->counters)[counter_of_model]);
}

BenchOutcome BenchCell::outcome() const {
  const bool is_null = kernel.control == BenchControl::null;
  bool is_decided = true;   // of a null control: no order without a verdict
  bool is_counted = false;  // of a positive one: a counter was read of an order beside the identity
  bool has_clear = false;   // an order is predicted to move a lot ...
  bool has_moved = false;   // ... and did
  for (const BenchSeries& one : series) {
    if (!(one.difference <= kMostDifference)) return BenchOutcome::fails;
    const bool is_slower = one.verdict == Verdict::slower;
    const bool is_faster = one.verdict == Verdict::faster;
    if (is_null) {
      if (is_slower || is_faster) return BenchOutcome::fails;
      is_decided = is_decided && one.verdict == Verdict::no_effect;
      continue;
    }
    if (const std::optional<double> found = counted(one); found && one.order != "identity") {
      if (!(std::fabs(*found / one.predicted - 1) <= kMostOff)) return BenchOutcome::fails;
      is_counted = true;
    }
    const bool has_more = one.predicted > kClear;
    const bool has_less = one.predicted < 1 / kClear;
    if (!has_more && !has_less) continue;
    if (has_more ? is_faster : is_slower) return BenchOutcome::fails;
    has_clear = true;
    has_moved = has_moved || is_slower || is_faster;
  }
  if (is_null) return is_decided ? BenchOutcome::holds : BenchOutcome::undecided;
  if (is_counted || has_moved) return BenchOutcome::holds;
  return has_clear ? BenchOutcome::fails : BenchOutcome::undecided;
}

std::vector<BenchCell> cells_of(const BenchRequest& request) {
  for (const std::string& wanted : request.kernels) {
    if (std::any_of(kKernels.begin(), kKernels.end(),
                    [&](const BenchKernel& kernel) { return names(wanted, kernel); })) {
      continue;
    }
    std::string all;
    for (const BenchKernel& kernel : kKernels) {
      if (all.find(kernel.name) != std::string::npos) continue;
      all += (all.empty() ? "" : ", ") + std::string(kernel.name);
    }
    throw Error(ErrorCode::usage, "--kernel: there is no '" + wanted + "', expected one of " + all);
  }
  std::vector<BenchCell> cells;
  for (const BenchKernel& kernel : kKernels) {
    const bool is_wanted =
        request.kernels.empty()
            ? kernel.is_default
            : std::any_of(request.kernels.begin(), request.kernels.end(),
                          [&](const std::string& wanted) { return names(wanted, kernel); });
    if (!is_wanted) continue;
    for (BenchShape shape : request.shapes) {
      // what a kernel has no use for is 1, and then not repeated
      if (!kernel.has_length) shape.length = 1;
      if (!kernel.has_batch) shape.batch = 1;
      for (const std::string& cache : request.caches) {
        const auto is_same = [&](const BenchCell& cell) {
          return cell.kernel.name == kernel.name && cell.kernel.layout == kernel.layout &&
                 cell.cache == cache && cell.shape.model == shape.model &&
                 cell.shape.batch == shape.batch && cell.shape.length == shape.length;
        };
        if (std::any_of(cells.begin(), cells.end(), is_same)) continue;
        BenchCell& cell = cells.emplace_back();
        cell.kernel = kernel;
        cell.shape = shape;
        cell.cache = cache;
      }
    }
  }
  return cells;
}

std::string cell_name(const BenchCell& cell) {
  std::string name = std::string(cell.kernel.name) + " " + std::string(cell.kernel.layout) + ", " +
                     cell.shape.model;
  if (cell.kernel.has_batch) name += ", batch " + std::to_string(cell.shape.batch);
  if (cell.kernel.has_length) name += ", length " + std::to_string(cell.shape.length);
  return name + ", " + cell.cache + " L2";
}

std::string range_name(const BenchCell& cell, const std::string& order) {
  return "icd: " + cell_name(cell) + ": " + order;
}

}  // namespace icd
