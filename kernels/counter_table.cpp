#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>

#include "icd/error.h"
#include "kernels/counters.h"

namespace icd {
namespace {

// Where several names are given, older chips and GB2xx have other ones than GH100; the last groups
// of metrics of a unit cost no pass of their own beside the first.
constexpr auto kCounters = std::to_array<Counter>({
    {"time", "ns", "gpu__time_duration.sum"},
    {"cycles", "cycles", "sm__cycles_elapsed.max"},
    {"dram_read", "bytes", "dram__bytes_read.sum fbpa__dram_read_bytes.sum"},
    {"dram_write", "bytes", "dram__bytes_write.sum fbpa__dram_write_bytes.sum"},
    {"l2_read", "sectors", "lts__t_sectors_op_read.sum"},
    {"l2_write", "sectors", "lts__t_sectors_op_write.sum"},
    {"l2_from_l1", "sectors", "lts__t_sectors_srcunit_tex.sum"},
    {"l2_from_l1_requests", "requests", "lts__t_requests_srcunit_tex.sum"},
    {"l2_hit", "sectors", "lts__t_sectors_lookup_hit.sum"},
    {"l2_miss", "sectors", "lts__t_sectors_lookup_miss.sum"},
    {"l1_load", "sectors", "l1tex__t_sectors_pipe_lsu_mem_global_op_ld.sum"},
    {"l1_load_hit", "sectors", "l1tex__t_sectors_pipe_lsu_mem_global_op_ld_lookup_hit.sum"},
    {"l1_load_requests", "requests", "l1tex__t_requests_pipe_lsu_mem_global_op_ld.sum"},
    {"l1_store", "sectors", "l1tex__t_sectors_pipe_lsu_mem_global_op_st.sum"},
    {"l1_store_requests", "requests", "l1tex__t_requests_pipe_lsu_mem_global_op_st.sum"},
    {"instructions", "instructions", "smsp__inst_executed.sum sm__inst_executed.sum"},
    {"xu", "instructions", "sm__inst_executed_pipe_xu.sum smsp__inst_executed_pipe_xu.sum"},
    {"fma", "instructions", "sm__inst_executed_pipe_fma.sum smsp__inst_executed_pipe_fma.sum"},
    {"alu", "instructions", "sm__inst_executed_pipe_alu.sum smsp__inst_executed_pipe_alu.sum"},
    {"lsu", "instructions", "sm__inst_executed_pipe_lsu.sum smsp__inst_executed_pipe_lsu.sum"},
    {"lsu_wavefronts", "wavefronts", "l1tex__data_pipe_lsu_wavefronts.sum"},
    {"shared_wavefronts", "wavefronts", "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum"},
    {"bank_conflicts", "wavefronts", "l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum"},
});

// "RmProfilingAdminOnly: 1", as the driver tells it; empty without one.
std::string admin_only_line() {
  std::ifstream file("/proc/driver/nvidia/params");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("RmProfilingAdminOnly", 0) == 0) return line;
  }
  return {};
}

// The fields of a line of CSV; quotes are doubled inside quotes.
std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && quoted && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += c;
      ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else if (c != '\r') {
      fields.back() += c;
    }
  }
  return fields;
}

std::optional<double> number_in(std::string text) {
  std::erase(text, ',');  // "1,024"
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || end != text.c_str() + text.size() || !std::isfinite(value)) return {};
  return value;
}

bool stands_for(const Counter& counter, std::string_view metric) {
  std::string_view rest = counter.metrics;
  while (!rest.empty()) {
    const std::size_t space = std::min(rest.find(' '), rest.size());
    if (rest.substr(0, space) == metric) return true;
    rest.remove_prefix(std::min(space + 1, rest.size()));
  }
  return false;
}

}  // namespace

std::span<const Counter> counters() noexcept { return kCounters; }

std::optional<double> CounterValues::operator[](std::string_view name) const {
  for (const CounterValue& value : values) {
    if (value.name == name) return value.value;
  }
  return {};
}

CounterValues no_counters(std::string reason) {
  CounterValues none;
  for (const Counter& counter : kCounters) {
    none.values.push_back({std::string(counter.name), std::string(counter.unit), {}, {}});
  }
  none.reason = std::move(reason);
  return none;
}

