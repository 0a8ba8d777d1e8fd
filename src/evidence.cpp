#include "icd/evidence.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <utility>

#include "icd/error.h"
#include "icd/weight_similarity.h"

namespace icd {
namespace {

using Take = std::function<void(const AxisGroup&, Evidence&&)>;

bool wants_weights_graph(const EvidenceRequest& request, bool has_activations) {
  return request.graph.kind == GraphKind::weights ||
         (request.graph.kind == GraphKind::automatic && !has_activations);
}

bool wants_activations(const EvidenceRequest& request) {
  const Needs& needs = request.needs;
  const GraphKind kind = request.graph.kind;
  const bool graph =
      needs.graph && (kind == GraphKind::automatic || kind == GraphKind::correlation ||
                      kind == GraphKind::coactivation);
  return graph || needs.inputs || needs.signal || needs.decay || needs.activity;
}

std::shared_ptr<const Graph> shared(Graph graph) {
  return std::make_shared<const Graph>(std::move(graph));
}

/// Builds the facts of one group from its weights and what was measured.
class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const Layout& layout, const EvidenceRequest& request)
      : checkpoint_(checkpoint), layout_(layout), request_(request) {}

  /// `statistics` is all that was measured of the group, the signal of the axis first; none if
  /// the weights are all there is.
  Evidence build(const AxisGroup& group, std::span<const GroupStatistics> statistics) const {
    Evidence evidence;
    AxisFacts& facts = evidence.calibration;
    facts.size = group.size;
    facts.graph = shared(Graph::from_edges(group.size, {}));
    if (request_.needs.graph) add_lasting_graph(group, !statistics.empty(), facts);
    if (request_.needs.readers || request_.needs.inputs) {
      facts.readers = readers_of(checkpoint_, layout_, group);
    }
    if (request_.needs.inputs && facts.readers.empty()) {
      facts.weight_square = weight_squares(checkpoint_, group);
    }
    if (statistics.empty()) return evidence;
    evidence.heldout = facts;
    add_half(statistics, &GroupStatistics::train, facts);
    add_half(statistics, &GroupStatistics::heldout, *evidence.heldout);
    return evidence;
  }

 private:
  /// A graph that the tokens have no part in.
  void add_lasting_graph(const AxisGroup& group, bool has_activations, AxisFacts& facts) const {
    const GraphRequest& graph = request_.graph;
    if (wants_weights_graph(request_, has_activations)) {
      facts.graph =
          shared(correlation_graph(weight_similarity(checkpoint_, group), group.size, graph.edges));
    } else if (graph.kind == GraphKind::access) {
      facts.graph = shared(shared_access_graph(group.size, graph.tiles));
    } else if (graph.kind == GraphKind::given) {
      if (graph.given->size() != group.size) {
        throw Error(ErrorCode::usage,
                    fmt::format("--graph: the file has {} vertices, {} has {} members",
                                graph.given->size(), group.name, group.size));
      }
      facts.graph = graph.given;
    }
  }

  void add_half(std::span<const GroupStatistics> statistics, Moments GroupStatistics::*half,
                AxisFacts& facts) const {
    const Moments& own = statistics.front().*half;
    facts.square = squares_of(own);
    facts.minimum = own.minimum;
    facts.maximum = own.maximum;
    facts.decay = own.decay;
    if (own.activity) facts.activity = own.activity;
    const GraphKind kind = request_.graph.kind;
    if (request_.needs.graph && (kind == GraphKind::automatic || kind == GraphKind::correlation)) {
      facts.graph = shared(correlation_graph(own.correlation, facts.size, request_.graph.edges));
    } else if (request_.needs.graph && kind == GraphKind::coactivation) {
      facts.graph = shared(coactivation_graph(*own.activity));
    }
    for (Reader& reader : facts.readers) {
      const std::string_view signal = signal_read_by(role_of(layout_, reader.tensor));
      const auto found =
          std::find_if(statistics.begin(), statistics.end(),
                       [&](const GroupStatistics& each) { return each.signal == signal; });
      if (found == statistics.end()) continue;
      const std::vector<float> squares = squares_of((*found).*half);
      for (const float square : squares) {  // a member's columns share what is known of it
        reader.input_square.insert(reader.input_square.end(), static_cast<std::size_t>(reader.run),
                                   square);
      }
    }
  }

