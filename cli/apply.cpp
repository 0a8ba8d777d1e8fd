// icd apply --model X --plan PLAN.json -o OUT [--inverse]
//
// Re-orders by a plan that exists, or undoes one. Either way the weights have to be those
// of the plan: their checksums before, or, when undoing, after.
#include <memory>

#include "commands.h"
#include "icd/digest.h"
#include "icd/text_file.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  OutputOptions output;
  std::string plan;
  bool inverse = false;
  bool any_weights = false;
  bool dry_run = false;
  bool json = false;
};

/// Throws Error{input} if a file that plan and `files` both name is not the same.
void check_digests(const Plan& plan, const std::vector<FileDigest>& files, bool inverse) {
  for (const FileDigest& source : plan.sources) {
    for (const FileDigest& file : files) {
      if (file.name != source.name || file.sha256.empty() || source.sha256.empty()) continue;
      if (file.sha256 == source.sha256) continue;
      throw Error(
          ErrorCode::input,
          inverse
              ? fmt::format("{}: undoing the plan gives SHA-256 {:.16}..., expected the original's "
                            "{:.16}...",
                            file.name, file.sha256, source.sha256)
              : fmt::format("{}: SHA-256 is {:.16}..., the plan was made for {:.16}...", file.name,
                            file.sha256, source.sha256),
          "--any-weights takes a plan that was made for other weights of these shapes");
    }
  }
}

int run(const Options& options, Context& context) {
  const Plan plan = Plan::read(options.plan);
  const LoadedModel model = load_model(options.model, request_of(plan, options.model), context);
  check_plan(plan, model.checkpoint, model.layout);
  if (plan.sources.empty() && !options.any_weights) {
    context.terminal.warn("the plan has no checksums: it may have been made for other weights");
  }
  TensorMoves moves = expand(model.checkpoint, model.layout, plan.groups);
  if (options.inverse) moves = inverse(moves);
  if (options.dry_run) {
    context.terminal.print("would write {}: {} of {} tensors move", options.output.output,
                           moves.size(), model.checkpoint.tensors().size());
    return kDone;
  }
  OutputFolder folder(
      options.output.output,
      options.output.force ? OutputFolder::Existing::replace : OutputFolder::Existing::refuse,
      {input_of(model)});
  check_room(model, folder);
  std::vector<FileDigest> others;
  const RewriteReport rewritten =
      write_model(model, moves, folder, options.output, others, context);
  if (!options.any_weights) {
    check_digests(plan, options.inverse ? rewritten.outputs : rewritten.inputs, options.inverse);
  }
  if (!options.inverse) {
    const std::string text = read_text(options.plan, std::int64_t{1} << 30);
    folder.write("plan.json", text);
    others.push_back({"plan.json", static_cast<std::int64_t>(text.size()), sha256_of_text(text)});
  }
  folder.write("icd.json", record_text(model, context, {}, rewritten, others, "not asked for"));
  folder.publish();
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.apply/1"},
                                 {"output", folder.target().string()},
                                 {"inverse", options.inverse},
                                 {"moved_tensors", rewritten.moved_tensors},
                                 {"moved_bytes", rewritten.moved_bytes},
                                 {"files", to_json(rewritten.outputs)}});
  } else {
    context.terminal.print("wrote {}: {} of {} tensors ({}) {}", options.output.output,
                           rewritten.moved_tensors, rewritten.tensors,
                           bytes_text(rewritten.moved_bytes),
                           options.inverse ? "put back" : "re-ordered");
  }
  return kDone;
}

}  // namespace

void add_apply(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command = *app.add_subcommand("apply", "re-order a checkpoint by a plan, or undo one");
  options->model.add_to(command);
  command.add_option("--plan", options->plan, "what `icd solve` or `icd permute` wrote")
      ->required()
      ->type_name("PLAN");
  options->output.add_to(command, "the folder to write");
  command.get_option("--output")->required();
  command.add_flag("--inverse", options->inverse, "undo the plan: restores the original bytes");
  command.add_flag("--any-weights", options->any_weights,
                   "take weights the plan was not made for, of its shapes");
  command.add_flag("--dry-run", options->dry_run,
                   "check and say what would be written; write nothing");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd apply --model OUT --plan OUT/plan.json --inverse -o BACK");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
