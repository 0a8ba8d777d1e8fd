#include "bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "icd/version.h"

namespace icd::cli {
namespace {

using Json = nlohmann::ordered_json;

// Events have a resolution of half a microsecond over a sample of hundreds: a nanosecond is enough.
Json rounded(const std::vector<double>& values, int digits) {
  Json json = Json::array();
  for (const double value : values) {
    json.push_back(std::stod(fmt::format("{:.{}f}", value, digits)));
  }
  return json;
}

template <typename T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json to_json(const std::optional<CounterValues>& counters) {
  if (!counters) return nullptr;
  Json json = Json::object();
  for (const CounterValue& one : counters->values) {
    json[one.name] = {{"value", or_null(one.value)}, {"unit", one.unit}, {"metric", one.metric}};
  }
  const CounterValues& all = *counters;
  json["l1_hit_rate"] = {{"value", or_null(ratio(all["l1_load_hit"], all["l1_load"]))}};
  std::optional<double> looked_up;
  if (all["l2_hit"] && all["l2_miss"]) looked_up = *all["l2_hit"] + *all["l2_miss"];
  json["l2_hit_rate"] = {{"value", or_null(ratio(all["l2_hit"], looked_up))}};
  json["sectors_per_request"] = {
      {"value", or_null(ratio(all["l1_load"], all["l1_load_requests"]))}};
  if (!all.reason.empty()) json["reason"] = all.reason;
  return json;
}

Json to_json(const BenchCell& cell) {
  Json json = {{"kernel", cell.kernel.name},
               {"layout", cell.kernel.layout},
               {"control", to_string(cell.kernel.control)},
               {"model", cell.shape.model},
               {"d_model", cell.shape.d_model},
               {"d_inner", cell.shape.d_inner},
               {"d_state", cell.shape.d_state},
               {"batch", cell.shape.batch},
               {"length", cell.shape.length},
               {"cache", cell.cache}};
  if (!cell.skipped.empty()) {
    json["skipped"] = cell.skipped;
    return json;
  }
  json["launches"] = cell.launches;
  json["sets"] = cell.sets;
  json["set_bytes"] = cell.set_bytes;
  json["bar"] = cell.bar;
  json["holds"] = cell.holds();
  json["predicted_by"] =
      cell.counter_of_model.empty() ? Json(nullptr) : Json(cell.counter_of_model);
  json["orders"] = Json::array();
  for (const BenchSeries& series : cell.series) {
    json["orders"].push_back(
        {{"order", series.order},
         {"verdict", to_string(series.verdict)},
         {"ratio", series.ratio.median},
         {"low", series.ratio.low},
         {"high", series.ratio.high},
         {"p_equivalent", series.ratio.p_equivalent},
         {"predicted", series.predicted},
         {"counted", or_null(cell.counted(series))},
         {"median_us", std::stod(fmt::format("{:.3f}", series.median_us()))},
         {"median_cycles", std::round(series.median_cycles())},
         {"difference", std::isfinite(series.difference) ? Json(series.difference) : Json(nullptr)},
         {"samples_us", rounded(series.latency_us, 3)},
         {"sm_mhz", rounded(series.sm_mhz, 0)},
         {"counters", to_json(series.counters)}});
  }
  json["readings"] = Json::array();
  for (const DeviceReading& reading : cell.readings) {
    json["readings"].push_back({{"sm_mhz", or_null(reading.sm_mhz)},
                                {"memory_mhz", or_null(reading.memory_mhz)},
                                {"temperature_c", or_null(reading.temperature_c)},
                                {"power_w", or_null(reading.power_w)},
                                {"throttle_reasons", or_null(reading.throttle_reasons)}});
  }
  return json;
}

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

std::string ratio_text(const PairedRatio& ratio) {
  return fmt::format("{:.3f} [{:.3f}, {:.3f}]", ratio.median, ratio.low, ratio.high);
}

// The order whose time is farthest from the identity's.
const BenchSeries& farthest(const BenchCell& cell) {
  return *std::max_element(
      cell.series.begin(), cell.series.end(), [](const BenchSeries& a, const BenchSeries& b) {
        return std::fabs(std::log(a.ratio.median)) < std::fabs(std::log(b.ratio.median));
      });
}

std::string shape_text(const BenchCell& cell) {
  std::string text = cell.shape.model;
  if (cell.kernel.has_batch) text += fmt::format(", B {}", cell.shape.batch);
  if (cell.kernel.has_length) text += fmt::format(", L {}", cell.shape.length);
  return text;
}

bool has(const BenchCell& cell, Verdict verdict) {
  return std::any_of(cell.series.begin(), cell.series.end(),
                     [&](const BenchSeries& one) { return one.verdict == verdict; });
}

struct Tally {
  int cells = 0;
  int holding = 0;
  int undecided = 0;  ///< of those that hold: an order's interval is wider than the bar
  int skipped = 0;
  double least_bar = INFINITY;
  double most_bar = 0;
};

Tally tally_of(const BenchResult& result, BenchControl control) {
  Tally tally;
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != control) continue;
    if (!cell.skipped.empty()) {
      ++tally.skipped;
      continue;
    }
    ++tally.cells;
    tally.holding += cell.holds();
    tally.undecided += cell.holds() && has(cell, Verdict::inconclusive);
    tally.least_bar = std::min(tally.least_bar, cell.bar);
    tally.most_bar = std::max(tally.most_bar, cell.bar);
  }
  return tally;
}

