// icd inspect X
#include <cmath>
#include <map>
#include <memory>

#include "commands.h"
#include "pipeline.h"

namespace icd::cli {
namespace {

struct Options {
  ModelOptions model;
  bool tensors = false;
  bool json = false;
};

/// log10 of n!, the number of orders of a group.
double log10_orders(Index n) { return std::lgamma(n + 1.0) / std::log(10.0); }

void print_tensors(const Checkpoint& checkpoint, Terminal& terminal) {
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    terminal.print("  {:52} {:6} {:20} {:>10}{}", tensor.name, tensor.dtype_text,
                   shape_text(tensor.shape), bytes_text(tensor.span_bytes),
                   checkpoint.files().size() > 1
                       ? "  " + checkpoint.files()[static_cast<std::size_t>(tensor.file)]->name
                       : "");
  }
}

nlohmann::ordered_json tensors_json(const Checkpoint& checkpoint) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    json.push_back({{"name", tensor.name},
                    {"dtype", tensor.dtype_text},
                    {"shape", tensor.shape},
                    {"file", checkpoint.files()[static_cast<std::size_t>(tensor.file)]->name},
                    {"begin", tensor.begin},
                    {"bytes", tensor.span_bytes}});
  }
  return json;
}

std::string ties_of(const LoadedModel& model) {
  if (!model.spec.tied_head) return "the head is its own";
  return model.checkpoint.find(model.spec.head()) == nullptr
             ? "the head is the embedding, stored once"
             : "the head is the embedding, stored under both names";
}

int run(const Options& options, Context& context) {
  Terminal& terminal = context.terminal;
  if (options.tensors && !options.json) {  // also of what is no model that icd knows
    const auto resolved = resolve_model(
        options.model.model, +[](const char* name) -> const char* { return std::getenv(name); });
    print_tensors(Checkpoint::open(resolved.path), terminal);
  }
  const LoadedModel model = load_model(options.model, context);
  const ModelSpec& spec = model.spec;
  if (options.json) {
    nlohmann::ordered_json groups = nlohmann::ordered_json::array();
    for (const AxisGroup& group : model.layout.groups) {
      nlohmann::ordered_json segments = nlohmann::ordered_json::array();
      for (const AxisSegment& segment : group.segments) {
        segments.push_back({{"tensor", segment.tensor},
                            {"axis", segment.dim},
                            {"offset", segment.offset},
                            {"block", segment.block}});
      }
      groups.push_back({{"name", group.name},
                        {"kind", group.kind},
                        {"size", group.size},
                        {"log10_orders", log10_orders(group.size)},
                        {"segments", std::move(segments)}});
    }
    terminal.print_json({{"schema", "icd.inspect/1"},
                         {"model", model.resolved.path.string()},
                         {"architecture", spec.architecture},
                         {"dialect", spec.dialect},
                         {"container", container_name(model.checkpoint.container())},
                         {"n_layer", spec.n_layer},
                         {"dimensions", spec.dimensions()},
                         {"tied_head", spec.tied_head},
                         {"structure", model.checkpoint.structure_digest()},
                         {"groups", std::move(groups)},
                         {"not_in_table", model.layout.strangers},
                         {"tensors", tensors_json(model.checkpoint)}});
    return kDone;
  }
  terminal.print("{}: {}", model.resolved.path.string(), in_words(model));
  terminal.print("vocabulary {}, d_conv {}, dt_rank {}; {}; {} norm", spec.vocab, spec.d_conv,
                 spec.dt_rank, ties_of(model), spec.norm == ModelSpec::Norm::rms ? "RMS" : "layer");
  terminal.print("{:10} {:>7} {:>7} {:>14}  {}", "group", "groups", "size", "orders each",
                 "follows");
  for (const std::string& kind : model.layout.kinds()) {
    int count = 0;
    const AxisGroup* first = nullptr;
    for (const AxisGroup& group : model.layout.groups) {
      if (group.kind != kind) continue;
      if (first == nullptr) first = &group;
      ++count;
    }
    terminal.print("{:10} {:>7} {:>7} {:>14}  {} stretches of {} tensor axes", kind, count,
                   first->size, fmt::format("10^{:.0f}", log10_orders(first->size)),
                   first->segments.size(), [&] {
                     std::map<std::pair<std::string, int>, int> axes;
                     for (const AxisSegment& segment : first->segments)
                       ++axes[{segment.tensor, segment.dim}];
                     return axes.size();
                   }());
  }
  return kDone;
}

}  // namespace

void add_inspect(CLI::App& app, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App& command =
      *app.add_subcommand("inspect", "what a checkpoint is, and which of its axes are free");
  command
      .add_option("X", options->model.model,
                  "a folder, a weight file, or a name in the Hugging Face cache")
      ->required();
  command
      .add_option("--config", options->model.config, "a config.json that is not beside the weights")
      ->type_name("FILE");
  command.add_flag("--tensors", options->tensors, "list every tensor");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd inspect experiments/models/mamba-novels-2m-hf");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
