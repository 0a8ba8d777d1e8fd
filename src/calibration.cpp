#include "icd/calibration.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <utility>

#include "activity.h"
#include "icd/error.h"
#include "moments.h"
#include "quantile.h"
#include "signals.h"

namespace icd {
namespace {

constexpr std::int64_t kChunkRows = 2048;  // 40 MiB of 5120 channels

// Groups from this size on are measured by all threads together, smaller ones a thread each:
// heads of 64 channels are one tile of a Gram matrix, which threads cannot share.
constexpr Index kSharedSize = 256;

bool is_among(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// The kinds of groups that have signals, each with them: "inner (gated, conv)".
std::vector<std::string> kinds_with_signals(const Layout& layout) {
  std::vector<std::string> kinds;
  for (const std::string& kind : layout.kinds()) {
    for (const AxisGroup& group : layout.groups) {
      if (group.kind != kind) continue;
      const auto signals = signals_of(layout, group);
      if (signals.empty()) continue;
      kinds.push_back(fmt::format("{} ({})", kind, fmt::join(signals, ", ")));
      break;
    }
  }
  return kinds;
}

void check_options(const CalibrationOptions& options) {
  if (!(options.active_share > 0 && options.active_share <= 1)) {
    throw Error(ErrorCode::usage,
                fmt::format("active share: is {}, expected one in (0, 1]", options.active_share));
  }
}

/// Refuses kinds without signals, and signals that none of the entries is about.
void check_asked(const Layout& layout, const CalibrationOptions& options,
                 std::span<const StatisticsEntry> entries) {
  const auto has_signals = [&](std::string_view kind) {
    return std::ranges::any_of(layout.groups, [&](const AxisGroup& group) {
      return group.kind == kind && !signals_of(layout, group).empty();
    });
  };
  for (const std::string& kind : options.kinds) {
    if (!has_signals(kind)) {
      throw Error(ErrorCode::usage, fmt::format("kind '{}': has no signals, expected {}", kind,
                                                fmt::join(kinds_with_signals(layout), ", ")));
    }
  }
  for (const std::string& name : options.signals) {
    if (std::ranges::find(entries, name, &StatisticsEntry::signal) != entries.end()) continue;
    throw Error(
        ErrorCode::usage,
        fmt::format("signal '{}': belongs to none of the kinds asked for, expected one of {}", name,
                    fmt::join(kinds_with_signals(layout), ", ")));
  }
}

/// What one call of layer() shows, site by site.
class SiteBuffers : public Observer<float> {
 public:
  void want(Site site) { at(site).is_wanted = true; }
  bool wants(Site site) const override { return at(site).is_wanted; }

  void see(Index, Site site, std::span<const float> values, Index channels) override {
    Buffer& buffer = at(site);
    buffer.values.insert(buffer.values.end(), values.begin(), values.end());
    buffer.channels = channels;
  }

  /// (rows, channels)
  std::span<const float> values(Site site) const { return at(site).values; }
  Index channels(Site site) const { return at(site).channels; }

  void clear() {
    for (Buffer& buffer : sites_) buffer.values.clear();
  }

 private:
  struct Buffer {
    bool is_wanted = false;
    Index channels = 0;
    std::vector<float> values;
  };

  Buffer& at(Site site) { return sites_[static_cast<std::size_t>(site)]; }
  const Buffer& at(Site site) const { return sites_[static_cast<std::size_t>(site)]; }

  std::array<Buffer, kSites.size()> sites_;
};

/// The values of a group of n: (rows * observations, n), all of a row next to each other.
std::vector<float> cut(const SiteBuffers& sites, const SiteColumns& columns, Index n) {
  const std::span<const float> values = sites.values(columns.site);
  if (columns.stretches.empty() || values.empty()) return {};
  const std::int64_t width = sites.channels(columns.site);
  const std::int64_t rows = std::ssize(values) / width;
  const std::int64_t cut_width = std::int64_t{columns.observations()} * n;
  std::vector<float> result(static_cast<std::size_t>(rows * cut_width));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    float* to = result.data() + row * cut_width;
    for (const AxisSegment& stretch : columns.stretches) {
      const float* from = values.data() + row * width + stretch.offset;
      for (Index i = 0; i < stretch.block; ++i, to += n) {
        for (Index k = 0; k < n; ++k) to[k] = from[std::ptrdiff_t{k} * stretch.stride + i];
      }
    }
  }
  return result;
}

/// Means of channels over rows that come a batch at a time, in double and in the order of rows.
class Means {
 public:
  explicit Means(Index n) : sums_(static_cast<std::size_t>(n)) {}

  void add(std::span<const float> values) {
    for (std::size_t i = 0; i < values.size(); i += sums_.size(), ++rows_) {
      for (std::size_t c = 0; c < sums_.size(); ++c) sums_[c] += static_cast<double>(values[i + c]);
    }
  }

  std::vector<double> finish() const {
    std::vector<double> means = sums_;
    for (double& mean : means) mean /= static_cast<double>(std::max<std::int64_t>(rows_, 1));
    return means;
  }