std::string null_table(const BenchResult& result) {
  std::string text =
      "| kernel | layout | shape | L2 | identity, us | kilocycles | A/A bar | farthest order | "
      "ratio | outputs differ by | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != BenchControl::null || !cell.skipped.empty()) continue;
    const BenchSeries& worst = farthest(cell);
    double difference = 0;
    for (const BenchSeries& one : cell.series) difference = std::max(difference, one.difference);
    text += fmt::format("| {} | {} | {} | {} | {:.2f} | {:.1f} | {} | {} | {} | {:.1e} | {} |\n",
                        cell.kernel.name, cell.kernel.layout, shape_text(cell), cell.cache,
                        cell.series[0].median_us(), cell.series[0].median_cycles() / 1000,
                        percent(cell.bar), worst.order, ratio_text(worst.ratio), difference,
                        !cell.holds()                      ? "**MOVED**"
                        : has(cell, Verdict::inconclusive) ? "undecided"
                                                           : "no effect");
  }
  return text;
}

std::string positive_table(const BenchResult& result) {
  std::string text =
      "| kernel | layout | shape | L2 | order | us | predicted | counted | time | verdict | "
      "control |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != BenchControl::positive || !cell.skipped.empty()) continue;
    for (const BenchSeries& one : cell.series) {
      const std::optional<double> counted = cell.counted(one);
      text += fmt::format("| {} | {} | {} | {} | {} | {:.2f} | {:.3f} | {} | {} | {} | {} |\n",
                          cell.kernel.name, cell.kernel.layout, shape_text(cell), cell.cache,
                          one.order, one.median_us(), one.predicted,
                          counted ? fmt::format("{:.3f}", *counted) : "-", ratio_text(one.ratio),
                          to_string(one.verdict), cell.holds() ? "holds" : "**FAILS**");
    }
  }
  return text;
}

}  // namespace

bool controls_hold(const BenchResult& result) {
  const Tally null = tally_of(result, BenchControl::null);
  const Tally positive = tally_of(result, BenchControl::positive);
  return null.cells + positive.cells > 0 && null.holding == null.cells &&
         positive.holding == positive.cells;
}

std::vector<std::string> summary_of(const BenchResult& result) {
  const Tally null = tally_of(result, BenchControl::null);
  const Tally positive = tally_of(result, BenchControl::positive);
  std::vector<std::string> lines;
  if (null.cells > 0) {
    lines.push_back(fmt::format(
        "null controls: no effect of any order in {} of {}, {} undecided, {} moved (A/A "
        "bar {} to {})",
        null.holding - null.undecided, null.cells, null.undecided, null.cells - null.holding,
        percent(null.least_bar), percent(null.most_bar)));
  }
  if (positive.cells > 0) {
    lines.push_back(fmt::format("positive controls: {} of {} moved as the model says",
                                positive.holding, positive.cells));
  }
  if (null.skipped + positive.skipped > 0) {
    lines.push_back(fmt::format("skipped: {}", null.skipped + positive.skipped));
  }
  int none = 0;
  int cells = 0;
  std::vector<std::pair<std::string, PairedRatio>> moved;  // by kernel: from low to high
  for (const BenchCell& cell : result.cells) {
    for (const BenchSeries& one : cell.series) {
      if (one.order != "solved") continue;
      ++cells;
      none += one.verdict == Verdict::no_effect;
      if (one.verdict != Verdict::faster && one.verdict != Verdict::slower) continue;
      const std::string name = fmt::format("{} {}", cell.kernel.name, cell.kernel.layout);
      auto found = std::find_if(moved.begin(), moved.end(),
                                [&](const auto& other) { return other.first == name; });
      if (found == moved.end()) {
        found = moved.insert(found, {name, {.low = INFINITY, .high = 0}});
      }
      found->second.low = std::min(found->second.low, one.ratio.median);
      found->second.high = std::max(found->second.high, one.ratio.median);
    }
  }
  if (cells > 0) {
    std::string text = fmt::format("the solved order: no effect in {} of {} cells", none, cells);
    for (const auto& [name, range] : moved) {
      text += fmt::format("; {} takes {:.2f} to {:.2f} of the identity's time", name, range.low,
                          range.high);
    }
    lines.push_back(text);
  }
  if (result.counter_source.empty()) {
    lines.push_back(result.counter_reason.empty() ? "counters: none" : result.counter_reason);
  }
  return lines;
}

