#include "kernels/bench_run.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "icd/error.h"
#include "kernels/bench_cases.h"
#include "kernels/bench_matrix.h"
#include "kernels/device.h"
#include "kernels/graph_timer.h"

namespace icd {
namespace {

struct Maker {
  std::string_view name;
  std::string_view layout;
  CaseMaker make;
};

constexpr auto kMakers = std::to_array<Maker>({
    {"selective-scan", "channel-last", make_scan},
    {"selective-scan", "channel-first", make_scan_channel_first},
    {"causal-conv1d", "channel-last", make_conv},
    {"causal-conv1d", "channel-first", make_conv_channel_first},
    {"ssd", "heads", make_ssd},
    {"gemm", "row-major", make_gemm},
    {"state-update", "[D][N] f32", make_update_dn_f32},
    {"state-update", "[D][N] bf16", make_update_dn_bf16},
    {"state-update", "[N][D] f32", make_update_nd_f32},
    {"skip-zero-gemv", "input-major", make_gemv_input_major},
    {"gather", "run-time", make_gather},
    {"active-subset", "[D][N] f32", make_active_dn_f32},
    {"active-subset", "[N][D] f32", make_active_nd_f32},
    {"active-subset", "[N][D] bf16", make_active_nd_bf16},
    {"skip-zero-gemv", "row-major", make_gemv_row_major},
    {"block-sparse", "32 x 32", make_block_sparse},
});

BenchDevice describe_device(const GraphTimer& timer) {
  int device = 0;
  cudaDeviceProp properties{};
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  BenchDevice found;
  found.name = properties.name;
  found.compute_capability =
      std::to_string(properties.major) + "." + std::to_string(properties.minor);
  found.driver = timer.monitor().driver_version();
  found.multiprocessors = properties.multiProcessorCount;
  found.memory_bytes = static_cast<std::int64_t>(properties.totalGlobalMem);
  found.l2_bytes = timer.l2_bytes();
  found.monitor_reason = timer.monitor().reason();
  return found;
}

std::unique_ptr<BenchCase> placed_case(const BenchCell& cell, const BenchRequest& request,
                                       const BenchInputsOf& inputs, const GraphTimer& timer) {
  std::unique_ptr<BenchCase> made =
      make_case(cell.kernel, cell.shape, inputs(cell.shape), request.seed);
  const int sets = cell.cache == "cold" ? timer.sets_for(made->set_bytes()) : 1;
  made->allocate(sets, timer.stream());
  return made;
}

void add_library(BenchResult& result, BenchLibrary library) {
  if (library.name.empty()) return;
  for (const BenchLibrary& known : result.libraries) {
    if (known.name == library.name) return;
  }
  result.libraries.push_back(std::move(library));
}

// "13.1" of 13010, as CUDA has it
std::string cuda_version(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Identity and placebo, and what else came out as the same order: solved, where a solver kept the
// identity, and orders of channels that are one order of heads.
double noise_between_equals(const BenchCell& cell, const std::vector<BenchOrder>& orders,
                            std::uint64_t seed) {
  double noise = 0;
  for (std::size_t i = 0; i < orders.size(); ++i) {
    for (std::size_t k = i + 1; k < orders.size(); ++k) {
      if (!(orders[i].order == orders[k].order)) continue;
      noise = std::max(noise, noise_of(paired_ratio(cell.series[i].latency_us,
                                                    cell.series[k].latency_us, {.seed = seed})));
    }
  }
  return noise;
}

void time_cell(BenchCell& cell, const BenchRequest& request, const BenchInputsOf& inputs,
               GraphTimer& timer, BenchResult& result, const std::function<void()>& tick) {
  const std::unique_ptr<BenchCase> measured = placed_case(cell, request, inputs, timer);
  add_library(result, measured->library());
  cell.set_bytes = measured->set_bytes();
  cell.sets = measured->sets();
  cell.counter_of_model = measured->predict(0).counter;
  const double identity_amount = measured->predict(0).amount;
  const std::vector<BenchOrder>& orders = measured->orders();

  // Right first: every order's output against the identity's, put in that order.
  std::vector<TimedWork> works;
  for (std::size_t i = 0; i < orders.size(); ++i) {
    BenchSeries& series = cell.series.emplace_back();
    series.order = orders[i].name;
    series.difference = measured->difference(i, timer.stream());
    series.predicted = measured->predict(i).amount / identity_amount;
    works.push_back({orders[i].name, [&, i](cudaStream_t stream) { measured->prepare(i, stream); },
                     [&](int set, cudaStream_t stream) { return measured->launch(set, stream); }});
  }
  GraphTimerOptions options;
  options.rounds = request.rounds;
  options.cache = cell.cache == "cold" ? CacheState::cold : CacheState::warm;
  options.sets = cell.sets;
  options.tick = tick;
  TimedSamples samples = timer.time(works, options);
  cell.launches = samples.launches;
  cell.readings = std::move(samples.readings);
  for (std::size_t i = 0; i < orders.size(); ++i) {
    BenchSeries& series = cell.series[i];
    series.latency_us = std::move(samples.latency_us[i]);
    series.sm_mhz = std::move(samples.sm_mhz[i]);
    series.ratio =
        paired_ratio(cell.series[0].latency_us, series.latency_us, {.seed = request.seed + i});
  }
  cell.noise = noise_between_equals(cell, orders, request.seed);
  cell.bar = bar_of(cell.noise);
  for (BenchSeries& series : cell.series) series.verdict = verdict_of(series.ratio, cell.bar);
}

bool is_counted(const BenchRequest& request, const std::string& order) {
  return std::find(request.counted.begin(), request.counted.end(), order) != request.counted.end();
}

// Inputs in place, outputs checked once so that nothing is loaded or allocated later, and the cache
// as a sample finds it.
void bring_up(BenchCase& measured, const BenchCell& cell, std::size_t order, GraphTimer& timer) {
  measured.prepare(order, timer.stream());
  if (cell.cache == "cold") {
    timer.flush();
  } else {
    check(measured.launch(0, timer.stream()), cell_name(cell).c_str());
  }
}

// Empty, or why nothing can be counted.
std::string count_cell(BenchCell& cell, const BenchRequest& request, const BenchInputsOf& inputs,
                       GraphTimer& timer, CounterSession& session) {
  const std::unique_ptr<BenchCase> measured = placed_case(cell, request, inputs, timer);
  measured->difference(0, timer.stream());
  for (std::size_t i = 0; i < cell.series.size(); ++i) {
    if (!is_counted(request, cell.series[i].order)) continue;
    CounterValues values = session.measure(
        cell.series[i].order, [&] { bring_up(*measured, cell, i, timer); },
        [&] { check(measured->launch(0, timer.stream()), cell_name(cell).c_str()); });
    const bool has_any = std::any_of(values.values.begin(), values.values.end(),
                                     [](const CounterValue& one) { return one.value.has_value(); });
    if (!has_any) {
      return values.reason.empty() ? "counters: CUPTI gave no values" : values.reason;
    }
    cell.series[i].counters = std::move(values);
  }
  return {};
}

void count_in_process(std::vector<BenchCell>& cells, const BenchRequest& request,
                      const BenchInputsOf& inputs, GraphTimer& timer, BenchResult& result,
                      const std::function<void(const std::string&)>& tick) {
  CounterSession session(request.cupti);
  result.counter_library = session.resolved().library;
  result.counter_reason = session.reason();
  for (BenchCell& cell : cells) {
    if (!result.counter_reason.empty()) return;
    if (!cell.skipped.empty()) continue;
    tick("counters: " + cell_name(cell));
    try {
      result.counter_reason = count_cell(cell, request, inputs, timer, session);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unavailable) throw;
      result.counter_reason = std::string("counters: ") + error.what();
    }
  }
  if (!result.counter_reason.empty()) return;
  result.counter_source = "cupti";
}

// What a program prints, standard error left alone.
std::string output_of(const std::vector<std::string>& command) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) {
    throw Error(ErrorCode::unavailable, std::string("counters: pipe: ") + std::strerror(errno));
  }
  std::vector<char*> arguments;
  for (const std::string& argument : command) {
    arguments.push_back(const_cast<char*>(argument.c_str()));
  }
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(ends[1]);
  std::string text;
  std::array<char, 65536> part{};
  for (ssize_t count; (count = read(ends[0], part.data(), part.size())) != 0;) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    text.append(part.data(), static_cast<std::size_t>(count));
  }
  close(ends[0]);
  int status = 0;
  while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (child < 0 || (WIFEXITED(status) && WEXITSTATUS(status) == 127)) {
    throw Error(ErrorCode::unavailable, "counters: '" + command[0] + "' cannot be run");
  }
  return text;
}

