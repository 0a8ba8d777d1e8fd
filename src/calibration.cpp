#include "icd/calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "icd/error.h"
#include "moments.h"
#include "quantile.h"

namespace icd {
namespace {

constexpr std::int64_t kChunkRows = 2048;  // 40 MiB of 5120 channels

/// A signal: of which groups, and where the model shows it.
struct Signal {
  std::string_view kind;
  std::string_view name;
  Site site;
};

// The first of a kind is the one that its order is solved on unless another is asked for.
constexpr std::array<Signal, 5> kSignals = {{
    {"inner", "gated", Site::gated},
    {"inner", "conv", Site::conv},
    {"state", "bc", Site::x_proj},
    {"dt_rank", "dt_rank", Site::x_proj},
    {"model", "normed", Site::normed},
}};

constexpr std::size_t kSites = 5;

const Signal& signal_named(std::string_view name) {
  return *std::find_if(kSignals.begin(), kSignals.end(),
                       [&](const Signal& signal) { return signal.name == name; });
}

bool is_among(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

void check(const CalibrationOptions& options) {
  for (const std::string& kind : options.kinds) {
    if (std::none_of(kSignals.begin(), kSignals.end(),
                     [&](const Signal& signal) { return signal.kind == kind; })) {
      throw Error(
          ErrorCode::usage,
          fmt::format("kind '{}': has no signals, expected inner, state, dt_rank or model", kind));
    }
  }
  for (const std::string& name : options.signals) {
    if (std::none_of(kSignals.begin(), kSignals.end(), [&](const Signal& signal) {
          return signal.name == name && is_among(options.kinds, signal.kind);
        })) {
      throw Error(ErrorCode::usage,
                  fmt::format("signal '{}': belongs to none of the kinds asked for ({})", name,
                              fmt::join(options.kinds, ", ")),
                  "inner has conv and gated, state has bc, dt_rank has dt_rank, model has normed");
    }
  }
}

/// What one call of layer() shows, site by site.
class SiteBuffers : public Observer<float> {
 public:
  explicit SiteBuffers(std::span<const StatisticsEntry> entries) {
    for (const StatisticsEntry& entry : entries) {
      at(signal_named(entry.signal).site).is_wanted = true;
      if (entry.has_dt_quantiles) at(Site::dt).is_wanted = true;
    }
  }

  bool wants(Site site) const override { return sites_[static_cast<std::size_t>(site)].is_wanted; }

  void see(Index, Site site, std::span<const float> values, Index) override {
    std::vector<float>& kept = at(site).values;
    kept.insert(kept.end(), values.begin(), values.end());
  }

  std::vector<float>& values(Site site) { return at(site).values; }

  void clear() {
    for (Buffer& buffer : sites_) buffer.values.clear();
  }

 private:
  struct Buffer {
    bool is_wanted = false;
    std::vector<float> values;
  };

  Buffer& at(Site site) { return sites_[static_cast<std::size_t>(site)]; }

  std::array<Buffer, kSites> sites_;
};

/// Columns [first, first + width * parts) of rows of `columns`, each row as `parts` rows.
std::vector<float> cut_columns(std::span<const float> values, Index columns, Index first,
                               Index width, Index parts) {
  const std::size_t rows = values.size() / static_cast<std::size_t>(columns);
  std::vector<float> cut;
  cut.reserve(rows * static_cast<std::size_t>(width) * static_cast<std::size_t>(parts));
  for (std::size_t row = 0; row < rows; ++row) {
    const float* begin = values.data() + row * static_cast<std::size_t>(columns) + first;
    cut.insert(cut.end(), begin, begin + std::ptrdiff_t{width} * parts);
  }
  return cut;
}

/// Measures one entry on one half of the split.
class Collector {
 public:
  Collector(const StatisticsEntry& entry, std::int64_t quantile_rows)
      : entry_(&entry), moments_(entry.size) {
    if (quantile_rows > 0) quantiles_.emplace(entry.size, quantile_rows);
  }

  /// Uses up the buffer of a signal that is the whole of its site.
  void take(SiteBuffers& sites, const ModelSpec& spec) {
    const Site site = signal_named(entry_->signal).site;
    if (site == Site::x_proj) {
      const Index columns = spec.dt_rank + 2 * spec.d_state;
      std::vector<float> cut =
          entry_->signal == "bc"
              ? cut_columns(sites.values(site), columns, spec.dt_rank, spec.d_state, 2)
              : cut_columns(sites.values(site), columns, 0, spec.dt_rank, 1);
      moments_.add(cut);
    } else {
      moments_.add(sites.values(site));
    }
    if (quantiles_) quantiles_->add(sites.values(Site::dt));
    if (const auto channel = moments_.first_fault()) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: signal '{}' of channel {} is not finite, expected numbers",
                              entry_->group, entry_->signal, *channel),
                  "the model itself computes NaN or infinity on these tokens");
    }
  }