  static std::vector<float> squares_of(const Moments& moments) {
    std::vector<float> squares;
    squares.reserve(moments.mean.size());
    for (std::size_t i = 0; i < moments.mean.size(); ++i) {
      squares.push_back(
          static_cast<float>(moments.variance[i] + moments.mean[i] * moments.mean[i]));
    }
    return squares;
  }

  const Checkpoint& checkpoint_;
  const Layout& layout_;
  const EvidenceRequest& request_;
};

void gather_weights(const Builder& builder, const std::vector<const AxisGroup*>& groups,
                    const Take& take, Progress& progress) {
  progress.start("reading weights", static_cast<std::int64_t>(groups.size()), "groups");
  for (const AxisGroup* group : groups) {
    take(*group, builder.build(*group, {}));
    progress.advance(1, group->name);
  }
}

/// The signals to measure of a group, that of the axis first; none if the blocks show none, and
/// the group is known by its weights.
std::vector<std::string> signals_for(const Layout& layout, const AxisGroup& group,
                                     const EvidenceRequest& request) {
  const std::string own_signal(signal_for(layout, group, request.signal));
  if (own_signal.empty()) return {};
  std::vector<std::string> signals = {own_signal};
  if (!request.needs.inputs) return signals;
  for (const std::string_view own : signals_of(layout, group)) {
    const bool is_input =
        std::any_of(group.segments.begin(), group.segments.end(), [&](const AxisSegment& segment) {
          return segment.dim == 1 && signal_read_by(role_of(layout, segment.tensor)) == own;
        });
    if (is_input && own != signals.front()) signals.emplace_back(own);
  }
  return signals;
}

}  // namespace

EvidenceSource evidence_of_weights(const Checkpoint& checkpoint, const Layout& layout) {
  return {.words = "",
          .has_activations = false,
          .gather = [&checkpoint, &layout](const std::vector<const AxisGroup*>& groups,
                                           const EvidenceRequest& request, const Take& take,
                                           Progress& progress) {
            gather_weights(Builder(checkpoint, layout, request), groups, take, progress);
          }};
}

EvidenceSource evidence_from(const StatisticsFile& statistics, const Checkpoint& checkpoint,
                             const Layout& layout) {
  return {.words = statistics.info().source,
          .has_activations = true,
          .gather = [&](const std::vector<const AxisGroup*>& groups, const EvidenceRequest& request,
                        const Take& take, Progress& progress) {
            const Builder builder(checkpoint, layout, request);
            if (!wants_activations(request)) {
              return gather_weights(builder, groups, take, progress);
            }
            progress.start("solving", static_cast<std::int64_t>(groups.size()), "groups");
            for (const AxisGroup* group : groups) {
              std::vector<GroupStatistics> measured;
              for (const std::string& signal : signals_for(layout, *group, request)) {
                measured.push_back(statistics.read(group->name, signal));
              }
              take(*group, builder.build(*group, measured));
              progress.advance(1, group->name);
            }
          }};
}

