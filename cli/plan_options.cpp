#include "plan_options.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <utility>

#include "icd/error.h"
#include "icd/graph_file.h"
#include "icd/language_model.h"

namespace icd::cli {
namespace {

/// The kinds that make up the order of a mixer's channels: what is ordered unless something else
/// is asked for.
std::vector<std::string> channel_kinds(const Layout& layout) {
  const std::vector<std::string> all = layout.kinds();
  std::vector<std::string> kinds;
  for (const std::string_view kind : {"inner", "head", "channel", "x_channel", "y_channel"}) {
    if (std::find(all.begin(), all.end(), kind) != all.end()) kinds.emplace_back(kind);
  }
  return kinds.empty() ? all : kinds;
}

/// "3" and "0-5" as numbers.
std::pair<Index, Index> range_of(const std::string& text) {
  const char* end = text.data() + text.size();
  Index first = 0;
  auto parsed = std::from_chars(text.data(), end, first);
  Index last = first;
  if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == '-') {
    parsed = std::from_chars(parsed.ptr + 1, end, last);
  }
  constexpr Index kMost = 1 << 20;
  if (parsed.ec != std::errc() || parsed.ptr != end || first < 0 || last < first || last > kMost) {
    throw Error(ErrorCode::usage,
                fmt::format("--layers: '{}' is no range, expected N or N-M, from 0 on", text));
  }
  return {first, last};
}

/// "2:4"
std::pair<Index, Index> pattern_of(const std::string& text) {
  const char* end = text.data() + text.size();
  Index kept = 0;
  Index of = 0;
  auto parsed = std::from_chars(text.data(), end, kept);
  if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == ':') {
    parsed = std::from_chars(parsed.ptr + 1, end, of);
    if (parsed.ec == std::errc() && parsed.ptr == end && kept >= 1 && of > kept && of <= 16) {
      return {kept, of};
    }
  }
  throw Error(ErrorCode::usage,
              fmt::format("--pattern: '{}' is no pattern, expected N:M with 0 < N < M <= 16", text),
              "for example --pattern 2:4");
}

/// Bytes of an entry of the first tensor that moves.
Index bytes_of_entry(const LoadedModel& model) {
  const AxisSegment& segment = model.layout.groups.front().segments.front();
  return static_cast<Index>(dtype_bytes(model.checkpoint.find(segment.tensor)->dtype));
}

}  // namespace

void GroupOptions::add_to(CLI::App& command) {
  command
      .add_option("--group", groups,
                  "kinds that `icd inspect` lists, or all; else inner, or head,channel")
      ->delimiter(',')
      ->type_name("G");
  command.add_option("--layers", layers, "only groups of these: 0-5,8; `icd plan merge` joins")
      ->delimiter(',')
      ->type_name("L");
}

bool GroupOptions::takes_all() const {
  return std::find(groups.begin(), groups.end(), "all") != groups.end();
}

std::vector<std::string> GroupOptions::kinds(const Layout& layout) const {
  if (groups.empty()) return channel_kinds(layout);
  return takes_all() ? layout.kinds() : groups;
}

std::vector<Index> GroupOptions::layer_list() const {
  std::vector<Index> list;
  for (const std::string& text : layers) {
    const auto [first, last] = range_of(text);
    for (Index layer = first; layer <= last; ++layer) list.push_back(layer);
  }
  return list;
}

void ObjectiveChoice::add_details_to(CLI::App& command) {
  command.add_option("--block", block, "members in a block; else the objective's own")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20).description(""));
  command.add_option("--line-bytes", line_bytes, "or as many as lie in N bytes of the weights")
      ->type_name("N")
      ->check(CLI::Range(1, 1 << 20).description(""));
  command.add_option("--gamma", gamma, "resolution of modularity and communities")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1e6).description(""))
      ->capture_default_str();
  command.add_option("--pattern", pattern, "N:M of nm")->type_name("N:M")->capture_default_str();
  command.add_option("--saliency", saliency, "of nm: magnitude, wanda or ria")
      ->type_name("S")
      ->check(CLI::IsMember({"magnitude", "wanda", "ria"}).description(""))
      ->capture_default_str();
  command.add_option("--quant-format", format, "of quant (`icd objectives` lists them)")
      ->type_name("F")
      ->capture_default_str();
  command
      .add_option("--group-size", group_size, "of quant: weights a scale; else the format's own")
      ->type_name("N")
      ->check(CLI::Range(2, 1 << 16).description(""));
}

