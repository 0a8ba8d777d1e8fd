// icd graph --model X --group G --layers L -o FILE
//
// The graph that one group would be ordered on, for other programs; `--graph FILE` reads it back.
#include "icd/graph.h"

#include <memory>

#include "commands.h"
#include "icd/graph_file.h"
#include "pipeline.h"
#include "plan_options.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  GroupOptions groups;
  GraphOptions graph;
  TokenOptions tokens;
  std::string statistics;
  std::string output;
  bool json = false;
};

int run(const Options& options, Context& context) {
  const LoadedModel model = load_model(options.model, context);
  const auto groups =
      groups_of(model.layout, options.groups.kinds(model.layout), options.groups.layer_list());
  if (groups.size() != 1) {
    throw Error(ErrorCode::usage,
                fmt::format("--group, --layers: name {} groups, expected one", groups.size()),
                "for example --group inner --layers 3");
  }
  const EvidenceRequest request{.needs = {.graph = true},
                                .signal = options.graph.signal,
                                .graph = options.graph.request(),
                                .active_share = options.graph.active};
  std::shared_ptr<const Graph> graph;
  std::string words;
  with_evidence(
      model, model.layout, options.graph, options.tokens, options.statistics, context,
      [&](const EvidenceSource& source) {
        words = evidence_in_words(request, source);
        source.gather(
            groups, request,
            [&](const AxisGroup&, Evidence&& evidence) { graph = evidence.calibration.graph; },
            context.terminal);
      });
  write_graph(*graph, options.output);
  if (options.json) {
    context.terminal.print_json({{"schema", "icd.graph/1"},
                                 {"output", options.output},
                                 {"group", groups.front()->name},
                                 {"evidence", words},
                                 {"vertices", graph->size()},
                                 {"edges", graph->edges()}});
  } else {
    context.terminal.print("wrote {}: {} vertices, {} edges of {}: {}", options.output,
                           graph->size(), graph->edges(), groups.front()->name, words);
  }
  return kDone;
}

}  // namespace

void add_graph(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("graph", "write how alike the members of a group are, as a graph");
  options->model.add_to(command);
  options->groups.add_to(command);
  auto* statistics =
      command.add_option("--stats", options->statistics, "what `icd calibrate` wrote");
  statistics->type_name("STATS")->check(CLI::ExistingFile);
  options->graph.add_to(command);
  command.get_option("--data-free")->excludes(statistics);
  options->tokens.add_to(command);
  command
      .add_option("-o,--output", options->output,
                  "the file: .mtx (Matrix Market), .graph (METIS) or .safetensors")
      ->required()
      ->type_name("FILE");
  add_threads_option(command);
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer(
      "Example: icd graph --model experiments/models/mamba-novels-2m-hf --layers 0 -o "
      "/tmp/inner.mtx");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
