#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Hardware counters of the device, by names of our own. Which of NVIDIA's metrics a name stands for
// differs from chip to chip and is looked up in CUPTI, which is opened when it is first needed: the
// program links nothing of it and runs without it. Plain C++, present in every build.
namespace icd {

/// A counter as reports name it. Of `metrics`, the first that a chip has is read; they mean the
/// same and have one unit. Source: kernel profiling guide of Nsight Compute, metrics structure.
struct Counter {
  std::string_view name;     ///< e.g. "dram_read"
  std::string_view unit;     ///< "bytes", "sectors" (32 bytes), "requests", "instructions", ...
  std::string_view metrics;  ///< NVIDIA's names, separated by spaces
};

/// All there are, in the order of reports.
std::span<const Counter> counters() noexcept;

/// A counter on one chip.
struct ResolvedCounter {
  std::string name;
  std::string unit;
  std::string metric;  ///< empty where the chip has none of the metrics
};

/// What a chip can count.
struct ResolvedCounters {
  std::string chip;
  std::string library;  ///< the file that CUPTI was loaded from
  std::vector<ResolvedCounter> counters;
  int passes = 0;      ///< runs of a kernel that it takes to read all of them
  std::string reason;  ///< one line: why there is nothing to count with; else empty
};

/// Asks the part of CUPTI that needs no device. `chip` is NVIDIA's name of it, e.g. "GH100";
/// `cupti` a libcupti.so or its folder, empty to search: the loader's path, CUDA_PATH, CUDA_HOME,
/// /usr/local/cuda, CONDA_PREFIX and VIRTUAL_ENV.
ResolvedCounters resolve_counters(const std::string& chip, const std::string& cupti = {});

/// The value of one counter, or none where it could not be read: never a zero in its place.
struct CounterValue {
  std::string name;
  std::string unit;
  std::string metric;
  std::optional<double> value;
};

struct CounterValues {
  std::vector<CounterValue> values;  ///< of all counters(), in their order
  int passes = 0;
  std::string reason;  ///< one line: why values are missing; else empty

  std::optional<double> operator[](std::string_view name) const;
};

/// Every counter without a value, and the reason.
CounterValues no_counters(std::string reason);

/// above / below; none where one is missing or below is zero.
std::optional<double> ratio(std::optional<double> above, std::optional<double> below);

/// Counts what a piece of work does on the current device, in this process, with CUPTI's range
/// profiler. The work is done once a pass, so that time is not to be taken meanwhile.
class CounterSession {
 public:
  /// `cupti` as in resolve_counters(). Never throws for lack of anything: see reason().
  explicit CounterSession(const std::string& cupti = {});
  ~CounterSession();
  CounterSession(const CounterSession&) = delete;
  CounterSession& operator=(const CounterSession&) = delete;

  /// Empty if counters can be read, else one line that says what is in the way. The first
  /// measure() may find out more.
  const std::string& reason() const noexcept;
  const ResolvedCounters& resolved() const noexcept;

  /// Before every pass restore() puts inputs back and brings caches into the wanted state; then
  /// what launch() does on the device is counted. Both may be asynchronous.
  CounterValues measure(const std::string& range, const std::function<void()>& restore,
                        const std::function<void()>& launch);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// What a CUPTI status means for the user, in one line; `call` is the function that returned it and
/// `text` CUPTI's own name of the status. Source: cupti_result.h and NVIDIA's page on
/// ERR_NVGPUCTRPERM.
std::string counter_reason(int status, std::string_view call, std::string_view text);

/// The command of a child `ncu` that reads the same counters of every NamedRange of `program`,
/// which must not use CUPTI: the two exclude each other. Without a chip in `resolved` the first
/// metric of every counter is asked for.
std::vector<std::string> ncu_command(const std::string& ncu, const ResolvedCounters& resolved,
                                     const std::vector<std::string>& program);

/// What such a child printed, by range. Values of several kernels of a range are added up. Throws
/// Error{unavailable} with ncu's own first error where it printed no table.
struct NcuRange {
  std::string range;
  CounterValues values;
};
std::vector<NcuRange> parse_ncu_csv(std::string_view text);

/// A range of NVTX, which a parent's ncu attributes kernels to; does nothing where nobody listens.
class NamedRange {
 public:
  explicit NamedRange(const std::string& name);
  ~NamedRange();
  NamedRange(const NamedRange&) = delete;
  NamedRange& operator=(const NamedRange&) = delete;
};

}  // namespace icd
