// icd calibrate --model X -o STATS.safetensors
#include <memory>

#include "commands.h"
#include "icd/calibration.h"
#include "icd/digest.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  TokenOptions tokens;
  GroupOptions groups;
  DeviceOptions device;
  double active = 0;
  std::string output;
  bool dry_run = false;
  bool json = false;
};

int run(const Options& options, Context& context) {
  const LoadedModel model = load_model(options.model, context);
  if (!can_calibrate(model.layout)) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {}: expected a language model that icd can run, of blocks "
                            "that show their activations",
                            model.layout.name),
                "`icd solve --data-free` orders by weights");
  }
  const Place place = options.device.place(model, 1);
  const TokenSource source = token_source(options.tokens, model);
  if (!source.is_language) {
    throw Error(ErrorCode::input,
                fmt::format("{}: has no tokenizer.json", model.checkpoint.folder().string()),
                "--tokens FILE gives ids, --tokenizer FILE a tokenizer");
  }
  const TokenSplit split =
      split_tokens(source.ids, options.tokens.length, options.tokens.limit, options.tokens.heldout);
  CalibrationOptions calibration;
  if (!options.groups.takes_all()) calibration.kinds = options.groups.groups;
  if (!options.groups.layers.empty()) {
    for (const AxisGroup* group :
         groups_of(model.layout, model.layout.kinds(), options.groups.layer_list())) {
      calibration.groups.push_back(group->name);
    }
  }
  if (options.active > 0) {
    calibration.activity = true;
    calibration.active_share = options.active;
  }
  const auto entries = statistics_entries(model.layout, calibration);

  std::int64_t bytes = 0;
  for (const StatisticsEntry& entry : entries) bytes += 8 * std::int64_t{entry.size} * entry.size;
  if (!options.dry_run) {
    const auto ids =
        std::as_bytes(std::span(source.ids).first(split.train.size() + split.heldout.size()));
    StatisticsWriter writer(
        options.output,
        {.structure = model.checkpoint.structure_digest(),
         .source = fmt::format("{} tokens of {}", split.train_shape.rows(), source.words),
         .tokens_digest = sha256_of(ids)},
        entries);
    const auto runner = model_at(place, model.checkpoint, model.layout);
    calibrate(
        *runner, model.layout, split, calibration,
        [&](GroupStatistics&& statistics) { writer.add(statistics); }, context.terminal);
    writer.finish();
  }
  if (options.json) {
    nlohmann::ordered_json json = {{"schema", "icd.calibrate/1"},
                                   {"output", options.output},
                                   {"dry_run", options.dry_run},
                                   {"statistics", entries.size()},
                                   {"train_tokens", split.train_shape.rows()},
                                   {"heldout_tokens", split.heldout_shape.rows()},
                                   {"source", source.words}};
    if (!options.dry_run) options.device.add_to(json, place);
    context.terminal.print_json(json);
  } else {
    if (!options.dry_run) options.device.print(place, context.terminal);
    context.terminal.print(
        "{} {}: {} statistics of {} (about {}), {} tokens to solve on, {} held out",
        options.dry_run ? "would write" : "wrote", options.output, entries.size(), source.words,
        bytes_text(bytes), split.train_shape.rows(), split.heldout_shape.rows());
  }
  return kDone;
}

}  // namespace

void add_calibrate(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("calibrate", "run a model on tokens, keep how its channels correlate");
  options->model.add_to(command);
  options->tokens.add_to(command);
  options->groups.add_to(command);
  command.get_option("--group")->description("kinds of groups, with commas; else all");
  command
      .add_option("--active", options->active,
                  "keep who is active too: the share of a token's channels that counts")
      ->type_name("X")
      ->check(CLI::Range(1e-6, 1.0).description(""));
  command.add_option("-o,--output", options->output, "the statistics file to write")
      ->required()
      ->type_name("STATS");
  add_threads_option(command);
  options->device.add_to(command, "where to compute: auto, cpu, cuda or cuda:N; without it cpu");
  command.add_flag("--dry-run", options->dry_run, "say what would be written; write nothing");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd calibrate --model experiments/models/mamba-novels-2m-hf -o "
      "/tmp/stats.safetensors");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
