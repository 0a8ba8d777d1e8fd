#include "bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "icd/version.h"

namespace icd::cli {
namespace {

using Json = nlohmann::ordered_json;

double rounded(double value, int digits) {
  return std::stod(fmt::format("{:.{}f}", value, digits));
}

// Events have a resolution of half a microsecond over a sample of hundreds: a nanosecond is enough.
Json rounded(const std::vector<double>& values, int digits) {
  Json json = Json::array();
  for (const double value : values) json.push_back(rounded(value, digits));
  return json;
}

// Whole numbers without a point, as counts and clocks are.
Json number(double value) {
  return value == std::round(value) && std::fabs(value) < 1e15
             ? Json(static_cast<std::int64_t>(value))
             : Json(value);
}

Json whole(const std::vector<double>& values) {
  Json json = Json::array();
  for (const double value : values) json.push_back(number(std::round(value)));
  return json;
}

Json number(const std::optional<double>& value) { return value ? number(*value) : Json(nullptr); }

Json or_null(const std::string& text) { return text.empty() ? Json(nullptr) : Json(text); }

// How far a ratio is known: no interval is narrower than a hundred thousandth.
Json share(const std::optional<double>& value) {
  return value ? Json(rounded(*value, 5)) : Json(nullptr);
}

Json to_json(const std::optional<CounterValues>& counters) {
  if (!counters) return nullptr;
  const CounterValues& all = *counters;
  Json json = Json::object();
  for (const CounterValue& one : all.values) json[one.name] = number(one.value);
  std::optional<double> looked_up;
  if (all["l2_hit"] && all["l2_miss"]) looked_up = *all["l2_hit"] + *all["l2_miss"];
  json["l1_hit_rate"] = share(ratio(all["l1_load_hit"], all["l1_load"]));
  json["l2_hit_rate"] = share(ratio(all["l2_hit"], looked_up));
  json["sectors_per_request"] = share(ratio(all["l1_load"], all["l1_load_requests"]));
  if (!all.reason.empty()) json["reason"] = all.reason;
  return json;
}

// What the names of counters mean: the same for all orders, so said once.
Json metrics_of(const BenchResult& result) {
  Json json = Json::object();
  for (const BenchCell& cell : result.cells) {
    for (const BenchSeries& series : cell.series) {
      if (!series.counters) continue;
      for (const CounterValue& one : series.counters->values) {
        json[one.name] = {{"unit", one.unit}, {"metric", one.metric}};
      }
      return json;
    }
  }
  return json;
}

// By column: the names of five quantities would be most of it.
Json to_json(const std::vector<DeviceReading>& readings) {
  Json json = Json::object();
  const auto add = [&](const char* name, std::optional<double> DeviceReading::*quantity) {
    Json& column = json[name] = Json::array();
    for (const DeviceReading& reading : readings) column.push_back(number(reading.*quantity));
  };
  add("sm_mhz", &DeviceReading::sm_mhz);
  add("memory_mhz", &DeviceReading::memory_mhz);
  add("temperature_c", &DeviceReading::temperature_c);
  add("power_w", &DeviceReading::power_w);
  add("throttle_reasons", &DeviceReading::throttle_reasons);
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
  json["noise"] = share(cell.noise);
  json["bar"] = share(cell.bar);
  json["outcome"] = to_string(cell.outcome());
  json["predicted_by"] = or_null(cell.counter_of_model);
  json["orders"] = Json::array();
  for (const BenchSeries& series : cell.series) {
    json["orders"].push_back(
        {{"order", series.order},
         {"verdict", to_string(series.verdict)},
         {"ratio", share(series.ratio.median)},
         {"low", share(series.ratio.low)},
         {"high", share(series.ratio.high)},
         {"p_equivalent", share(series.ratio.p_equivalent)},
         {"predicted", share(series.predicted)},
         {"counted", share(cell.counted(series))},
         {"median_us", rounded(series.median_us(), 3)},
         {"median_cycles", number(std::round(series.median_cycles()))},
         {"difference", std::isfinite(series.difference) ? Json(series.difference) : Json(nullptr)},
         {"samples_us", rounded(series.latency_us, 3)},
         {"sm_mhz", whole(series.sm_mhz)},
         {"counters", to_json(series.counters)}});
  }
  json["readings"] = to_json(cell.readings);
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

const BenchSeries* series_of(const BenchCell& cell, std::string_view order) {
  const auto found = std::find_if(cell.series.begin(), cell.series.end(),
                                  [&](const BenchSeries& one) { return one.order == order; });
  return found == cell.series.end() ? nullptr : &*found;
}

struct Tally {
  int cells = 0;
  int holding = 0;
  int undecided = 0;
  int failing = 0;
  int skipped = 0;
  int orders = 0;  ///< of all cells, the identity not counted
  int without_effect = 0;
  double least_noise = INFINITY;
  double most_noise = 0;
};

Tally tally_of(const BenchResult& result, BenchControl control) {
  Tally tally;
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != control) continue;
    if (!cell.skipped.empty()) {
      ++tally.skipped;
      continue;
    }
    const BenchOutcome outcome = cell.outcome();
    ++tally.cells;
    tally.holding += outcome == BenchOutcome::holds;
    tally.undecided += outcome == BenchOutcome::undecided;
    tally.failing += outcome == BenchOutcome::fails;
    for (const BenchSeries& one : cell.series) {
      if (one.order == "identity") continue;
      ++tally.orders;
      tally.without_effect += one.verdict == Verdict::no_effect;
    }
    tally.least_noise = std::min(tally.least_noise, cell.noise);
    tally.most_noise = std::max(tally.most_noise, cell.noise);
  }
  return tally;
}

std::string verdict_text(const BenchCell& cell) {
  switch (cell.outcome()) {
    case BenchOutcome::holds:
      return "no effect";
    case BenchOutcome::undecided:
      return "undecided";
    case BenchOutcome::fails:
      break;
  }
  return "**MOVED**";
}

std::string null_table(const BenchResult& result) {
  std::string text =
      "| kernel | layout | shape | L2 | identity, us | kilocycles | A/A | farthest order | "
      "ratio | outputs differ by | verdict |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != BenchControl::null || !cell.skipped.empty()) continue;
    const BenchSeries& worst = farthest(cell);
    double difference = 0;
    for (const BenchSeries& one : cell.series) difference = std::max(difference, one.difference);
    text += fmt::format("| {} | {} | {} | {} | {:.2f} | {:.1f} | {} | {} | {} | {:.1e} | {} |\n",
                        cell.kernel.name, cell.kernel.layout, shape_text(cell), cell.cache,
                        cell.series[0].median_us(), cell.series[0].median_cycles() / 1000,
                        percent(cell.noise), worst.order, ratio_text(worst.ratio), difference,
                        verdict_text(cell));
  }
  return text;
}