  Moments moments() const { return moments_.finish(); }
  std::vector<float> quantiles() const {
    return quantiles_ ? quantiles_->finish() : std::vector<float>();
  }

 private:
  const StatisticsEntry* entry_;
  MomentsAccumulator moments_;
  std::optional<ChannelQuantiles> quantiles_;
};

/// One half of the split on its way through the layers.
struct Stream {
  BatchShape shape;
  std::vector<float> hidden;  ///< (shape, d_model)

  Stream(const LanguageModel<float>& model, BatchShape of, std::span<const TokenId> tokens)
      : shape(of),
        hidden(static_cast<std::size_t>(of.rows()) *
               static_cast<std::size_t>(model.spec().d_model)) {
    model.embed(tokens, hidden);
  }
};

/// Takes the residual through one layer, whole sequences at a time, and shows every chunk to
/// the collectors.
void run_layer(const LanguageModel<float>& model, Index layer, Stream& stream, SiteBuffers& sites,
               std::span<Collector* const> collectors, Progress& progress) {
  const ModelSpec& spec = model.spec();
  const auto step = static_cast<Index>(
      std::max<std::int64_t>(1, kChunkRows / std::max<Index>(1, stream.shape.length)));
  const std::string item = fmt::format("layers.{}", layer);
  for (Index first = 0; first < stream.shape.sequences; first += step) {
    const BatchShape chunk{.sequences = std::min(step, stream.shape.sequences - first),
                           .length = stream.shape.length};
    const std::int64_t before = std::int64_t{first} * stream.shape.length * spec.d_model;
    const std::span<float> hidden =
        std::span(stream.hidden)
            .subspan(static_cast<std::size_t>(before),
                     static_cast<std::size_t>(chunk.rows() * spec.d_model));
    sites.clear();
    model.layer(layer, chunk, hidden, nullptr, &sites);
    for (Collector* collector : collectors) collector->take(sites, spec);
    progress.advance(chunk.rows(), item);
  }
}

/// The collectors of one entry.
struct Pair {
  const StatisticsEntry* entry;
  Collector train;
  Collector heldout;

  Pair(const StatisticsEntry& of, std::int64_t train_rows)
      : entry(&of), train(of, of.has_dt_quantiles ? train_rows : 0), heldout(of, 0) {}

  GroupStatistics finish() const {
    return {.group = entry->group,
            .signal = entry->signal,
            .train = train.moments(),
            .heldout = heldout.moments(),
            .dt_quantiles = train.quantiles()};
  }
};

Index channels_of(const ModelSpec& spec, std::string_view signal) {
  const std::string_view kind = signal_named(signal).kind;
  if (kind == "inner") return spec.d_inner;
  if (kind == "state") return spec.d_state;
  return kind == "dt_rank" ? spec.dt_rank : spec.d_model;
}

