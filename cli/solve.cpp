// icd solve --model X -o PLAN.json
// icd solve --list
#include <memory>

#include "commands.h"
#include "icd/digest.h"
#include "icd/output_folder.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  TokenOptions tokens;
  PlanOptions plan;
  std::string statistics;
  std::string output;
  bool list = false;
  bool no_digests = false;
  bool json = false;
};

int list(const Options& options, Terminal& terminal) {
  if (options.json) {
    nlohmann::ordered_json json = {
        {"schema", "icd.solvers/1"}, {"solvers", {}}, {"objectives", {}}};
    for (const Solver& solver : all_solvers()) {
      json["solvers"].push_back({{"name", solver.name}, {"summary", solver.summary}});
    }
    for (const Objective& objective : all_objectives()) {
      json["objectives"].push_back({{"name", objective.name}, {"summary", objective.summary}});
    }
    terminal.print_json(json);
    return kDone;
  }
  terminal.print("solvers");
  for (const Solver& solver : all_solvers())
    terminal.print("  {:12} {}", solver.name, solver.summary);
  terminal.print("objectives");
  for (const Objective& objective : all_objectives()) {
    terminal.print("  {:12} {}", objective.name, objective.summary);
  }
  return kDone;
}

int run(const Options& options, Context& context) {
  if (options.list) return list(options, context.terminal);
  constexpr const char* kHint = "`icd solve --help`";
  if (options.model.model.empty()) throw Error(ErrorCode::usage, "--model is required", kHint);
  if (options.output.empty()) throw Error(ErrorCode::usage, "--output is required", kHint);
  const LoadedModel model = load_model(options.model, context);
  Plan plan = plan_for(model, options.plan, options.tokens, options.statistics, context);
  if (!options.no_digests) {
    context.terminal.start("hashing", static_cast<std::int64_t>(model.checkpoint.files().size()),
                           "files");
    for (const auto& file : model.checkpoint.files()) {
      plan.sources.push_back({file->name, file->bytes, sha256_of_file(file->path)});
      context.terminal.advance(1, file->name);
    }
  }
  write_atomically(options.output, plan.text());
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.solve/1"},
                                 {"output", options.output},
                                 {"solver", plan.solver},
                                 {"objective", plan.objective},
                                 {"options", plan.options},
                                 {"evidence", plan.evidence},
                                 {"seed", plan.seed},
                                 {"scores", to_json(plan.scores)}});
  } else {
    print_scores(plan, context.terminal);
    context.terminal.print("wrote {}: {} orders by {} on {}", options.output, plan.groups.size(),
                           plan.solver, plan.evidence);
  }
  return kDone;
}

}  // namespace

void add_solve(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand("solve", "find orders, write them as a plan");
  options->model.add_to(command);
  command.get_option("--model")->required(false);  // --list needs none
  auto* statistics =
      command.add_option("--stats", options->statistics, "what `icd calibrate` wrote");
  statistics->type_name("STATS")->check(CLI::ExistingFile);
  options->plan.add_to(command);
  command.get_option("--data-free")->excludes(statistics);
  options->tokens.add_to(command);
  command.add_option("-o,--output", options->output, "the plan to write")->type_name("PLAN");
  add_threads_option(command);
  command.add_flag("--no-digests", options->no_digests,
                   "do not tie the plan to the weights' SHA-256");
  command.add_flag("--list", options->list, "the solvers and objectives");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd solve --model experiments/models/mamba-novels-2m-hf --data-free -o "
      "/tmp/plan.json");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
