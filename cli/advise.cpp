// icd advise --model X
#include <memory>

#include "commands.h"
#include "icd/advice.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  GroupOptions groups;
  ObjectiveChoice choice;
  GraphOptions graph;
  TokenOptions tokens;
  std::vector<std::string> objectives = {"all"};
  std::string statistics;
  std::uint64_t seed = 0;
  bool json = false;
};

std::vector<Aim> aims_of(const Options& options) {
  std::vector<Aim> aims;
  const auto add = [&](const Objective& objective) {
    aims.push_back({&objective, find_solver(objective.solver)});
  };
  for (const std::string& name : options.objectives) {
    if (name == "all") {
      for (const Objective& each : all_objectives()) add(each);
      continue;
    }
    ObjectiveChoice choice;
    choice.objective = name;
    add(choice.chosen());
  }
  return aims;
}

nlohmann::ordered_json to_json(const MeanScore& score) {
  nlohmann::ordered_json json = {{"calibration", score.calibration}};
  if (score.heldout) json["heldout"] = *score.heldout;
  return json;
}

nlohmann::ordered_json to_json(const std::vector<Assessment>& table) {
  constexpr const char* kWorth[] = {"nothing", "little", "yes"};
  nlohmann::ordered_json rows = nlohmann::ordered_json::array();
  for (const Assessment& row : table) {
    nlohmann::ordered_json json = {{"objective", row.objective->name}, {"kind", row.kind}};
    if (row.why_not.empty()) {
      json["groups"] = row.groups;
      json["present"] = to_json(row.present);
      json["random"] = to_json(row.random);
      json["solved"] = to_json(row.solved);
      json["gap_closed"] = row.gap_closed();
      json["worth"] = kWorth[static_cast<int>(worth(row))];
    }
    json["words"] = in_words(row);
    rows.push_back(std::move(json));
  }
  return rows;
}

void print(const std::vector<Assessment>& table, Terminal& terminal) {
  terminal.print("{:12} {:10} {:>7} {:>9} {:>9} {:>9}  {}", "objective", "kind", "groups",
                 "present", "random", "solved", "worth it?");
  for (const Assessment& row : table) {
    const std::string_view name = row.objective->name;
    if (row.why_not.empty()) {
      terminal.print("{:12} {:10} {:7} {:9.4f} {:9.4f} {:9.4f}  {}", name, row.kind, row.groups,
                     row.present.told(), row.random.told(), row.solved.told(), in_words(row));
    } else {
      terminal.print("{:12} {:10} {:>37}  {}", name, row.kind, "", in_words(row));
    }
  }
  const Objective* last = nullptr;
  for (const Assessment& row : table) {
    if (worth(row) == Worth::nothing || row.objective == last) continue;
    last = row.objective;
    terminal.print("{} buys {}", last->name, last->buys);
  }
}

int run(const Options& options, Context& context) {
  Terminal& terminal = context.terminal;
  const LoadedModel model = load_model(options.model, context);
  AdviceRequest request{.kinds = options.groups.kinds(model.layout),
                        .layers = options.groups.layer_list(),
                        .aims = aims_of(options),
                        .options = {},
                        .seed = options.seed,
                        .signal = options.graph.signal,
                        .graph = options.graph.request(),
                        .active_share = options.graph.active};
  request.options = options.choice.options(*request.aims.front().objective, model);
  if (options.choice.block == 0 && options.choice.line_bytes == 0) request.options.block = 0;
  std::vector<Assessment> table;
  std::string words;
  with_evidence(model, model.layout, options.graph, options.tokens, options.statistics, context,
                [&](const EvidenceSource& source) {
                  words = source.words;
                  table = advise(model.checkpoint, model.layout, request, source, terminal);
                });
  if (options.json) {
    terminal.print_json({{"schema", "icd.advise/1"},
                         {"model", model.resolved.path.string()},
                         {"measured_on", words.empty() ? "weights alone" : words},
                         {"seed", options.seed},
                         {"dense_kernel", "nothing"},
                         {"assessments", to_json(table)}});
    return kDone;
  }
  terminal.print("{}: {}", model.resolved.path.string(), in_words(model));
  terminal.print(
      "scores {}, averaged over groups; random is the mean of four shuffles",
      words.empty() ? "on weights alone" : fmt::format("on held-out tokens, solved on {}", words));
  print(table, terminal);
  terminal.print(
      "for a dense kernel: no. Its addresses do not depend on the order; on an H200 identity and "
      "random order take the same time");
  return kDone;
}

}  // namespace

void add_advise(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("advise", "is re-ordering worth it for this checkpoint, and for what?");
  options->model.add_to(command);
  command.add_option("--objective", options->objectives, "objectives, with commas, or all")
      ->delimiter(',')
      ->type_name("O")
      ->capture_default_str();
  options->groups.add_to(command);
  options->choice.add_details_to(command);
  auto* statistics =
      command.add_option("--stats", options->statistics, "what `icd calibrate` wrote");
  statistics->type_name("STATS")->check(CLI::ExistingFile);
  options->graph.add_to(command);
  command.get_option("--data-free")->excludes(statistics);
  options->tokens.add_to(command);
  command.add_option("--seed", options->seed, "the only source of randomness")
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{0}, static_cast<std::uint64_t>(INT64_MAX)).description(""))
      ->capture_default_str();
  add_threads_option(command);
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd advise --model experiments/models/mamba-novels-2m-hf");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