void check_fit(const ModelSpec& spec, std::span<const StatisticsEntry> entries,
               const TokenSplit& tokens) {
  for (const StatisticsEntry& entry : entries) {
    const Index channels = channels_of(spec, entry.signal);
    if (entry.size != channels) {
      throw Error(ErrorCode::usage, fmt::format("{}: {} channels in the layout, {} in the model",
                                                entry.group, entry.size, channels));
    }
    if (entry.layer >= spec.n_layer) {
      throw Error(ErrorCode::usage,
                  fmt::format("{}: layer {} in the layout, {} layers in the model", entry.group,
                              entry.layer, spec.n_layer));
    }
  }
  const auto check_half = [](std::string_view name, BatchShape shape, std::size_t ids) {
    if (shape.rows() > 0 && static_cast<std::size_t>(shape.rows()) == ids) return;
    throw Error(ErrorCode::usage,
                fmt::format("{} tokens: {} ids, expected {} sequences of {}, at least one token",
                            name, ids, shape.sequences, shape.length));
  };
  check_half("train", tokens.train_shape, tokens.train.size());
  check_half("held-out", tokens.heldout_shape, tokens.heldout.size());
}

}  // namespace

std::string_view signal_for(std::string_view kind, std::string_view wanted) {
  const Signal* first = nullptr;
  for (const Signal& signal : kSignals) {
    if (signal.kind != kind) continue;
    if (signal.name == wanted) return signal.name;
    if (first == nullptr) first = &signal;
  }
  return first == nullptr ? std::string_view() : first->name;
}

std::vector<StatisticsEntry> statistics_entries(const Layout& layout,
                                                const CalibrationOptions& options) {
  check(options);
  std::vector<StatisticsEntry> entries;
  for (const AxisGroup& group : layout.groups) {
    if (!is_among(options.kinds, group.kind)) continue;
    for (const Signal& signal : kSignals) {
      if (signal.kind != group.kind) continue;
      if (!options.signals.empty() && !is_among(options.signals, signal.name)) continue;
      entries.push_back({.group = group.name,
                         .signal = std::string(signal.name),
                         .layer = group.layer,
                         .size = group.size,
                         .has_dt_quantiles = signal.site == Site::gated});
    }
  }
  // The whole model, layer -1, is complete only after the last layer: as unsigned it is last.
  std::stable_sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return static_cast<std::uint32_t>(a.layer) < static_cast<std::uint32_t>(b.layer);
  });
  return entries;
}

void calibrate(const LanguageModel<float>& model, const Layout& layout, const TokenSplit& tokens,
               const CalibrationOptions& options,
               const std::function<void(GroupStatistics&&)>& sink, Progress& progress) {
  const ModelSpec& spec = model.spec();
  const std::vector<StatisticsEntry> entries = statistics_entries(layout, options);
  check_fit(spec, entries, tokens);
  if (entries.empty()) return;

  const auto whole = std::find_if(entries.begin(), entries.end(),
                                  [](const StatisticsEntry& entry) { return entry.layer < 0; });
  const std::int64_t train_rows = tokens.train_shape.rows();
  std::vector<Pair> pooled;
  for (auto entry = whole; entry != entries.end(); ++entry) pooled.emplace_back(*entry, train_rows);
  const Index layers = pooled.empty() ? entries.back().layer + 1 : spec.n_layer;

  progress.start("calibrate", (train_rows + tokens.heldout_shape.rows()) * layers, "tokens");
  Stream train(model, tokens.train_shape, tokens.train);
  Stream heldout(model, tokens.heldout_shape, tokens.heldout);
  auto next = entries.begin();
  for (Index layer = 0; layer < layers; ++layer) {
    const auto first = next;
    std::vector<Pair> pairs;
    for (; next != whole && next->layer == layer; ++next) pairs.emplace_back(*next, train_rows);
    std::vector<StatisticsEntry> wanted(first, next);
    wanted.insert(wanted.end(), whole, entries.end());

    SiteBuffers sites(wanted);
    for (const auto& [stream, half] :
         {std::pair{&train, &Pair::train}, std::pair{&heldout, &Pair::heldout}}) {
      std::vector<Collector*> collectors;
      for (Pair& pair : pairs) collectors.push_back(&(pair.*half));
      for (Pair& pair : pooled) collectors.push_back(&(pair.*half));
      run_layer(model, layer, *stream, sites, collectors, progress);
    }
    for (const Pair& pair : pairs) sink(pair.finish());
  }
  for (const Pair& pair : pooled) sink(pair.finish());
}

}  // namespace icd