void ObjectiveChoice::add_to(CLI::App& command) {
  command.add_option("--objective", objective, "what an order is worth (`icd objectives`)")
      ->type_name("O")
      ->capture_default_str();
  add_details_to(command);
}

const Objective& ObjectiveChoice::chosen() const {
  const Objective* found = find_objective(objective);
  if (found == nullptr) {
    std::vector<std::string_view> names;
    for (const Objective& each : all_objectives()) names.push_back(each.name);
    no_such("--objective", objective, names, "`icd objectives` describes them");
  }
  return *found;
}

ObjectiveOptions ObjectiveChoice::options(const Objective& of, const LoadedModel& model) const {
  const auto [kept, all] = pattern_of(pattern);
  ObjectiveOptions options{.block = block > 0 ? block : std::max<Index>(of.block, 1),
                           .gamma = gamma,
                           .kept = kept,
                           .of = all,
                           .saliency = saliency == "magnitude" ? Saliency::magnitude
                                       : saliency == "wanda"   ? Saliency::wanda
                                                               : Saliency::ria,
                           .format = format,
                           .group = group_size};
  if (line_bytes > 0 && block > 0) {
    throw Error(ErrorCode::usage, "--line-bytes excludes --block");
  }
  if (line_bytes > 0) {
    const Index bytes = bytes_of_entry(model);
    if (line_bytes % bytes != 0) {
      throw Error(ErrorCode::usage,
                  fmt::format("--line-bytes: {} is not a multiple of a weight's {} bytes",
                              line_bytes, bytes));
    }
    options.block = line_bytes / bytes;
  }
  return options;
}

void GraphOptions::add_to(CLI::App& command) {
  command
      .add_option("--graph", graph,
                  "auto, correlation, coactivation, weights, access or a file (.mtx ...)")
      ->type_name("G")
      ->capture_default_str();
  command.add_option("--signal", signal, "activations of inner: gated (y * SiLU(z)) or conv (x)")
      ->type_name("A")
      ->check(CLI::IsMember({"gated", "conv"}).description(""))
      ->capture_default_str();
  command.add_option("--edge", edge, "weight of a correlation r: absolute, squared or relu")
      ->type_name("E")
      ->check(CLI::IsMember({"absolute", "squared", "relu"}).description(""))
      ->capture_default_str();
  command.add_option("--top-k", top_k, "keep the k heaviest edges of a vertex; 0 keeps all")
      ->type_name("K")
      ->check(CLI::Range(0, 1 << 20).description(""))
      ->capture_default_str();
  command.add_option("--active", active, "share of a token's channels that count as active")
      ->type_name("X")
      ->check(CLI::Range(1e-6, 1.0).description(""))
      ->capture_default_str();
  command.add_flag("--data-free", data_free, "weights alone, no activations");
}

GraphRequest GraphOptions::request() const {
  GraphRequest request;
  request.edges.weight = edge == "absolute"  ? EdgeWeight::absolute
                         : edge == "squared" ? EdgeWeight::squared
                                             : EdgeWeight::relu;
  request.edges.top_k = top_k;
  constexpr std::pair<std::string_view, GraphKind> kKinds[] = {
      {"auto", GraphKind::automatic},
      {"correlation", GraphKind::correlation},
      {"coactivation", GraphKind::coactivation},
      {"weights", GraphKind::weights},
      {"access", GraphKind::access}};
  for (const auto& [name, kind] : kKinds) {
    if (graph != name) continue;
    request.kind = kind;
    return request;
  }
  if (!std::filesystem::exists(graph)) {
    throw Error(ErrorCode::usage,
                fmt::format("--graph: '{}' is no kind of graph and no file, expected auto, "
                            "correlation, coactivation, weights, access or a file",
                            graph));
  }
  request.kind = GraphKind::given;
  request.given = std::make_shared<const Graph>(read_graph(graph));
  return request;
}

