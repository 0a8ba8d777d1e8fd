#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/device_buffer.h"
#include "kernels/device_monitor.h"

namespace icd {

/// What the L2 cache holds when a sample begins.
enum class CacheState {
  warm,  ///< what the launches before left there: all launches use one set of buffers
  cold,  ///< other data: 2 x L2 of them are read first, and launches go round the sets
};
std::string_view to_string(CacheState cache) noexcept;

/// What is timed. `launch` may be captured in a graph: it neither allocates nor waits.
struct TimedWork {
  std::string name;
  std::function<void(cudaStream_t)> prepare;  ///< puts inputs in place; ahead of every sample
  std::function<cudaError_t(int set, cudaStream_t)> launch;
};

struct GraphTimerOptions {
  int rounds = 31;  ///< samples of each
  CacheState cache = CacheState::cold;
  int sets = 1;                  ///< of buffers; in the warm state the first alone is used
  double sample_us = 300;        ///< a sample is as many launches as it takes to last this long ...
  int max_launches = 200;        ///< ... but no more than these
  std::function<void()> tick{};  ///< after every round, for progress and Ctrl-C
};

/// Samples of works that were timed together.
struct TimedSamples {
  int launches = 0;                             ///< in a sample, by which its time was divided
  std::vector<std::vector<double>> latency_us;  ///< (works, rounds), of one launch

  /// (works, rounds): the SM clock right behind a sample, from clock64 over %globaltimer within
  /// one kernel on one multiprocessor. latency_us * sm_mhz is an estimate of cycles.
  std::vector<std::vector<double>> sm_mhz;

  std::vector<DeviceReading> readings;  ///< (rounds + 1): at the start and after every round
};

/// Places of `works` contenders in round `round`: forwards in even rounds, backwards in odd ones
/// (ABBA), and every two rounds another one first, so that none always follows the same.
std::vector<int> round_order(int works, int round);

/// Launches in a sample, from the time of one.
int launches_for(double launch_us, const GraphTimerOptions& options);

/// Times works against each other on the current device: the launches of each are captured in a
/// graph; in every round each is prepared, the cache brought into its state, and the graph replayed
/// between two events.
class GraphTimer {
 public:
  GraphTimer();
  ~GraphTimer();
  GraphTimer(const GraphTimer&) = delete;
  GraphTimer& operator=(const GraphTimer&) = delete;

  cudaStream_t stream() const noexcept { return stream_; }
  std::int64_t l2_bytes() const noexcept { return l2_bytes_; }
  const DeviceMonitor& monitor() const noexcept { return *monitor_; }

  /// Sets of buffers of `bytes` each that are more than the L2 cache keeps.
  int sets_for(std::int64_t bytes) const noexcept;

  /// Reads 2 x L2 of other data through the caches.
  void flush();

  /// Throws Error{unavailable} naming the work whose launch or capture fails.
  TimedSamples time(const std::vector<TimedWork>& works, const GraphTimerOptions& options);

 private:
  cudaStream_t stream_ = nullptr;
  std::int64_t l2_bytes_ = 0;
  std::unique_ptr<DeviceBuffer> other_;  // 2 x L2
  std::unique_ptr<DeviceBuffer> sink_;
  std::unique_ptr<DeviceMonitor> monitor_;
};

}  // namespace icd
