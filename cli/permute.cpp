// icd permute --model X [-o OUT]
//
// The main job: orders the groups asked for, rewrites the checkpoint, proves that it computes
// the same. OUT appears when all of that has succeeded.
#include <memory>

#include "commands.h"
#include "icd/digest.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  OutputOptions output;
  PlanOptions plan;
  TokenOptions tokens;
  DeviceOptions device;
  bool no_verify = false;
  bool in_double = false;
  bool dry_run = false;
  bool json = false;
};

nlohmann::ordered_json summary(const Options& options, const LoadedModel& model, const Plan& plan) {
  return {{"schema", "icd.permute/1"},
          {"model", model.resolved.path.string()},
          {"architecture", plan.architecture},
          {"dialect", model.spec.dialect},
          {"solver", plan.solver},
          {"objective", plan.objective},
          {"options", plan.options},
          {"evidence", plan.evidence},
          {"seed", plan.seed},
          {"dry_run", options.dry_run},
          {"groups", plan.groups.size()},
          {"scores", to_json(plan.scores)}};
}

int run(const Options& options, Context& context) {
  Terminal& terminal = context.terminal;
  const LoadedModel model = load_model(options.model, context);
  const std::filesystem::path target = options.output.output.empty()
                                           ? default_output(model.resolved)
                                           : std::filesystem::path(options.output.output);

  // Refused before the work, not after it.
  std::optional<OutputFolder> folder;
  if (!options.dry_run) {
    folder.emplace(
        target,
        options.output.force ? OutputFolder::Existing::replace : OutputFolder::Existing::refuse,
        std::vector{input_of(model)});
    check_room(model, *folder);
  }

  const Place place = options.device.place(model, 2);
  Plan plan = plan_for(model, options.plan, options.tokens, "", context);
  const TensorMoves moves = expand(model.checkpoint, model.layout, plan.groups);
  if (!options.json) {
    terminal.print("{}: {}", model.resolved.path.string(), in_words(model));
    terminal.print("{} orders by {} on {}, seed {}", plan.groups.size(), plan.solver, plan.evidence,
                   plan.seed);
    print_scores(plan, terminal);
  }
  auto json = summary(options, model, plan);
  if (options.dry_run) {
    if (options.json) {
      terminal.print_json(json);
    } else {
      for (const auto& file : model.checkpoint.files()) {
        terminal.print("would write {} ({})", (target / file->name).string(),
                       bytes_text(file->bytes));
      }
      terminal.print("{} of {} tensors would move", moves.size(),
                     model.checkpoint.tensors().size());
    }
    return kDone;
  }

  std::vector<FileDigest> others;
  const RewriteReport rewritten =
      write_model(model, moves, *folder, options.output, others, context);
  plan.sources = rewritten.inputs;
  const std::string plan_text = plan.text();
  folder->write("plan.json", plan_text);
  others.push_back(
      {"plan.json", static_cast<std::int64_t>(plan_text.size()), sha256_of_text(plan_text)});

  nlohmann::ordered_json verification = "skipped";
  if (!options.no_verify) {
    const Checkpoint written = Checkpoint::open(folder->staging());
    const VerifyReport report =
        verify(model.checkpoint, model.layout, written, layout_of(written, options.model.request()),
               &plan, verify_options(options.tokens, model, place, options.in_double), terminal);
    verification = to_json(report);
    options.device.add_to(verification, place);
    if (!options.json) {
      options.device.print(place, terminal);
      print_report(report, terminal);
    }
    if (!report.equivalent()) {
      json["verification"] = verification;
      if (options.json) terminal.print_json(json);
      terminal.warn("nothing was written: the result is not equivalent");
      return kAnswerIsNo;
    }
  }
  folder->write("icd.json",
                record_text(model, context, plan.seed, rewritten, others, verification));
  folder->publish();

  if (options.json) {
    json["output"] = folder->target().string();
    json["moved_tensors"] = rewritten.moved_tensors;
    json["moved_bytes"] = rewritten.moved_bytes;
    json["files"] = to_json(rewritten.outputs);
    json["verification"] = verification;
    terminal.print_json(json);
  } else {
    terminal.print("wrote {}: {} of {} tensors ({}) re-ordered", target.string(),
                   rewritten.moved_tensors, rewritten.tensors, bytes_text(rewritten.moved_bytes));
    terminal.print(
        "an order serves what comes after (sparsity, quantisation groups, slices): a dense scan "
        "runs equally fast in any");
  }
  return kDone;
}

}  // namespace

void add_permute(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("permute", "re-order a checkpoint, prove that it computes the same");
  options->model.add_to(command);
  options->output.add_to(command, "the folder to write; without it NAME-icd, here");
  options->plan.add_to(command);
  options->tokens.add_to(command);
  add_threads_option(command);
  options->device.add_to(command, "where to verify: auto, cpu, cuda or cuda:N; without it cpu");
  command.add_flag("--no-verify", options->no_verify, "do not compare the models' outputs");
  command.add_flag("--double", options->in_double, "compare in double precision too");
  command.add_flag("--dry-run", options->dry_run,
                   "solve and say what would be written; write nothing");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd permute --model experiments/models/mamba-novels-2m-hf -o /tmp/permuted");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
