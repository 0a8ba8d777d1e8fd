// icd bench compare A.json B.json
#include <algorithm>
#include <memory>

#include "commands.h"
#include "icd/bench_statistics.h"
#include "icd/text_file.h"

namespace icd::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kMostBytes = std::int64_t{1} << 30;

struct Options {
  std::string before;
  std::string after;
  std::string order = "identity";
  bool json = false;
};

Json record_of(const std::string& file) {
  const Json record = Json::parse(read_text(file, kMostBytes), nullptr, false);
  const bool is_ours = record.is_object() && record.contains("schema") &&
                       record["schema"] == "icd.bench.kernels/1" && record.contains("cells") &&
                       record["cells"].is_array();
  if (!is_ours) {
    throw Error(ErrorCode::input,
                fmt::format("{}: is no record of `icd bench kernels --json`", file));
  }
  return record;
}

/// What has to agree for two cells to be the same measurement.
Json key_of(const Json& cell) {
  Json key = Json::object();
  for (const char* name : {"kernel", "layout", "model", "batch", "length", "cache"}) {
    key[name] = cell.at(name);
  }
  return key;
}

const Json* series_of(const Json& cell, const std::string& order) {
  if (!cell.contains("orders")) return nullptr;  // it was skipped
  for (const Json& series : cell.at("orders")) {
    if (series.at("order") == order) return &series;
  }
  return nullptr;
}

int run(const Options& options, Context& context) {
  const Json before = record_of(options.before);
  const Json after = record_of(options.after);
  Json found = Json::array();
  try {
    for (const Json& cell : before["cells"]) {
      const Json key = key_of(cell);
      const auto same = std::find_if(after["cells"].begin(), after["cells"].end(),
                                     [&](const Json& other) { return key_of(other) == key; });
      if (same == after["cells"].end()) continue;
      const Json* first = series_of(cell, options.order);
      const Json* second = series_of(*same, options.order);
      if (first == nullptr || second == nullptr) continue;
      const auto a = first->at("samples_us").get<std::vector<double>>();
      const auto b = second->at("samples_us").get<std::vector<double>>();
      const double bar =
          bar_of(std::max(cell.at("bar").get<double>(), same->at("bar").get<double>()));
      const PairedRatio ratio = ratio_of_runs(a, b);
      Json line = key;
      line["before_us"] = median(a);
      line["after_us"] = median(b);
      line["ratio"] = ratio.median;
      line["low"] = ratio.low;
      line["high"] = ratio.high;
      line["bar"] = bar;
      line["verdict"] = to_string(verdict_of(ratio, bar));
      found.push_back(line);
    }
  } catch (const nlohmann::json::exception& error) {
    throw Error(ErrorCode::input, fmt::format("{} or {}: is malformed: {}", options.before,
                                              options.after, error.what()));
  }
  if (found.empty()) {
    throw Error(ErrorCode::input,
                fmt::format("{} and {}: have no measurement of order '{}' in common",
                            options.before, options.after, options.order));
  }
  const auto device = [](const Json& record) {
    return record.contains("device") ? record["device"].value("name", "") : std::string();
  };
  if (device(before) != device(after)) {
    context.terminal.warn(
        fmt::format("different devices: {} and {}", device(before), device(after)));
  }
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.bench.compare/1"},
                                 {"before", options.before},
                                 {"after", options.after},
                                 {"order", options.order},
                                 {"cells", found}});
    return kDone;
  }
  int none = 0;
  for (const Json& line : found) {
    none += line["verdict"] == "no effect";
    context.terminal.print(
        "{:15} {:14} {}, B {}, L {}, {}: {:.2f} -> {:.2f} us, {:.3f} [{:.3f}, {:.3f}], {}",
        line["kernel"].get<std::string>(), line["layout"].get<std::string>(),
        line["model"].get<std::string>(), line["batch"].get<std::int64_t>(),
        line["length"].get<std::int64_t>(), line["cache"].get<std::string>(),
        line["before_us"].get<double>(), line["after_us"].get<double>(),
        line["ratio"].get<double>(), line["low"].get<double>(), line["high"].get<double>(),
        line["verdict"].get<std::string>());
  }
  context.terminal.print("order {}: no effect in {} of {}", options.order, none, found.size());
  return kDone;
}

}  // namespace

void add_bench_compare(CLI::App& bench, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *bench.add_subcommand("compare", "two records of `icd bench kernels --json`");
  command.add_option("before", options->before, "the record to compare with")
      ->type_name("A.json")
      ->required();
  command.add_option("after", options->after, "the record to compare")
      ->type_name("B.json")
      ->required();
  command.add_option("--order", options->order, "whose times are compared")
      ->type_name("NAME")
      ->capture_default_str();
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd bench compare before.json after.json");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
