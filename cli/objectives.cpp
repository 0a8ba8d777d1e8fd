// icd objectives
#include <fmt/ranges.h>

#include <memory>

#include "commands.h"
#include "icd/objective.h"
#include "icd/quantise.h"

namespace icd::cli {
namespace {

std::string in_words(const Needs& needs) {
  std::vector<std::string_view> words;
  if (needs.graph) words.push_back("a graph");
  if (needs.readers) words.push_back("the matrices that read the axis");
  if (needs.inputs) words.push_back("their inputs where known");
  if (needs.signal || needs.decay || needs.activity) words.push_back("activations");
  return fmt::format("{}", fmt::join(words, ", "));
}

std::string_view in_words(Direction direction) {
  return direction == Direction::higher ? "higher is better" : "lower is better";
}

int run(bool as_json, Terminal& terminal) {
  if (as_json) {
    nlohmann::ordered_json json = {
        {"schema", "icd.objectives/1"}, {"objectives", {}}, {"formats", {}}};
    for (const Objective& each : all_objectives()) {
      json["objectives"].push_back(
          {{"name", each.name},
           {"summary", each.summary},
           {"direction", each.direction == Direction::higher ? "higher" : "lower"},
           {"unit", each.unit},
           {"reads", in_words(each.needs)},
           {"needs_activations", each.needs.activations()},
           {"block", each.block},
           {"solver", each.solver},
           {"source", each.source},
           {"alters_result", each.alters_result},
           {"buys", each.buys}});
    }
    for (const GroupFormat& format : all_group_formats()) {
      json["formats"].push_back({{"name", format.name},
                                 {"summary", format.summary},
                                 {"group", format.group},
                                 {"group_is_fixed", format.is_fixed},
                                 {"bits", format.bits(format.group)},
                                 {"source", format.source}});
    }
    terminal.print_json(json);
    return kDone;
  }
  for (const Objective& each : all_objectives()) {
    terminal.print("{}: {}", each.name, each.summary);
    terminal.print("  score   {}; {}", each.unit, in_words(each.direction));
    terminal.print("  reads   {}", in_words(each.needs));
    if (each.block > 0) terminal.print("  blocks  of {}, or --block", each.block);
    terminal.print("  solver  {}", each.solver);
    terminal.print("  buys    {}", each.buys);
    terminal.print("  source  {}", each.source);
  }
  terminal.print("formats of quant (--quant-format)");
  for (const GroupFormat& format : all_group_formats()) {
    terminal.print("  {:10} {}; {:.2f} bits a weight, {} a scale{}", format.name, format.summary,
                   format.bits(format.group), format.group,
                   format.is_fixed ? "" : ", or --group-size");
  }
  return kDone;
}

}  // namespace

void add_objectives(CLI::App& app, Action& action) {
  auto as_json = std::make_shared<bool>(false);
  CLI::App& command = *app.add_subcommand(
      "objectives", "what an order can be worth: scores, units, sources, what each buys");
  command.add_flag("--json", *as_json, "one JSON object on standard output");
  command.footer("Example: icd objectives");
  command.callback([as_json, &action] {
    action = [as_json](Context& context) { return run(*as_json, context.terminal); };
  });
}

}  // namespace icd::cli