void PlanOptions::add_to(CLI::App& command) {
  groups.add_to(command);
  objective.add_to(command);
  command.add_option("--solver", solver, "how to order (`icd solve --list`)")
      ->type_name("S")
      ->capture_default_str();
  command.add_option("--seed", seed, "the only source of randomness")
      ->type_name("N")
      ->check(CLI::Range(std::uint64_t{0}, static_cast<std::uint64_t>(INT64_MAX)).description(""))
      ->capture_default_str();
  command.add_option("--steps", max_steps, "budget of the solver, a group")
      ->type_name("N")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  graph.add_to(command);
  command
      .add_option("--expand", expand,
                  "inner axes: independent, or block / repeat from one order of d_model")
      ->type_name("X")
      ->check(CLI::IsMember({"independent", "block", "repeat"}).description(""))
      ->capture_default_str();
  command.add_flag("--joint", joint, "heads and their channels by what they score as one line");
}

PlanRequest PlanOptions::request(const LoadedModel& model) const {
  PlanRequest request;
  request.kinds = groups.kinds(model.layout);
  request.layers = groups.layer_list();
  request.leave_out = groups.takes_all();
  request.objective = &objective.chosen();
  request.options = objective.options(*request.objective, model);
  request.solver = find_solver(solver == "auto" ? request.objective->solver : solver);
  if (request.solver == nullptr) {
    std::vector<std::string_view> names = {"auto"};
    for (const Solver& each : all_solvers()) names.push_back(each.name);
    no_such("--solver", solver, names, "`icd solve --list` describes them");
  }
  request.seed = seed;
  request.max_steps = max_steps;
  request.signal = graph.signal;
  request.graph = graph.request();
  request.active_share = graph.active;
  request.joint = joint;
  if (expand == "block") request.expansion = HiddenExpansion::block;
  if (expand == "repeat") request.expansion = HiddenExpansion::repeat;
  return request;
}

void with_evidence(const LoadedModel& model, const Layout& layout, const GraphOptions& graph,
                   const TokenOptions& tokens, const std::string& statistics, Context& context,
                   const std::function<void(const EvidenceSource&)>& use) {
  if (!statistics.empty()) {
    const StatisticsFile file = StatisticsFile::open(statistics);
    if (file.info().structure != model.checkpoint.structure_digest()) {
      throw Error(
          ErrorCode::input,
          fmt::format("{}: was made for a checkpoint of structure {:.12}, this one's is {:.12}",
                      statistics, file.info().structure, model.checkpoint.structure_digest()));
    }
    return use(evidence_from(file, model.checkpoint, layout));
  }
  const bool runs = can_calibrate(model.layout);
  if (!runs && tokens.is_given()) {
    context.terminal.warn(
        fmt::format("layout {}: ordered by weights alone; icd cannot watch its activations",
                    model.layout.name));
  }
  if (graph.data_free || !runs) return use(evidence_of_weights(model.checkpoint, layout));
  const TokenSource source = token_source(tokens, model);
  if (!source.is_language) {
    context.terminal.warn(
        "no tokenizer.json: ordered by weights alone; --tokens FILE orders by activations");
    return use(evidence_of_weights(model.checkpoint, layout));
  }
  const TokenSplit split = split_tokens(source.ids, tokens.length, tokens.limit, tokens.heldout);
  const auto runner = fast_model(model.checkpoint, model.layout);
  use(evidence_by_running(*runner, model.checkpoint, layout, split,
                          fmt::format("{} tokens of {}", split.train_shape.rows(), source.words)));
}

Plan plan_for(const LoadedModel& model, const PlanOptions& options, const TokenOptions& tokens,
              const std::string& statistics, Context& context) {
  const PlanRequest request = options.request(model);
  const Layout layout =
      request.joint ? with_lines(model.checkpoint, model.layout, request.kinds, request.layers)
                    : model.layout;
  const auto make = [&](const EvidenceSource& source) {
    return make_plan(model.checkpoint, layout, request, source, context.terminal);
  };
  if (options.graph.data_free && request.solver->reads == Reads::nothing) return make({});
  Plan plan;
  with_evidence(model, layout, options.graph, tokens, statistics, context,
                [&](const EvidenceSource& source) { plan = make(source); });
  return plan;
}

}  // namespace icd::cli
