#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/bench_statistics.h"
#include "kernels/bench_inputs.h"
#include "kernels/counters.h"
#include "kernels/device_monitor.h"

// The benchmark of kernels in several orders. Plain C++, present in every build.
namespace icd {

/// What is known ahead of the measurement.
enum class BenchControl {
  null,      ///< order cannot matter: same addresses, same instructions
  positive,  ///< order has to matter as the model says, or the measurement is broken
};
std::string_view to_string(BenchControl control) noexcept;

/// What a control showed.
enum class BenchOutcome { holds, undecided, fails };
std::string_view to_string(BenchOutcome outcome) noexcept;

/// A kernel in one layout.
struct BenchKernel {
  std::string_view name;    ///< "state-update"
  std::string_view layout;  ///< "[N][D] f32"
  BenchControl control;
  bool has_length;  ///< runs over a sequence, not over one token
  bool has_batch;
  bool is_default;  ///< among those that run when none is named
};

/// All there are, in the order of reports.
std::span<const BenchKernel> bench_kernels() noexcept;

/// What a model of the memory expects of one launch.
struct BenchPrediction {
  std::string counter;  ///< which should show it; empty: order changes nothing
  double amount = 1;    ///< in that counter's unit
};

/// One order of one cell.
struct BenchSeries {
  std::string order;
  double difference = 0;  ///< of the output from the identity's, relative; see BenchCase
  std::vector<double> latency_us;
  std::vector<double> sm_mhz;
  PairedRatio ratio;  ///< to the identity, in the same rounds
  Verdict verdict = Verdict::inconclusive;
  double predicted = 1;  ///< amount / the identity's amount
  std::optional<CounterValues> counters;

  double median_us() const { return median(latency_us); }
  /// An estimate: microseconds times the clock right behind each sample.
  double median_cycles() const;
};

/// One kernel, layout, shape and cache state: everything that was compared with each other.
struct BenchCell {
  BenchKernel kernel;
  BenchShape shape;
  std::string cache;    ///< "warm", "cold"
  std::string skipped;  ///< one line: why there is nothing else here
  int launches = 0;     ///< in a sample
  int sets = 0;
  std::int64_t set_bytes = 0;
  double noise = 0;              ///< A/A: the farthest that two series of one order were apart
  double bar = kNoEffect;        ///< see bar_of()
  std::string counter_of_model;  /// which the predictions are of; empty for null controls
  std::vector<BenchSeries> series;
  std::vector<DeviceReading> readings;

  /// What the counter of the model says of an order: amount / the identity's; none if not read.
  std::optional<double> counted(const BenchSeries& one) const;

  /// A null control fails where an order left the bar, and is undecided where the samples of one
  /// allow no verdict. A positive one fails where a counter is off the model by more than a fifth,
  /// or time goes the other way than it for an order that is predicted a quarter more or less;
  /// without counters also where time followed for none of those, and it is undecided if there are
  /// none. Both fail where an output differs from the identity's.
  BenchOutcome outcome() const;
};

/// How counters are to be read.
enum class CounterMode {
  automatic,  ///< CUPTI, else ncu, else not, with the reason
  cupti,      ///< or an error
  ncu,        ///< or an error
  off,
};

struct BenchRequest {
  std::vector<std::string> kernels;  ///< names, or "name layout"; empty: the default ones
  std::vector<BenchShape> shapes;
  std::vector<std::string> caches = {"cold", "warm"};
  std::vector<std::string> counted = {"identity", "random 1", "solved", "timescale",
                                      "adversarial"};  ///< orders whose counters are read
  int rounds = 31;
  std::uint64_t seed = 0;
  CounterMode counters = CounterMode::automatic;
  std::string cupti;               ///< see resolve_counters()
  std::string ncu = "ncu";         ///< see ncu_command()
  std::vector<std::string> child;  ///< this program and its arguments for a run under ncu
};

/// The device, for the record.
struct BenchDevice {
  std::string name;
  std::string compute_capability;
  std::string driver;
  int multiprocessors = 0;
  std::int64_t memory_bytes = 0;
  std::int64_t l2_bytes = 0;
  std::string monitor_reason;  ///< why there are no readings; else empty
};

/// A library that took part.
struct BenchLibrary {
  std::string name;     ///< "cuBLASLt"
  std::string version;  ///< "13.1.0"
};

struct BenchResult {
  BenchDevice device;
  std::vector<BenchLibrary> libraries;
  std::vector<BenchCell> cells;
  std::string counter_source;  ///< "cupti", "ncu"; empty: none
  std::string counter_library;
  std::string counter_reason;  ///< why counters are missing; else empty
};

/// Makes the inputs of a model's shape when they are needed.
using BenchInputsOf = std::function<const BenchInputs&(const BenchShape& shape)>;

/// Runs kernels x layouts x orders x shapes x cache states, with the counters of `counted` orders
/// afterwards. `tick` is called with a line on what comes next, and may throw to end it.
/// Throws Error{unavailable} without a device, or where counters were demanded and cannot be read,
/// Error{usage} for a kernel that there is not.
BenchResult run_bench(const BenchRequest& request, const BenchInputsOf& inputs,
                      const std::function<void(const std::string&)>& tick);

/// What the child of a run with ncu does: every counted order of every cell once, each in a
/// NamedRange called range_name().
void run_ranges(const BenchRequest& request, const BenchInputsOf& inputs);
std::string range_name(const BenchCell& cell, const std::string& order);

/// "selective-scan channel-last, mamba-2.8b, batch 8, length 2048, cold L2"
std::string cell_name(const BenchCell& cell);

/// The cells of a request, nothing measured. Throws Error{usage} for a kernel that there is not.
std::vector<BenchCell> cells_of(const BenchRequest& request);

}  // namespace icd