namespace {

/// Runs the model, and hands over each group once all its signals have been measured.
void gather_by_running(const LanguageModel<float>& model, const Layout& layout,
                       const TokenSplit& tokens, const Builder& builder,
                       const std::vector<const AxisGroup*>& groups, const EvidenceRequest& request,
                       const Take& take, Progress& progress) {
  struct Waiting {
    const AxisGroup* group;
    std::vector<std::string> signals;
    std::vector<GroupStatistics> measured;
  };
  CalibrationOptions options{
      .correlation = request.needs.graph && request.graph.kind != GraphKind::coactivation,
      .activity = request.needs.activity || request.graph.kind == GraphKind::coactivation,
      .active_share = request.active_share};
  const auto add = [](std::vector<std::string>& list, const std::string& entry) {
    if (std::find(list.begin(), list.end(), entry) == list.end()) list.push_back(entry);
  };
  std::map<std::string, Waiting, std::less<>> waiting;
  for (const AxisGroup* group : groups) {
    Waiting entry{group, signals_for(layout, *group, request), {}};
    if (entry.signals.empty()) {
      take(*group, builder.build(*group, {}));
      continue;
    }
    add(options.kinds, group->kind);
    options.groups.push_back(group->name);
    for (const std::string& signal : entry.signals) add(options.signals, signal);
    waiting.emplace(group->name, std::move(entry));
  }
  if (waiting.empty()) return;
  calibrate(
      model, layout, tokens, options,
      [&](GroupStatistics&& statistics) {
        const auto found = waiting.find(statistics.group);
        if (found == waiting.end()) return;  // it has all it needs
        Waiting& entry = found->second;
        const auto is_own = [&](const std::string& signal) { return signal == statistics.signal; };
        if (std::none_of(entry.signals.begin(), entry.signals.end(), is_own)) return;
        const bool is_first = statistics.signal == entry.signals.front();
        entry.measured.insert(is_first ? entry.measured.begin() : entry.measured.end(),
                              std::move(statistics));
        if (entry.measured.size() < entry.signals.size()) return;
        take(*entry.group, builder.build(*entry.group, entry.measured));
        waiting.erase(found);
      },
      progress);
}

}  // namespace

EvidenceSource evidence_by_running(const LanguageModel<float>& model, const Checkpoint& checkpoint,
                                   const Layout& layout, const TokenSplit& tokens,
                                   std::string words) {
  return {.words = std::move(words),
          .has_activations = true,
          .gather = [&](const std::vector<const AxisGroup*>& groups, const EvidenceRequest& request,
                        const Take& take, Progress& progress) {
            const Builder builder(checkpoint, layout, request);
            if (!wants_activations(request)) {
              return gather_weights(builder, groups, take, progress);
            }
            gather_by_running(model, layout, tokens, builder, groups, request, take, progress);
          }};
}

namespace {

std::string graph_in_words(const GraphRequest& request, const EvidenceSource& source) {
  constexpr std::string_view kWeights[] = {"|r|", "r^2", "max(r, 0)"};
  const auto edges = [&](std::string_view of) {
    std::string words =
        fmt::format("{} of {}", kWeights[static_cast<int>(request.edges.weight)], of);
    if (request.edges.top_k > 0) words += fmt::format(", top {} a vertex", request.edges.top_k);
    return words;
  };
  switch (request.kind) {
    case GraphKind::automatic:
      if (!source.has_activations) return edges("the similarity of weights");
      [[fallthrough]];
    case GraphKind::correlation:
      return edges(fmt::format("the correlation on {}", source.words));
    case GraphKind::coactivation:
      return fmt::format("the co-activation on {}", source.words);
    case GraphKind::weights:
      return edges("the similarity of weights");
    case GraphKind::access:
      return fmt::format("shared access by tiles of {}", fmt::join(request.tiles, ", "));
    case GraphKind::given:
      return "a given graph";
  }
  return "";
}

}  // namespace

std::string evidence_in_words(const EvidenceRequest& request, const EvidenceSource& source) {
  const Needs& needs = request.needs;
  if (!source.gather) return "nothing";
  if (needs.graph) return graph_in_words(request.graph, source);
  if (!wants_activations(request) || !source.has_activations) return "weights";
  return fmt::format("{}activations on {}", needs.readers || needs.inputs ? "weights and " : "",
                     source.words);
}

std::string why_not(const Objective& objective, const Checkpoint& checkpoint, const Layout& layout,
                    const AxisGroup& group, const EvidenceSource& source) {
  if (objective.needs.readers && !is_read(checkpoint, layout, group)) {
    return fmt::format("no matrix reads {}", group.kind);
  }
  if (objective.needs.activations() && !source.has_activations) {
    return "it reads activations, and only weights are known";
  }
  if (objective.needs.activations() && signals_of(layout, group).empty()) {
    return fmt::format("it reads activations, and the model's blocks show none of {}", group.kind);
  }
  return "";
}

}  // namespace icd