Json to_json(const BenchResult& result, const BenchRecord& record) {
  Json inputs = Json::array();
  for (const BenchRecord::Inputs& one : record.inputs) {
    inputs.push_back({{"model", one.model}, {"source", one.source}, {"sha256", one.digest}});
  }
  const BenchDevice& device = result.device;
  Json json = {
      {"schema", "icd.bench.kernels/1"},
      {"icd", version()},
      {"command", record.command},
      {"seed", record.seed},
      {"rounds", record.rounds},
      {"device",
       {{"name", device.name},
        {"compute_capability", device.compute_capability},
        {"driver", device.driver},
        {"multiprocessors", device.multiprocessors},
        {"memory_bytes", device.memory_bytes},
        {"l2_bytes", device.l2_bytes},
        {"clocks", device.monitor_reason.empty() ? Json("nvml") : Json(device.monitor_reason)},
        {"cycles", "estimated: latency times clock64 over globaltimer right behind the sample"}}},
      {"inputs", inputs},
      {"counters",
       {{"status", result.counter_source.empty() ? "unavailable" : "read"},
        {"source", result.counter_source.empty() ? Json(nullptr) : Json(result.counter_source)},
        {"library", result.counter_library.empty() ? Json(nullptr) : Json(result.counter_library)},
        {"reason", result.counter_reason.empty() ? Json(nullptr) : Json(result.counter_reason)}}},
      {"controls_hold", controls_hold(result)},
      {"summary", summary_of(result)},
      {"cells", Json::array()}};
  for (const BenchCell& cell : result.cells) json["cells"].push_back(to_json(cell));
  return json;
}

std::string markdown_of(const BenchResult& result, const BenchRecord& record) {
  const BenchDevice& device = result.device;
  std::string text = fmt::format(
      "# Kernels and orders\n\n{}, compute capability {}, driver {}, {} multiprocessors, L2 {} "
      "MiB; "
      "icd {}\n\n    {}\n\n{} rounds, interleaved; ratios are medians of the rounds' ratios to the "
      "identity with a 95 % bootstrap interval.\nA verdict other than \"no effect\" needs the "
      "interval to be farther from 1 than the A/A bar, which is how far the interval of the "
      "identity against itself reaches.\n\n",
      device.name, device.compute_capability, device.driver.empty() ? "unknown" : device.driver,
      device.multiprocessors, device.l2_bytes >> 20, version(), record.command, record.rounds);
  for (const std::string& line : summary_of(result)) text += "- " + line + "\n";
  text += "\n## Null controls: nothing was predicted to move\n\n" + null_table(result);
  text +=
      "\n## Positive controls: amounts relative to the identity's, predicted, counted, and "
      "time\n\n" +
      positive_table(result);
  if (!record.inputs.empty()) text += "\n## Inputs\n\n";
  for (const BenchRecord::Inputs& one : record.inputs) {
    text += fmt::format("- {}: {}, SHA-256 {}\n", one.model, one.source, one.digest);
  }
  bool has_skipped = false;
  for (const BenchCell& cell : result.cells) {
    if (cell.skipped.empty()) continue;
    if (!has_skipped) text += "\n## Skipped\n\n";
    has_skipped = true;
    text += fmt::format("- {}: {}\n", cell_name(cell), cell.skipped);
  }
  return text;
}

}  // namespace icd::cli