bool is_random(const BenchSeries& one) { return one.order.starts_with("random "); }

// "0.98 (0.94 to 1.02)", or the one value where there is no more.
std::string median_and_range(const std::vector<double>& values) {
  if (values.empty()) return "-";
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  if (values.size() == 1) return fmt::format("{:.3f}", values[0]);
  return fmt::format("{:.3f} ({:.3f} to {:.3f})", median(values), *least, *most);
}

// The orders of one name in one line: their medians and how far they reach.
std::string row_of_randoms(const BenchCell& cell) {
  std::vector<double> us;
  std::vector<double> predicted;
  std::vector<double> counted;
  std::vector<double> time;
  int moved = 0;
  for (const BenchSeries& one : cell.series) {
    if (!is_random(one)) continue;
    us.push_back(one.median_us());
    predicted.push_back(one.predicted);
    if (const auto found = cell.counted(one)) counted.push_back(*found);
    time.push_back(one.ratio.median);
    moved += one.verdict == Verdict::faster || one.verdict == Verdict::slower;
  }
  return fmt::format("random | {:.2f} | {} | {} | {} | {} of {} moved", median(us),
                     median_and_range(predicted), median_and_range(counted), median_and_range(time),
                     moved, us.size());
}

std::string positive_table(const BenchResult& result) {
  std::string text =
      "| kernel | layout | shape | L2 | order | us | predicted | counted | time | verdict | "
      "control |\n|---|---|---|---|---|---|---|---|---|---|---|\n";
  for (const BenchCell& cell : result.cells) {
    if (cell.kernel.control != BenchControl::positive || !cell.skipped.empty()) continue;
    const auto add = [&](const std::string& row) {
      text += fmt::format(
          "| {} | {} | {} | {} | {} | {} |\n", cell.kernel.name, cell.kernel.layout,
          shape_text(cell), cell.cache, row,
          cell.outcome() == BenchOutcome::fails ? "**FAILS**" : to_string(cell.outcome()));
    };
    for (const char* order : {"identity", "random", "solved", "adversarial", "timescale"}) {
      if (std::string_view(order) == "random") {
        add(row_of_randoms(cell));
        continue;
      }
      const BenchSeries* one = series_of(cell, order);
      if (one == nullptr) continue;
      const std::optional<double> counted = cell.counted(*one);
      add(fmt::format("{} | {:.2f} | {:.3f} | {} | {} | {}", order, one->median_us(),
                      one->predicted, counted ? fmt::format("{:.3f}", *counted) : "-",
                      ratio_text(one->ratio), to_string(one->verdict)));
    }
  }
  return text;
}

