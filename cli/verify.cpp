// icd verify ORIGINAL PERMUTED [--plan PLAN.json]
//
// With the plan, undoing it has to give back every byte; with and without, both models run on
// the same tokens. Exit status: 0 they are equivalent, 3 they are not.
#include "icd/verify.h"

#include <memory>

#include "commands.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions original;
  ModelOptions permuted;
  TokenOptions tokens;
  DeviceOptions device;
  std::string plan;
  bool in_double = false;
  bool json = false;
};

int run(const Options& options, Context& context) {
  std::optional<Plan> plan;
  if (!options.plan.empty()) plan = Plan::read(options.plan);
  const LayoutRequest request =
      plan ? request_of(*plan, options.original) : options.original.request();
  const LoadedModel original = load_model(options.original, request, context);
  ModelOptions other = options.permuted;
  other.config = options.original.config;
  const LoadedModel permuted = load_model(other, request, context);
  const Place place = options.device.place(original, 2);
  const VerifyReport report =
      verify(original.checkpoint, original.layout, permuted.checkpoint, permuted.layout,
             plan ? &*plan : nullptr,
             verify_options(options.tokens, original, place, options.in_double), context.terminal);
  if (options.json) {
    nlohmann::ordered_json json = {{"schema", "icd.verify/1"}};
    options.device.add_to(json, place);
    json.update(to_json(report));
    context.terminal.print_json(json);
  } else {
    options.device.print(place, context.terminal);
    print_report(report, context.terminal);
  }
  return report.equivalent() ? kDone : kAnswerIsNo;
}

}  // namespace

void add_verify(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("verify", "compare the outputs, and the bytes, of two checkpoints");
  command.add_option("ORIGINAL", options->original.model, "the checkpoint before")->required();
  command.add_option("PERMUTED", options->permuted.model, "the checkpoint after")->required();
  command.add_option("--plan", options->plan, "the plan that was applied: checks the bytes too")
      ->type_name("PLAN");
  options->original.add_layout_to(command);
  options->tokens.add_to(command);
  add_threads_option(command);
  options->device.add_to(command, "where to compute: auto, cpu, cuda or cuda:N; without it cpu");
  command.add_flag("--double", options->in_double, "compare in double precision too");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd verify experiments/models/mamba-novels-2m-hf OUT --plan OUT/plan.json");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
