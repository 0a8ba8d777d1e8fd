#include "kernels/graph_timer.h"

#include <algorithm>
#include <cmath>

#include "icd/bench_statistics.h"
#include "kernels/bench_device.h"
#include "kernels/cuda_graph.h"

namespace icd {
namespace {

// `launches` of a work, the i-th on set i modulo `sets`.
std::unique_ptr<CudaGraph> graph_of(const TimedWork& work, int launches, int sets,
                                    cudaStream_t stream) {
  return std::make_unique<CudaGraph>(stream, work.name, [&] {
    for (int i = 0; i < launches; ++i) {
      check(work.launch(i % sets, stream), ("capture of " + work.name).c_str());
    }
  });
}

}  // namespace

std::string_view to_string(CacheState cache) noexcept {
  return cache == CacheState::warm ? "warm" : "cold";
}

std::vector<int> round_order(int works, int round) {
  std::vector<int> order;
  for (int i = 0; i < works; ++i) order.push_back((i + round / 2) % works);
  if (round % 2 == 1) std::reverse(order.begin(), order.end());
  return order;
}

int launches_for(double launch_us, const GraphTimerOptions& options) {
  const double wanted = std::ceil(options.sample_us / std::max(launch_us, 1e-3));
  return static_cast<int>(std::clamp(wanted, 1.0, static_cast<double>(options.max_launches)));
}

GraphTimer::GraphTimer() {
  int device = 0;
  int l2 = 0;
  char bus_id[32] = {};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&l2, cudaDevAttrL2CacheSize, device), "cudaDeviceGetAttribute");
  check(cudaDeviceGetPCIBusId(bus_id, sizeof bus_id, device), "cudaDeviceGetPCIBusId");
  l2_bytes_ = l2;
  monitor_ = std::make_unique<DeviceMonitor>(bus_id);
  other_ = std::make_unique<DeviceBuffer>(std::max<std::int64_t>(2 * l2_bytes_, 1 << 20));
  sink_ = std::make_unique<DeviceBuffer>(256);
  check(cudaMemset(other_->data(), 0, static_cast<std::size_t>(other_->bytes())), "cudaMemset");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the new stream waits for no memset
}

GraphTimer::~GraphTimer() { cudaStreamDestroy(stream_); }

int GraphTimer::sets_for(std::int64_t bytes) const noexcept {
  // one more than fills it twice: a set is used again when all the others went through
  if (bytes >= 2 * l2_bytes_) return 1;
  return static_cast<int>(
             std::min<std::int64_t>(2 * l2_bytes_ / std::max<std::int64_t>(bytes, 1), 63)) +
         1;
}

void GraphTimer::flush() {
  check(read_through(other_->data(), other_->bytes(),
                     reinterpret_cast<std::uint32_t*>(sink_->data()), stream_),
        "read_through");
}

TimedSamples GraphTimer::time(const std::vector<TimedWork>& works,
                              const GraphTimerOptions& options) {
  const bool is_cold = options.cache == CacheState::cold;
  const int sets = is_cold ? std::max(options.sets, 1) : 1;
  const auto count = works.size();
  const auto rounds = static_cast<std::size_t>(options.rounds);
  TimedSamples samples;
  samples.latency_us.assign(count, std::vector<double>(rounds));
  samples.sm_mhz.assign(count, std::vector<double>(rounds));
  if (works.empty()) return samples;

  // How long one launch takes: the median of a few replays of one.
  CudaEvent start;
  CudaEvent stop;
  const auto replay_us = [&](CudaGraph& graph) {
    start.record(stream_);
    graph.replay(stream_);
    stop.record(stream_);
    check(cudaStreamSynchronize(stream_), works.front().name.c_str());
    return stop.us_since(start);
  };
  {
    works.front().prepare(stream_);
    const auto one = graph_of(works.front(), 1, sets, stream_);
    std::vector<double> times;
    for (int i = 0; i < 5; ++i) times.push_back(replay_us(*one));
    samples.launches = launches_for(median(times), options);
    // a set that comes round again may still be in the cache, where sets are small
    if (is_cold && sets > 1) samples.launches = std::min(samples.launches, sets);
  }

  std::vector<std::unique_ptr<CudaGraph>> graphs;
  for (const TimedWork& work : works) {
    graphs.push_back(graph_of(work, samples.launches, sets, stream_));
  }
  for (std::size_t i = 0; i < count; ++i) {  // modules, uploads and clocks come up here
    works[i].prepare(stream_);
    graphs[i]->replay(stream_);
    check(cudaStreamSynchronize(stream_), works[i].name.c_str());
  }

  DeviceBuffer clock(2 * static_cast<std::int64_t>(sizeof(std::int64_t)));
  auto* clock_at = reinterpret_cast<std::int64_t*>(clock.data());
  samples.readings.push_back(monitor_->read());
  for (std::size_t round = 0; round < rounds; ++round) {
    for (const int place : round_order(static_cast<int>(count), static_cast<int>(round))) {
      const auto i = static_cast<std::size_t>(place);
      works[i].prepare(stream_);
      if (is_cold) {
        flush();
      } else {
        graphs[i]->replay(stream_);
      }
      start.record(stream_);
      graphs[i]->replay(stream_);
      stop.record(stream_);
      check(probe_clock(clock_at, stream_), "probe_clock");
      std::int64_t ticks[2] = {};
      check(cudaMemcpyAsync(ticks, clock_at, sizeof ticks, cudaMemcpyDeviceToHost, stream_),
            "cudaMemcpyAsync");
      check(cudaStreamSynchronize(stream_), works[i].name.c_str());
      samples.latency_us[i][round] = stop.us_since(start) / samples.launches;
      samples.sm_mhz[i][round] =
          ticks[1] > 0 ? 1000.0 * static_cast<double>(ticks[0]) / static_cast<double>(ticks[1]) : 0;
    }
    samples.readings.push_back(monitor_->read());
    if (options.tick) options.tick();
  }
  return samples;
}

}  // namespace icd
