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
#include "site_sums.h"

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

/// Throws Error{usage} if a site of so many channels has not all columns of an entry.
void check_columns(const StatisticsEntry& entry, const SiteColumns& columns,
                   std::int64_t channels) {
  for (const AxisSegment& stretch : columns.stretches) {
    const std::int64_t last = stretch.offset + std::int64_t{entry.size - 1} * stretch.stride;
    const std::int64_t begin = std::min<std::int64_t>(stretch.offset, last);
    const std::int64_t end = std::max<std::int64_t>(stretch.offset, last) + stretch.block;
    if (begin >= 0 && end <= channels) continue;
    throw Error(ErrorCode::usage,
                fmt::format("{}: signal '{}' is channels [{}, {}) in the layout, the model has {}",
                            entry.group, entry.signal, begin, end, channels));
  }
}

/// What one call of layer() shows, site by site, and what it is to measure itself.
class SiteBuffers : public SumsObserver {
 public:
  void want(const SiteColumns& columns) {
    if (!columns.stretches.empty()) at(columns.site).is_wanted = true;
  }
  bool wants(Site site) const override { return at(site).is_wanted; }

  void see(Index, Site site, std::span<const float> values, Index channels) override {
    Buffer& buffer = at(site);
    const std::size_t before = buffer.used;
    buffer.used += values.size();
    if (buffer.values.size() < buffer.used) buffer.values.resize(buffer.used);
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < values.size(); ++i) buffer.values[before + i] = values[i];
    buffer.channels = channels;
  }

  void measure(const StatisticsEntry& entry, const SiteColumns& columns, SiteSums& sums) {
    if (!columns.stretches.empty()) asked_.push_back({&entry, {&sums, &columns}});
  }

  std::vector<Measured> measured(Site site, Index channels) const override {
    std::vector<Measured> result;
    for (const Asked& each : asked_) {
      if (each.what.columns->site != site) continue;
      check_columns(*each.entry, *each.what.columns, channels);
      result.push_back(each.what);
    }
    return result;
  }

  /// (rows, channels)
  std::span<const float> values(Site site) const {
    return std::span(at(site).values).first(at(site).used);
  }
  Index channels(Site site) const { return at(site).channels; }

  void clear() {
    for (Buffer& buffer : sites_) buffer.used = 0;
  }

 private:
  struct Buffer {
    bool is_wanted = false;
    Index channels = 0;
    std::vector<float> values;  // that grows only
    std::size_t used = 0;       // of them
  };

  Buffer& at(Site site) { return sites_[static_cast<std::size_t>(site)]; }
  const Buffer& at(Site site) const { return sites_[static_cast<std::size_t>(site)]; }

  struct Asked {
    const StatisticsEntry* entry;
    Measured what;
  };

  std::array<Buffer, kSites.size()> sites_;
  std::vector<Asked> asked_;
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

/// Are the values of a group of n all that a site has, in its order?
bool is_whole(const SiteBuffers& sites, const SiteColumns& columns, Index n) {
  if (columns.stretches.size() != 1 || sites.channels(columns.site) != n) return false;
  const AxisSegment& only = columns.stretches.front();
  return only.offset == 0 && only.stride == 1 && only.block == 1;
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
};

/// Measures one entry on one half of the split.
class Collector {
 public:
  /// `rows`: of tokens that are to come, of one layer; `layers` that pool. `maker`: of sums that
  /// the model takes itself, or nullptr.
  Collector(const StatisticsEntry& entry, const CalibrationOptions& options, std::int64_t rows,
            Index observations_of_dt, Index layers, const SumsMaker* maker)
      : entry_(&entry),
        activity_rows_(entry.has_activity ? std::max<std::int64_t>(1, kActivityTokens / layers)
                                          : 0),
        moments_(entry.size, options.correlation),
        activity_(entry.size, options.active_share) {
    if (observations_of_dt > 0) quantiles_.emplace(entry.size, rows * observations_of_dt);
    if (maker != nullptr && !entry.has_activity) {
      sums_ = maker->sums(entry.size, options.correlation);
      if (entry.has_decay) decay_sums_ = maker->sums(entry.size, false);
    } else if (entry.has_decay) {
      decay_.emplace(entry.size);
    }
  }

  Index size() const noexcept { return entry_->size; }

  /// Asks for what one layer is to show or to measure.
  void begin_layer(SiteBuffers& sites, const EntryColumns& columns) {
    activity_left_ = activity_rows_;
    if (quantiles_) sites.want(columns.dt);
    if (!sums_) {
      sites.want(columns.signal);
      if (decay_) sites.want(columns.decay);
      return;
    }
    sites.measure(*entry_, columns.signal, *sums_);
    if (decay_sums_) sites.measure(*entry_, columns.decay, *decay_sums_);
  }

  /// Throws Error{usage} if the model shows no such columns.
  void check(const SiteBuffers& sites, const EntryColumns& columns) const {
    for (const SiteColumns* at : {&columns.signal, &columns.dt, &columns.decay}) {
      if (!sites.values(at->site).empty()) check_columns(*entry_, *at, sites.channels(at->site));
    }
  }

  void take(const SiteBuffers& sites, const EntryColumns& columns) {
    if (quantiles_) {
      if (is_whole(sites, columns.dt, entry_->size)) {
        quantiles_->add(sites.values(columns.dt.site));
      } else {
        quantiles_->add(cut(sites, columns.dt, entry_->size));
      }
    }
    if (sums_) return;  // the model itself took the rest
    std::vector<float> values = cut(sites, columns.signal, entry_->size);
    if (activity_left_ > 0 && !values.empty()) {
      const Index observations = columns.signal.observations();
      const std::int64_t width = std::int64_t{observations} * entry_->size;
      const std::int64_t rows = std::min(activity_left_, std::ssize(values) / width);
      activity_.add(std::span(values).first(static_cast<std::size_t>(rows * width)), observations);
      activity_left_ -= rows;
    }
    moments_.add(values);  // leaves them centred
    if (decay_) decay_->add(cut(sites, columns.decay, entry_->size));
  }