 private:
  std::int64_t rows_ = 0;
  std::vector<double> sums_;
};

/// Where an entry's values stand at one layer.
struct EntryColumns {
  SiteColumns signal;
  SiteColumns dt;
  SiteColumns decay;

  EntryColumns(const Layout& layout, const AxisGroup& group, const StatisticsEntry& entry,
               Index layer) {
    for (SignalColumns& each : signals_at(layout, group, layer)) {
      if (each.name == entry.signal) signal = std::move(each.columns);
    }
    if (entry.has_dt_quantiles) dt = columns_at(layout, group, layer, Site::dt);
    if (entry.has_decay) decay = columns_at(layout, group, layer, Site::decay);
  }

  void want_from(SiteBuffers& sites) const {
    for (const SiteColumns* columns : {&signal, &dt, &decay}) {
      if (!columns->stretches.empty()) sites.want(columns->site);
    }
  }
};

/// Measures one entry on one half of the split.
class Collector {
 public:
  /// `rows`: of tokens that are to come, of one layer; `layers` that pool.
  Collector(const StatisticsEntry& entry, const CalibrationOptions& options, std::int64_t rows,
            Index observations_of_dt, Index layers)
      : entry_(&entry),
        activity_rows_(entry.has_activity ? std::max<std::int64_t>(1, kActivityTokens / layers)
                                          : 0),
        moments_(entry.size, options.correlation),
        activity_(entry.size, options.active_share) {
    if (observations_of_dt > 0) quantiles_.emplace(entry.size, rows * observations_of_dt);
    if (entry.has_decay) decay_.emplace(entry.size);
  }

  Index size() const noexcept { return entry_->size; }

  void begin_layer() noexcept { activity_left_ = activity_rows_; }

  /// Throws Error{usage} if the model shows no such columns.
  void check(const SiteBuffers& sites, const EntryColumns& columns) const {
    for (const SiteColumns* at : {&columns.signal, &columns.dt, &columns.decay}) {
      if (!sites.values(at->site).empty() || at->stretches.empty()) check(sites, *at);
    }
  }

  void take(const SiteBuffers& sites, const EntryColumns& columns) {
    std::vector<float> values = cut(sites, columns.signal, entry_->size);
    if (activity_left_ > 0 && !values.empty()) {
      const Index observations = columns.signal.observations();
      const std::int64_t width = std::int64_t{observations} * entry_->size;
      const std::int64_t rows = std::min(activity_left_, std::ssize(values) / width);
      activity_.add(std::span(values).first(static_cast<std::size_t>(rows * width)), observations);
      activity_left_ -= rows;
    }
    moments_.add(values);  // leaves them centred
    if (quantiles_) quantiles_->add(cut(sites, columns.dt, entry_->size));
    if (decay_) decay_->add(cut(sites, columns.decay, entry_->size));
  }

  /// Throws Error{input} if a value was NaN or infinite.
  void check_finite() const {
    const auto channel = moments_.first_fault();
    if (!channel) return;
    throw Error(ErrorCode::input,
                fmt::format("{}: signal '{}' of channel {} is not finite, expected numbers",
                            entry_->group, entry_->signal, *channel),
                "the model itself computes NaN or infinity on these tokens");
  }

  Moments moments() const {
    if (moments_.rows() == 0) {
      throw Error(ErrorCode::usage,
                  fmt::format("{}: the model shows no signal '{}'", entry_->group, entry_->signal));
    }
    Moments moments = moments_.finish();
    if (decay_) moments.decay = decay_->finish();
    if (entry_->has_activity) {
      moments.activity = std::make_shared<const Activity>(activity_.finish());
    }
    return moments;
  }

  std::vector<float> quantiles() const {
    return quantiles_ ? quantiles_->finish() : std::vector<float>();
  }

 private:
  void check(const SiteBuffers& sites, const SiteColumns& columns) const {
    const std::int64_t channels = sites.channels(columns.site);
    for (const AxisSegment& stretch : columns.stretches) {
      const std::int64_t last = stretch.offset + std::int64_t{entry_->size - 1} * stretch.stride;
      const std::int64_t begin = std::min<std::int64_t>(stretch.offset, last);
      const std::int64_t end = std::max<std::int64_t>(stretch.offset, last) + stretch.block;
      if (begin >= 0 && end <= channels) continue;
      throw Error(
          ErrorCode::usage,
          fmt::format("{}: signal '{}' is channels [{}, {}) in the layout, the model has {}",
                      entry_->group, entry_->signal, begin, end, channels));
    }
  }

  const StatisticsEntry* entry_;
  std::int64_t activity_rows_;
  std::int64_t activity_left_ = 0;
  MomentsAccumulator moments_;
  ActivityRecorder activity_;
  std::optional<ChannelQuantiles> quantiles_;
  std::optional<Means> decay_;
};

/// The collectors of one entry, one for each half.
struct Pair {
  const StatisticsEntry* entry;
  const AxisGroup* group;
  Collector train;
  Collector heldout;