void count_with_ncu(std::vector<BenchCell>& cells, const BenchRequest& request,
                    BenchResult& result) {
  const std::string before = result.counter_reason;
  try {
    // the host API answers without a device, so it may serve where the profiler does not
    const CounterSession session(request.cupti);
    ResolvedCounters resolved = session.resolved();
    if (resolved.counters.empty() && !resolved.chip.empty()) {
      resolved = resolve_counters(resolved.chip, request.cupti);
    }
    const std::vector<NcuRange> ranges =
        parse_ncu_csv(output_of(ncu_command(request.ncu, resolved, request.child)));
    for (BenchCell& cell : cells) {
      for (BenchSeries& series : cell.series) {
        const std::string name = range_name(cell, series.order);
        for (const NcuRange& range : ranges) {
          if (range.range == name) series.counters = range.values;
        }
      }
    }
    result.counter_source = "ncu";
    result.counter_reason.clear();
  } catch (const Error& error) {
    result.counter_reason = before.empty() ? error.what() : before + "; " + error.what();
  }
}

}  // namespace

std::unique_ptr<BenchCase> make_case(const BenchKernel& kernel, const BenchShape& shape,
                                     const BenchInputs& inputs, std::uint64_t seed) {
  for (const Maker& maker : kMakers) {
    if (maker.name == kernel.name && maker.layout == kernel.layout) {
      return maker.make(shape, inputs, seed);
    }
  }
  throw Error(ErrorCode::unavailable, "bench: nobody makes '" + std::string(kernel.name) + "'");
}