// What the solved order does: kernels that it moved beyond the bar, and the rest in one phrase.
std::string solved_line(const BenchResult& result) {
  struct Moved {
    std::string name;
    std::vector<double> ratios;  // of the cells that moved
    int cells = 0;
  };
  std::vector<Moved> kernels;
  int none = 0;
  int undecided = 0;
  for (const BenchCell& cell : result.cells) {
    const BenchSeries* solved = series_of(cell, "solved");
    if (solved == nullptr) continue;
    const std::string name = fmt::format("{} {}", cell.kernel.name, cell.kernel.layout);
    auto found = std::find_if(kernels.begin(), kernels.end(),
                              [&](const Moved& one) { return one.name == name; });
    if (found == kernels.end()) found = kernels.insert(found, {name, {}, 0});
    ++found->cells;
    if (solved->verdict == Verdict::no_effect) {
      ++none;
    } else if (solved->verdict == Verdict::inconclusive) {
      ++undecided;
    } else {
      found->ratios.push_back(solved->ratio.median);
    }
  }
  if (kernels.empty()) return {};
  std::string text = "the solved order, in times the identity's: ";
  for (const Moved& one : kernels) {
    if (one.ratios.empty()) continue;
    const auto [least, most] = std::minmax_element(one.ratios.begin(), one.ratios.end());
    const std::string from = fmt::format("{:.3f}", *least);
    const std::string to = fmt::format("{:.3f}", *most);
    text += one.name + " " + from + (from == to ? "" : " to " + to);
    if (std::ssize(one.ratios) < one.cells) {
      text += fmt::format(" in {} of {}", one.ratios.size(), one.cells);
    }
    text += "; ";
  }
  text += fmt::format("no effect in {} cells", none);
  if (undecided > 0) text += fmt::format(", undecided in {}", undecided);
  return text;
}

}  // namespace

bool controls_hold(const BenchResult& result) {
  const Tally null = tally_of(result, BenchControl::null);
  const Tally positive = tally_of(result, BenchControl::positive);
  return null.holding + positive.holding > 0 && null.failing + positive.failing == 0;
}