  Pair(const Layout& layout, const AxisGroup& whose, const StatisticsEntry& of,
       const CalibrationOptions& options, std::int64_t train_rows, Index layers)
      : entry(&of),
        group(&whose),
        train(of, options, train_rows, EntryColumns(layout, whose, of, of.layer).dt.observations(),
              layers),
        heldout(of, options, 0, 0, layers) {}

  GroupStatistics finish() const {
    return {.group = entry->group,
            .signal = entry->signal,
            .train = train.moments(),
            .heldout = heldout.moments(),
            .dt_quantiles = train.quantiles()};
  }
};

/// A collector and where its values stand at the layer that is run.
struct Listener {
  Collector* collector;
  const EntryColumns* columns;
};

void take_all(const SiteBuffers& sites, std::span<const Listener> listeners) {
  std::vector<Listener> small;
  for (const Listener& each : listeners) {
    each.collector->check(sites, *each.columns);
    if (each.collector->size() < kSharedSize) {
      small.push_back(each);
    } else {
      each.collector->take(sites, *each.columns);
    }
  }
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < small.size(); ++i) {
    small[i].collector->take(sites, *small[i].columns);
  }
  for (const Listener& each : listeners) each.collector->check_finite();
}

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
/// the listeners.
void run_layer(const LanguageModel<float>& model, Index layer, Stream& stream, SiteBuffers& sites,
               std::span<const Listener> listeners, Progress& progress) {
  const ModelSpec& spec = model.spec();
  const auto step = static_cast<Index>(
      std::max<std::int64_t>(1, kChunkRows / std::max<Index>(1, stream.shape.length)));
  const std::string item = fmt::format("layers.{}", layer);
  for (const Listener& each : listeners) each.collector->begin_layer();
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
    take_all(sites, listeners);
    progress.advance(chunk.rows(), item);
  }
}

void check_fit(const ModelSpec& spec, std::span<const StatisticsEntry> entries,
               const TokenSplit& tokens) {
  for (const StatisticsEntry& entry : entries) {
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

std::vector<StatisticsEntry> statistics_entries(const Layout& layout,
                                                const CalibrationOptions& options) {
  check_options(options);
  std::vector<StatisticsEntry> entries;
  for (const AxisGroup& group : layout.groups) {
    if (!options.kinds.empty() && !is_among(options.kinds, group.kind)) continue;
    if (!options.groups.empty() && !is_among(options.groups, group.name)) continue;
    const bool has_steps = !columns_at(layout, group, group.layer, Site::dt).stretches.empty();
    for (const std::string_view signal : signals_of(layout, group)) {
      if (!options.signals.empty() && !is_among(options.signals, signal)) continue;
      entries.push_back({.group = group.name,
                         .signal = std::string(signal),
                         .layer = group.layer,
                         .size = group.size,
                         .has_dt_quantiles = has_steps && signal == "gated",
                         .has_decay = has_steps,
                         .has_correlation = options.correlation,
                         .has_activity = options.activity});
    }
  }
  check_asked(layout, options, entries);
  // What pools layers, layer -1, is complete only after the last: as unsigned it is last.
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
  std::map<std::string_view, const AxisGroup*> groups;
  for (const AxisGroup& group : layout.groups) groups.emplace(group.name, &group);
  const std::int64_t train_rows = tokens.train_shape.rows();
  std::vector<Pair> pooled;
  for (auto entry = whole; entry != entries.end(); ++entry) {
    pooled.emplace_back(layout, *groups.at(entry->group), *entry, options, train_rows,
                        spec.n_layer);
  }
  const Index layers = pooled.empty() ? entries.back().layer + 1 : spec.n_layer;

  progress.start("calibrate", (train_rows + tokens.heldout_shape.rows()) * layers, "tokens");
  Stream train(model, tokens.train_shape, tokens.train);
  Stream heldout(model, tokens.heldout_shape, tokens.heldout);
  auto next = entries.begin();
  for (Index layer = 0; layer < layers; ++layer) {
    std::vector<Pair> own;
    for (; next != whole && next->layer == layer; ++next) {
      own.emplace_back(layout, *groups.at(next->group), *next, options, train_rows, 1);
    }
    std::vector<Pair*> pairs;
    for (std::vector<Pair>* some : {&own, &pooled}) {
      for (Pair& pair : *some) pairs.push_back(&pair);
    }
    std::vector<EntryColumns> columns;
    SiteBuffers sites;
    for (const Pair* pair : pairs) {
      columns.emplace_back(layout, *pair->group, *pair->entry, layer).want_from(sites);
    }
    for (const auto& [stream, half] :
         {std::pair{&train, &Pair::train}, std::pair{&heldout, &Pair::heldout}}) {
      std::vector<Listener> listeners;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        listeners.push_back({&(pairs[i]->*half), &columns[i]});
      }
      run_layer(model, layer, *stream, sites, listeners, progress);
    }
    for (const Pair& pair : own) sink(pair.finish());
  }
  for (const Pair& pair : pooled) sink(pair.finish());
}

}  // namespace icd