std::optional<double> ratio(std::optional<double> above, std::optional<double> below) {
  if (!above || !below || *below == 0) return {};
  return *above / *below;
}

std::string counter_reason(int status, std::string_view call, std::string_view text) {
  const std::string what = "counters: " + std::string(call) + ": " + std::string(text) + " (" +
                           std::to_string(status) + ")";
  switch (status) {
    case 35: {
      const std::string line = admin_only_line();
      return what +
             ": reading counters needs root or CAP_SYS_ADMIN (CAP_PERFMON from driver R565 on), or "
             "NVreg_RestrictProfilingToAdminUsers=0; a container --cap-add=SYS_ADMIN" +
             (line.empty() ? "" : "; the driver says " + line);
    }
    case 33:
    case 40:
      return what + ": a virtual GPU; its host has to allow profiling";
    case 39:
      return what + ": another profiler is attached to this process";
    case 41:
      return what + ": confidential computing is on";
    case 42:
      return what + ": a mining card has no counters";
    case 43:
      return what + ": a MIG slice; profiling is not supported there";
    case 45:
      return what + ": WSL; allow counters in the Windows driver's control panel";
    case 46:
      return what + ": a chip that this CUPTI does not know; a newer CUDA toolkit may";
    case 999:
      return what + ": no NVIDIA driver, or it and CUPTI do not fit";
    default:
      return what;
  }
}

std::vector<std::string> ncu_command(const std::string& ncu, const ResolvedCounters& resolved,
                                     const std::vector<std::string>& program) {
  std::string metrics;
  const auto add = [&](std::string_view metric) {
    if (metric.empty()) return;
    if (!metrics.empty()) metrics += ',';
    metrics += metric;
  };
  if (resolved.counters.empty()) {
    for (const Counter& counter : kCounters) {
      add(counter.metrics.substr(0, counter.metrics.find(' ')));
    }
  }
  for (const ResolvedCounter& counter : resolved.counters) add(counter.metric);
  // ncu would lock clocks and flush caches: with both options off it counts what CUPTI counts
  std::vector<std::string> command = {ncu,
                                      "--csv",
                                      "--page",
                                      "raw",
                                      "--print-units",
                                      "base",
                                      "--nvtx",
                                      "--nvtx-include",
                                      "icd_counted/",
                                      "--print-nvtx-rename",
                                      "kernel",
                                      "--metrics",
                                      metrics,
                                      "--clock-control",
                                      "none",
                                      "--cache-control",
                                      "none",
                                      "--replay-mode",
                                      "kernel"};
  command.insert(command.end(), program.begin(), program.end());
  return command;
}

std::vector<NcuRange> parse_ncu_csv(std::string_view text) {
  std::vector<std::string> header;
  std::vector<NcuRange> ranges;
  std::string error;
  std::size_t name_column = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.rfind("==ERROR==", 0) == 0 && error.empty()) error = line.substr(9);
    if (line.rfind("\"", 0) != 0) continue;  // the program's own lines and ==PROF==
    std::vector<std::string> fields = fields_of(line);
    const auto kernel_name = std::find(fields.begin(), fields.end(), "Kernel Name");
    if (header.empty()) {
      if (kernel_name == fields.end()) continue;
      name_column = static_cast<std::size_t>(kernel_name - fields.begin());
      header = std::move(fields);
      continue;
    }
    if (fields.size() != header.size() || fields[name_column].empty()) continue;  // or units
    const std::string& name = fields[name_column];
    auto range = std::find_if(ranges.begin(), ranges.end(),
                              [&](const NcuRange& other) { return other.range == name; });
    if (range == ranges.end()) range = ranges.insert(range, {name, no_counters({})});
    for (std::size_t i = 0; i < kCounters.size(); ++i) {
      CounterValue& value = range->values.values[i];
      for (std::size_t column = 0; column < header.size(); ++column) {
        if (!stands_for(kCounters[i], header[column])) continue;
        if (!value.metric.empty() && value.metric != header[column]) continue;
        const auto found = number_in(fields[column]);
        if (!found) continue;
        value.metric = header[column];
        value.value = value.value.value_or(0) + *found;
      }
    }
  }
  if (header.empty()) {
    throw Error(ErrorCode::unavailable,
                "counters: ncu printed no table" + (error.empty() ? "" : ":" + error));
  }
  return ranges;
}

}  // namespace icd