BenchResult run_bench(const BenchRequest& request, const BenchInputsOf& inputs,
                      const std::function<void(const std::string&)>& tick) {
  std::vector<BenchCell> cells = cells_of(request);
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why, "icd doctor says more");
  }
  GraphTimer timer;
  BenchResult result;
  result.device = describe_device(timer);
  int version = 0;
  check(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  add_library(result, {"CUDA runtime", cuda_version(version)});
  check(cudaDriverGetVersion(&version), "cudaDriverGetVersion");
  add_library(result, {"CUDA driver", cuda_version(version)});
  for (BenchCell& cell : cells) {
    tick(cell_name(cell));
    try {
      time_cell(cell, request, inputs, timer, result, [&] { tick({}); });
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unavailable) throw;
      cell.series.clear();
      cell.skipped = error.what();
    }
  }
  // Counters last: what they need may slow launches down.
  const CounterMode mode = request.counters;
  if (mode == CounterMode::off) result.counter_reason = "counters: off (--counters)";
  if (mode == CounterMode::automatic || mode == CounterMode::cupti) {
    count_in_process(cells, request, inputs, timer, result, tick);
  }
  const bool is_left = mode == CounterMode::automatic && result.counter_source.empty();
  if (mode == CounterMode::ncu || is_left) {
    tick("counters: " + request.ncu);
    count_with_ncu(cells, request, result);
  }
  if ((mode == CounterMode::cupti || mode == CounterMode::ncu) && result.counter_source.empty()) {
    throw Error(ErrorCode::unavailable, result.counter_reason,
                "--counters=auto goes on without them");
  }
  result.cells = std::move(cells);
  return result;
}

void run_ranges(const BenchRequest& request, const BenchInputsOf& inputs) {
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why);
  }
  GraphTimer timer;
  for (const BenchCell& cell : cells_of(request)) {
    try {
      const std::unique_ptr<BenchCase> measured = placed_case(cell, request, inputs, timer);
      measured->difference(0, timer.stream());
      for (std::size_t i = 0; i < measured->orders().size(); ++i) {
        const std::string& order = measured->orders()[i].name;
        if (!is_counted(request, order)) continue;
        bring_up(*measured, cell, i, timer);
        check(cudaStreamSynchronize(timer.stream()), order.c_str());
        const NamedRange range(range_name(cell, order));
        check(measured->launch(0, timer.stream()), order.c_str());
        check(cudaStreamSynchronize(timer.stream()), order.c_str());
      }
    } catch (const Error& error) {
      if (error.code() != ErrorCode::unavailable) throw;  // the parent says what was skipped
    }
  }
}

}  // namespace icd
