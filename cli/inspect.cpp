// icd inspect X
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include "commands.h"
#include "icd/kernel_rules.h"
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
  if (model.spec.vocab == 0) return "no head";
  if (!model.spec.tied_head) return "the head is its own";
  return model.checkpoint.find(model.spec.head()) == nullptr
             ? "the head is the embedding, stored once"
             : "the head is the embedding, stored under both names";
}

nlohmann::ordered_json groups_json(const Layout& layout) {
  nlohmann::ordered_json groups = nlohmann::ordered_json::array();
  for (const AxisGroup& group : layout.groups) {
    nlohmann::ordered_json segments = nlohmann::ordered_json::array();
    for (const AxisSegment& segment : group.segments) {
      nlohmann::ordered_json row = {{"tensor", segment.tensor},
                                    {"axis", segment.dim},
                                    {"offset", segment.offset},
                                    {"stride", segment.stride},
                                    {"block", segment.block}};
      for (const AxisSlice& slice : segment.within) {
        row["within"].push_back(
            {{"axis", slice.dim}, {"begin", slice.begin}, {"count", slice.count}});
      }
      segments.push_back(std::move(row));
    }
    groups.push_back({{"name", group.name},
                      {"kind", group.kind},
                      {"size", group.size},
                      {"log10_orders", log10_orders(group.size)},
                      {"segments", std::move(segments)}});
  }
  return groups;
}

nlohmann::ordered_json blocks_json(const Layout& layout) {
  nlohmann::ordered_json blocks = nlohmann::ordered_json::array();
  for (const Block& block : layout.blocks) {
    nlohmann::ordered_json rules = nlohmann::ordered_json::array();
    for (const KernelRule& rule : kernel_rules(block)) {
      rules.push_back({{"id", rule.id},
                       {"requirement", rule.requirement},
                       {"holds", rule.holds},
                       {"where", rule.where},
                       {"message", rule.message},
                       {"source", rule.source},
                       {"remedy", rule.remedy}});
    }
    blocks.push_back({{"type", block.type},
                      {"prefix", block.prefix},
                      {"sizes", block.sizes},
                      {"kernel_rules", std::move(rules)}});
  }
  return blocks;
}

void print_groups(const Layout& layout, Terminal& terminal) {
  terminal.print("{:14} {:>7} {:>7} {:>14}  {}", "group", "groups", "size", "orders each",
                 "follows");
  for (const std::string& kind : layout.kinds()) {
    int count = 0;
    const AxisGroup* first = nullptr;
    for (const AxisGroup& group : layout.groups) {
      if (group.kind != kind) continue;
      if (first == nullptr) first = &group;
      ++count;
    }
    std::map<std::pair<std::string, int>, int> axes;
    for (const AxisSegment& segment : first->segments) ++axes[{segment.tensor, segment.dim}];
    terminal.print("{:14} {:>7} {:>7} {:>14}  {} stretches of {} tensor axes", kind, count,
                   first->size, fmt::format("10^{:.0f}", log10_orders(first->size)),
                   first->segments.size(), axes.size());
  }
}

/// Blocks of one type and one set of sizes are told of once.
void print_blocks(const Layout& layout, Terminal& terminal) {
  std::vector<std::pair<const Block*, int>> kinds;
  for (const Block& block : layout.blocks) {
    const auto known = std::find_if(kinds.begin(), kinds.end(), [&](const auto& kind) {
      return kind.first->type == block.type && kind.first->sizes == block.sizes;
    });
    if (known == kinds.end()) {
      kinds.emplace_back(&block, 1);
    } else {
      ++known->second;
    }
  }
  for (const auto& [block, count] : kinds) {
    std::vector<std::string> sizes;
    for (const auto& [name, size] : block->sizes) sizes.push_back(fmt::format("{} {}", name, size));
    terminal.print("{} x {} ('{}'...): {}", count, block->type, block->prefix,
                   fmt::join(sizes, ", "));
    for (const KernelRule& rule : kernel_rules(*block)) {
      terminal.print("  {} {}: {}", rule.holds ? "holds " : "BROKEN", rule.id, rule.requirement);
      if (rule.holds) continue;
      if (!rule.where.empty()) terminal.print("         where: {}", rule.where);
      if (!rule.message.empty()) {
        std::string line = rule.message;
        std::replace(line.begin(), line.end(), '\n', ' ');
        terminal.print("         users meet: {}", line);
      }
      if (!rule.remedy.empty()) terminal.print("         remedy: {}", rule.remedy);
    }
  }
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
    terminal.print_json({{"schema", "icd.inspect/1"},
                         {"model", model.resolved.path.string()},
                         {"architecture", spec.architecture},
                         {"dialect", spec.dialect},
                         {"container", container_name(model.checkpoint.container())},
                         {"n_layer", spec.n_layer},
                         {"dimensions", spec.dimensions()},
                         {"tied_head", spec.tied_head},
                         {"settings", model.layout.settings},
                         {"structure", model.checkpoint.structure_digest()},
                         {"groups", groups_json(model.layout)},
                         {"blocks", blocks_json(model.layout)},
                         {"not_in_table", model.layout.strangers},
                         {"tensors", tensors_json(model.checkpoint)}});
    return kDone;
  }
  terminal.print("{}: {}", model.resolved.path.string(), in_words(model));
  if (spec.vocab > 0) {
    terminal.print("vocabulary {}; {}; {} norm", spec.vocab, ties_of(model),
                   spec.norm == ModelSpec::Norm::rms ? "RMS" : "layer");
  }
  print_groups(model.layout, terminal);
  print_blocks(model.layout, terminal);
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
  options->model.add_layout_to(command);
  command.add_flag("--tensors", options->tensors, "list every tensor");
  command.add_flag("--json", options->json, "one JSON object on standard output");
  command.footer("Example: icd inspect experiments/models/mamba-novels-2m-hf");
  command.callback([options, &action] {
    action = [options](Context& context) { return run(*options, context); };
  });
}

}  // namespace icd::cli