std::vector<std::string> summary_of(const BenchResult& result) {
  const Tally null = tally_of(result, BenchControl::null);
  const Tally positive = tally_of(result, BenchControl::positive);
  std::vector<std::string> lines;
  if (null.cells > 0) {
    lines.push_back(fmt::format(
        "null controls: no effect of any order in {} of {}, {} undecided, {} moved; of {} of {} "
        "orders no effect (A/A {} to {}; the bar is that, and at least {})",
        null.holding, null.cells, null.undecided, null.failing, null.without_effect, null.orders,
        percent(null.least_noise), percent(null.most_noise), percent(kNoEffect)));
  }
  if (positive.cells > 0) {
    lines.push_back(
        fmt::format("positive controls: {} of {} as the model says, {} undecided, {} not",
                    positive.holding, positive.cells, positive.undecided, positive.failing));
  }
  if (null.skipped + positive.skipped > 0) {
    lines.push_back(fmt::format("skipped: {}", null.skipped + positive.skipped));
  }
  if (std::string line = solved_line(result); !line.empty()) lines.push_back(std::move(line));
  if (result.counter_source.empty()) {
    lines.push_back(result.counter_reason.empty() ? "counters: none" : result.counter_reason);
  }
  return lines;
}

std::string json_of(const BenchResult& result, const BenchRecord& record) {
  Json inputs = Json::array();
  for (const BenchRecord::Inputs& one : record.inputs) {
    inputs.push_back({{"model", one.model}, {"source", one.source}, {"sha256", one.digest}});
  }
  const BenchDevice& device = result.device;
  Json json = {
      {"schema", "icd.bench.kernels/1"},
      {"icd", version()},
      {"commit", or_null(record.commit)},
      {"command", record.command},
      {"seed", record.seed},
      {"rounds", record.rounds},
      {"margin", kNoEffect},
      {"device",
       {{"name", device.name},
        {"compute_capability", device.compute_capability},
        {"driver", or_null(device.driver)},
        {"multiprocessors", device.multiprocessors},
        {"memory_bytes", device.memory_bytes},
        {"l2_bytes", device.l2_bytes},
        {"clocks", device.monitor_reason.empty() ? Json("nvml") : Json(device.monitor_reason)},
        {"cycles", "estimated: latency times clock64 over globaltimer right behind the sample"}}},
      {"libraries", Json::object()},
      {"inputs", inputs},
      {"counters",
       {{"status", result.counter_source.empty() ? "unavailable" : "read"},
        {"source", or_null(result.counter_source)},
        {"library", or_null(result.counter_library)},
        {"reason", or_null(result.counter_reason)},
        {"metrics", metrics_of(result)}}},
      {"controls_hold", controls_hold(result)},
      {"summary", summary_of(result)}};
  for (const BenchLibrary& library : result.libraries) {
    json["libraries"][library.name] = library.version;
  }
  // cells last, and by hand: dump() has either everything in one line or a line for every sample
  std::string text = json.dump(2, ' ', false, Json::error_handler_t::replace);
  text.erase(text.find_last_not_of("}\n") + 1);
  text += ",\n  \"cells\": [";
  for (const BenchCell& cell : result.cells) {
    text += &cell == &result.cells.front() ? "\n    " : ",\n    ";
    text += to_json(cell).dump(-1, ' ', false, Json::error_handler_t::replace);
  }
  return text + "\n  ]\n}";
}

std::string markdown_of(const BenchResult& result, const BenchRecord& record) {
  const BenchDevice& device = result.device;
  std::string libraries;
  for (const BenchLibrary& one : result.libraries) libraries += ", " + one.name + " " + one.version;
  std::string text = fmt::format(
      "# Kernels and orders\n\n{}, compute capability {}, driver {}, {} multiprocessors, L2 {} "
      "MiB; icd {}{}{}\n\n    {}\n\n{} rounds, interleaved; ratios are medians of the rounds' "
      "ratios to the identity with a 95 % bootstrap interval. A/A is how far the interval of the "
      "identity against itself reaches.\nFaster and slower need the whole interval to be farther "
      "from 1 than the bar: A/A, but at least {}, the margin that was set before the first run. No "
      "effect is equivalence within that margin (two one-sided tests, p < 0.05); else an order is "
      "inconclusive. All orders and samples are in the JSON record.\n\n",
      device.name, device.compute_capability, device.driver.empty() ? "unknown" : device.driver,
      device.multiprocessors, device.l2_bytes >> 20, version(),
      record.commit.empty() ? "" : ", commit " + record.commit, libraries, record.command,
      record.rounds, percent(kNoEffect));
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
