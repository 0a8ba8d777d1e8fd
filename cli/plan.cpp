// icd plan merge A.json B.json ... -o PLAN.json
#include "icd/plan.h"

#include <memory>

#include "commands.h"
#include "icd/output_folder.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

struct Options {
  std::vector<std::string> parts;
  std::string output;
  bool json = false;
};

int run(const Options& options, Context& context) {
  std::vector<std::pair<std::string, Plan>> parts;
  for (const std::string& file : options.parts) parts.emplace_back(file, Plan::read(file));
  const Plan plan = merged(parts);
  write_atomically(options.output, plan.text());
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.plan_merge/1"},
                                 {"output", options.output},
                                 {"plans", parts.size()},
                                 {"groups", plan.groups.size()},
                                 {"scores", to_json(plan.scores)}});
  } else {
    context.terminal.print("wrote {}: {} orders of {} plans", options.output, plan.groups.size(),
                           parts.size());
  }
  return kDone;
}

}  // namespace

void add_plan(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand("plan", "join plans that were solved apart");
  command.require_subcommand(1);
  CLI::App& merge = *command.add_subcommand("merge", "one plan of several for the same model");
  merge.add_option("plans", options->parts, "plans, as of `icd solve --layers`")
      ->required()
      ->type_name("PLAN")
      ->check(CLI::ExistingFile);
  merge.add_option("-o,--output", options->output, "the plan to write")
      ->required()
      ->type_name("PLAN");
  merge.add_flag("--json", options->json, "one JSON object on standard output");
  merge.footer("Example: icd plan merge first.json second.json -o plan.json");
  merge.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