  /// Fetches what the model took. Throws as check_finite().
  void settle() {
    if (!sums_) return;
    moments_.add(sums_->finish());
    check_finite();
    sums_.reset();
    if (!decay_sums_) return;
    const ChannelSums decay = decay_sums_->finish();
    decay_sums_.reset();
    for (std::size_t c = 0; c < decay.sums.size(); ++c) {
      decay_means_.push_back(decay.shift[c] + decay.sums[c] / static_cast<double>(decay.rows));
    }
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
    moments.decay = decay_ ? decay_->finish() : decay_means_;
    if (entry_->has_activity) {
      moments.activity = std::make_shared<const Activity>(activity_.finish());
    }
    return moments;
  }

  std::vector<float> quantiles() const {
    return quantiles_ ? quantiles_->finish() : std::vector<float>();
  }

 private:
  const StatisticsEntry* entry_;
  std::int64_t activity_rows_;
  std::int64_t activity_left_ = 0;
  MomentsAccumulator moments_;
  ActivityRecorder activity_;
  std::optional<ChannelQuantiles> quantiles_;
  std::optional<Means> decay_;

  // What the model takes itself, until settle().
  std::unique_ptr<SiteSums> sums_;
  std::unique_ptr<SiteSums> decay_sums_;
  std::vector<double> decay_means_;
};

/// The collectors of one entry, one for each half.
struct Pair {
  const StatisticsEntry* entry;
  const AxisGroup* group;
  Collector train;
  Collector heldout;

  Pair(const Layout& layout, const AxisGroup& whose, const StatisticsEntry& of,
       const CalibrationOptions& options, std::int64_t train_rows, Index layers,
       const SumsMaker* maker)
      : entry(&of),
        group(&whose),
        train(of, options, train_rows, EntryColumns(layout, whose, of, of.layer).dt.observations(),
              layers, maker),
        heldout(of, options, 0, 0, layers, maker) {}

  GroupStatistics finish() {
    train.settle();
    heldout.settle();
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
void run_layer(const LanguageModel<float>& model, Index layer, Stream& stream,
               std::span<const Listener> listeners, Progress& progress) {
  const ModelSpec& spec = model.spec();
  const auto step = static_cast<Index>(
      std::max<std::int64_t>(1, kChunkRows / std::max<Index>(1, stream.shape.length)));
  const std::string item = fmt::format("layers.{}", layer);
  SiteBuffers sites;
  for (const Listener& each : listeners) each.collector->begin_layer(sites, *each.columns);
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

/// The model as a maker of sums, if it is one and has room for those of every layer.
const SumsMaker* maker_of(const LanguageModel<float>& model,
                          std::span<const StatisticsEntry> entries, bool has_products) {
  const auto* maker = dynamic_cast<const SumsMaker*>(&model);
  if (maker == nullptr) return nullptr;
  std::map<Index, std::vector<Index>> sizes;  // by layer
  for (const StatisticsEntry& entry : entries) {
    const std::size_t halves = has_products && !entry.has_activity ? 2 : 0;
    sizes[entry.layer].insert(sizes[entry.layer].end(), halves, entry.size);
  }
  const std::vector<Index> pooled = sizes[-1];
  for (auto& [layer, own] : sizes) {
    if (layer >= 0) own.insert(own.end(), pooled.begin(), pooled.end());
    if (!maker->has_room_for_sums(own)) return nullptr;
  }
  return maker;
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
  const SumsMaker* maker = maker_of(model, entries, options.correlation);
  std::vector<Pair> pooled;
  for (auto entry = whole; entry != entries.end(); ++entry) {
    pooled.emplace_back(layout, *groups.at(entry->group), *entry, options, train_rows, spec.n_layer,
                        maker);
  }
  const Index layers = pooled.empty() ? entries.back().layer + 1 : spec.n_layer;

  progress.start("calibrate", (train_rows + tokens.heldout_shape.rows()) * layers, "tokens");
  Stream train(model, tokens.train_shape, tokens.train);
  Stream heldout(model, tokens.heldout_shape, tokens.heldout);
  auto next = entries.begin();
  for (Index layer = 0; layer < layers; ++layer) {
    std::vector<Pair> own;
    for (; next != whole && next->layer == layer; ++next) {
      own.emplace_back(layout, *groups.at(next->group), *next, options, train_rows, 1, maker);
    }
    std::vector<Pair*> pairs;
    for (std::vector<Pair>* some : {&own, &pooled}) {
      for (Pair& pair : *some) pairs.push_back(&pair);
    }
    std::vector<EntryColumns> columns;
    for (const Pair* pair : pairs) {
      columns.emplace_back(layout, *pair->group, *pair->entry, layer);
    }
    for (const auto& [stream, half] :
         {std::pair{&train, &Pair::train}, std::pair{&heldout, &Pair::heldout}}) {
      std::vector<Listener> listeners;
      for (std::size_t i = 0; i < pairs.size(); ++i) {
        listeners.push_back({&(pairs[i]->*half), &columns[i]});
      }
      run_layer(model, layer, *stream, listeners, progress);
    }
    for (Pair& pair : own) sink(pair.finish());
  }
  for (Pair& pair : pooled) sink(pair.finish());
}

}  // namespace icd
