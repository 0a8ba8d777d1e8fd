#include "icd/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <stdexcept>

#include "activity.h"
#include "gemm.h"
#include "icd/error.h"
#include "icd/random.h"
#include "quantile.h"
#include "support/families.h"
#include "support/family_files.h"
#include "support/files.h"
#include "support/naive_moments.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using testing::expect_near;
using ::testing::HasSubstr;
using testing::naive_moments;

constexpr Index kLayers = 2;
constexpr Index kModel = 3;
constexpr Index kInner = 70;  // more than one tile of the Gram matrix
constexpr Index kState = 4;
constexpr Index kRank = 2;

Index channels_of(Site site) {
  if (site == Site::normed) return kModel;
  return site == Site::x_proj ? kRank + 2 * kState : kInner;
}

/// What the model below shows: a function of the place and the token alone.
float activation(Index layer, Site site, TokenId token, Index channel) {
  const auto place =
      static_cast<std::uint64_t>((layer * 8 + static_cast<int>(site)) * 100 + channel);
  const double own = Random::derived(place, static_cast<std::uint64_t>(token)).normal();
  const double common = Random::derived(1000 + static_cast<std::uint64_t>(channel % 3),
                                        static_cast<std::uint64_t>(token))
                            .normal();
  const bool is_positive = site == Site::dt || site == Site::decay;
  return static_cast<float>(is_positive ? 0.01 * own * own : own + common);
}

/// A model whose activations are known: the residual carries the token through the layers.
class KnownModel : public LanguageModel<float> {
 public:
  TokenId bad_token = -1;  ///< one that turns channel 5 of "gated" into NaN
  bool is_hiding_conv = false;

  KnownModel() {
    spec_.n_layer = kLayers;
    spec_.d_model = kModel;
    spec_.d_inner = kInner;
    spec_.d_state = kState;
    spec_.dt_rank = kRank;
  }

  const ModelSpec& spec() const noexcept override { return spec_; }

  void embed(std::span<const TokenId> tokens, std::span<float> hidden) const override {
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      hidden[row * kModel] = static_cast<float>(tokens[row]);
    }
  }

  void layer(Index layer, BatchShape shape, std::span<float> hidden, LayerState<float>*,
             Observer<float>* observer) const override {
    EXPECT_EQ(hidden.size(), static_cast<std::size_t>(shape.rows()) * kModel);
    largest_rows = std::max(largest_rows, shape.rows());
    for (const Site site : kSites) {
      if (!observer->wants(site) || (is_hiding_conv && site == Site::conv)) continue;
      std::vector<float> values;
      for (std::size_t row = 0; row < hidden.size(); row += kModel) {
        const auto token = static_cast<TokenId>(hidden[row]);
        for (Index c = 0; c < channels_of(site); ++c) {
          const bool is_bad = token == bad_token && site == Site::gated && c == 5;
          values.push_back(is_bad ? std::numeric_limits<float>::quiet_NaN()
                                  : activation(layer, site, token, c));
        }
      }
      // In two pieces, as a model that works in blocks would.
      const std::size_t half = values.size() / 2 / static_cast<std::size_t>(channels_of(site)) *
                               static_cast<std::size_t>(channels_of(site));
      observer->see(layer, site, std::span(values).first(half), channels_of(site));
      observer->see(layer, site, std::span(values).subspan(half), channels_of(site));
    }
  }

  void head(std::span<const float>, std::span<float>) const override {}

  mutable std::int64_t largest_rows = 0;

 private:
  ModelSpec spec_;
};

/// A block of the model above and the groups that stand on its tensors.
Layout known_layout() {
  Layout layout;
  layout.spec.architecture = "mamba1";
  layout.groups.push_back({.name = "model", .kind = "model", .size = kModel});
  for (Index layer = 0; layer < kLayers; ++layer) {
    const std::string stem = "layers." + std::to_string(layer) + "/";
    const auto tensor = [&](const char* role) { return stem + role; };
    Block block;
    block.type = "mamba1";
    block.layer = layer;
    for (const char* role : {"in_proj.weight", "conv1d.weight", "x_proj.weight", "dt_proj.weight",
                             "out_proj.weight"}) {
      block.tensors[role] = tensor(role);
    }
    layout.blocks.push_back(block);
    layout.groups[0].segments.push_back({tensor("in_proj.weight"), 1});
    layout.groups.push_back({stem + "inner",
                             "inner",
                             layer,
                             kInner,
                             {{tensor("in_proj.weight"), 0},
                              {tensor("in_proj.weight"), 0, kInner},
                              {tensor("conv1d.weight"), 0},
                              {tensor("x_proj.weight"), 1},
                              {tensor("dt_proj.weight"), 0},
                              {tensor("out_proj.weight"), 1}}});
    layout.groups.push_back(
        {stem + "state",
         "state",
         layer,
         kState,
         {{tensor("x_proj.weight"), 0, kRank}, {tensor("x_proj.weight"), 0, kRank + kState}}});
    layout.groups.push_back({stem + "dt_rank",
                             "dt_rank",
                             layer,
                             kRank,
                             {{tensor("x_proj.weight"), 0}, {tensor("dt_proj.weight"), 1}}});
  }
  return layout;
}

TokenSplit known_tokens() {
  TokenSplit tokens{.train_shape = {5, 20}, .heldout_shape = {2, 20}, .train = {}, .heldout = {}};
  for (TokenId id = 0; id < 100; ++id) tokens.train.push_back(id);
  for (TokenId id = 0; id < 40; ++id) tokens.heldout.push_back(200 + id);
  return tokens;
}

std::vector<GroupStatistics> run(const LanguageModel<float>& model, const TokenSplit& tokens,
                                 const CalibrationOptions& options = {},
                                 const Layout& layout = known_layout()) {
  std::vector<GroupStatistics> all;
  Progress progress;
  calibrate(
      model, layout, tokens, options,
      [&](GroupStatistics&& statistics) { all.push_back(std::move(statistics)); }, progress);
  return all;
}

std::string name_of(const GroupStatistics& statistics) {
  return statistics.group + " " + statistics.signal;
}

std::vector<float> rows_of(Index layer, Site site, std::span<const TokenId> tokens, Index first,
                           Index count) {
  std::vector<float> rows;
  for (const TokenId token : tokens) {
    for (Index c = first; c < first + count; ++c) {
      rows.push_back(activation(layer, site, token, c));
    }
  }
  return rows;
}

/// The rows that a signal is about, from the definition.
std::vector<float> expected_rows(Index layer, std::string_view signal,
                                 std::span<const TokenId> tokens) {
  if (signal == "conv") return rows_of(layer, Site::conv, tokens, 0, kInner);
  if (signal == "gated") return rows_of(layer, Site::gated, tokens, 0, kInner);
  if (signal == "dt_rank") return rows_of(layer, Site::x_proj, tokens, 0, kRank);
  if (signal == "bc") {
    std::vector<float> rows = rows_of(layer, Site::x_proj, tokens, kRank, kState);
    const std::vector<float> c = rows_of(layer, Site::x_proj, tokens, kRank + kState, kState);
    rows.insert(rows.end(), c.begin(), c.end());
    return rows;
  }
  std::vector<float> rows;
  for (Index each = 0; each < kLayers; ++each) {
    const std::vector<float> more = rows_of(each, Site::normed, tokens, 0, kModel);
    rows.insert(rows.end(), more.begin(), more.end());
  }
  return rows;
}

void expect_equal(const Moments& a, const Moments& b) {
  EXPECT_EQ(a.rows, b.rows);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.variance, b.variance);
  EXPECT_EQ(a.minimum, b.minimum);
  EXPECT_EQ(a.maximum, b.maximum);
  EXPECT_EQ(a.correlation, b.correlation);
  EXPECT_EQ(a.decay, b.decay);
  ASSERT_EQ(a.activity == nullptr, b.activity == nullptr);
  if (a.activity) {
    EXPECT_EQ(a.activity->tokens, b.activity->tokens);
    EXPECT_EQ(a.activity->bits, b.activity->bits);
  }
}

TEST(Calibration, MeasuresEverySignalOfEveryGroup) {
  const TokenSplit tokens = known_tokens();
  const std::vector<GroupStatistics> all = run(KnownModel(), tokens);
  std::vector<std::string> names;
  for (const GroupStatistics& statistics : all) names.push_back(name_of(statistics));
  EXPECT_THAT(names,
              ElementsAre("layers.0/inner gated", "layers.0/inner conv", "layers.0/state bc",
                          "layers.0/dt_rank dt_rank", "layers.1/inner gated", "layers.1/inner conv",
                          "layers.1/state bc", "layers.1/dt_rank dt_rank", "model normed"));
  for (const GroupStatistics& statistics : all) {
    SCOPED_TRACE(name_of(statistics));
    const Index layer = statistics.group.starts_with("layers.1") ? 1 : 0;
    const std::size_t n = statistics.train.mean.size();
    expect_near(statistics.train,
                naive_moments(expected_rows(layer, statistics.signal, tokens.train), n));
    expect_near(statistics.heldout,
                naive_moments(expected_rows(layer, statistics.signal, tokens.heldout), n));
  }
}

TEST(Calibration, GivesTheQuantilesOfTheTrainStepSizes) {
  const TokenSplit tokens = known_tokens();
  for (const GroupStatistics& statistics : run(KnownModel(), tokens)) {
    if (statistics.signal != "gated") {
      EXPECT_TRUE(statistics.dt_quantiles.empty()) << name_of(statistics);
      continue;
    }
    const Index layer = statistics.group.starts_with("layers.1") ? 1 : 0;
    ChannelQuantiles expected(kInner, 100);
    expected.add(rows_of(layer, Site::dt, tokens.train, 0, kInner));
    EXPECT_EQ(statistics.dt_quantiles, expected.finish());
  }
}

TEST(Calibration, GivesTheMeanDecayOfChannelsThatHaveStepSizes) {
  const TokenSplit tokens = known_tokens();
  for (const GroupStatistics& statistics : run(KnownModel(), tokens)) {
    SCOPED_TRACE(name_of(statistics));
    if (!statistics.group.ends_with("/inner")) {
      EXPECT_TRUE(statistics.train.decay.empty());
      continue;
    }
    const Index layer = statistics.group.starts_with("layers.1") ? 1 : 0;
    const auto means = [&](std::span<const TokenId> ids) {
      return naive_moments(rows_of(layer, Site::decay, ids, 0, kInner), kInner).mean;
    };
    EXPECT_EQ(statistics.train.decay, means(tokens.train));
    EXPECT_EQ(statistics.heldout.decay, means(tokens.heldout));
  }
}

/// Bits of the k values of largest magnitude in every token, from the definition.
std::vector<std::uint64_t> naive_activity(const std::vector<float>& rows, std::size_t n,
                                          std::size_t observations, std::size_t active) {
  const std::size_t width = n * observations;
  const std::size_t tokens = rows.size() / width;
  const std::size_t words = (tokens + 63) / 64;
  std::vector<std::uint64_t> bits(n * words);
  for (std::size_t token = 0; token < tokens; ++token) {
    const auto value = [&](std::size_t i) { return std::abs(rows[token * width + i]); };
    for (std::size_t i = 0; i < width; ++i) {
      std::size_t ahead = 0;
      for (std::size_t k = 0; k < width; ++k) {
        const auto place = [&](std::size_t of) { return of % n * observations + of / n; };
        ahead += value(k) > value(i) || (value(k) == value(i) && place(k) < place(i)) ? 1 : 0;
      }
      if (ahead < active) bits[i % n * words + token / 64] |= std::uint64_t{1} << (token % 64);
    }
  }
  return bits;
}

TEST(Calibration, MarksTheLargestValuesOfEveryToken) {
  const TokenSplit tokens = known_tokens();
  const auto all = run(KnownModel(), tokens, {.activity = true, .active_share = 0.15});
  for (const GroupStatistics& statistics : all) {
    SCOPED_TRACE(name_of(statistics));
    ASSERT_TRUE(statistics.train.activity);
    const Activity& found = *statistics.train.activity;
    const std::size_t n = statistics.train.mean.size();
    EXPECT_EQ(found.size, static_cast<Index>(n));
    if (statistics.signal == "normed") {  // 2048 rows of each layer, if there are so many
      EXPECT_EQ(found.tokens, 200);
      EXPECT_EQ(found.bits, naive_activity(expected_rows(0, "normed", tokens.train), n, 1, 1));
    } else if (statistics.signal == "gated") {
      const Index layer = statistics.group.starts_with("layers.1") ? 1 : 0;
      EXPECT_EQ(found.tokens, 100);
      EXPECT_EQ(found.bits,
                naive_activity(expected_rows(layer, "gated", tokens.train), n, 1, 11));  // of 70
    } else if (statistics.signal == "bc") {
      const Index layer = statistics.group.starts_with("layers.1") ? 1 : 0;
      const auto rows = rows_of(layer, Site::x_proj, tokens.train, kRank, 2 * kState);
      EXPECT_EQ(found.tokens, 100);
      EXPECT_EQ(found.bits, naive_activity(rows, n, 2, 1));  // of 8
    }
  }
}

TEST(Calibration, GivesTiesToTheLowerChannelAndCountsNoTokenTwice) {
  ActivityRecorder recorder(3, 0.34);
  recorder.add(std::vector<float>{1, -1, 1, 0, -2, 2}, 1);  // two tokens: 0 wins, then 1
  recorder.add(std::vector<float>{0, 0, 5, 5, 0, 0}, 2);    // one token, of two rows: 0 and 2
  const Activity activity = recorder.finish();
  EXPECT_EQ(activity.tokens, 3);
  EXPECT_EQ(activity.bits, (std::vector<std::uint64_t>{0b101, 0b010, 0b100}));
}

TEST(Calibration, KeepsTheActivityOfTheFirstTokensAndOfEveryPooledLayerAlike) {
  TokenSplit tokens = known_tokens();
  tokens.train_shape = {5, 1000};
  tokens.train.clear();
  for (TokenId id = 0; id < 5000; ++id) tokens.train.push_back(id);
  for (const char* kind : {"dt_rank", "model"}) {
    const auto all = run(KnownModel(), tokens, {.kinds = {kind}, .activity = true});
    const Activity& found = *all[0].train.activity;
    const std::string_view signal = all[0].signal;
    ASSERT_EQ(found.tokens, kActivityTokens);
    std::vector<float> rows;
    const std::span<const TokenId> first(tokens.train);
    if (signal == "normed") {
      for (Index layer = 0; layer < kLayers; ++layer) {
        const auto own = rows_of(layer, Site::normed, first.first(2048), 0, kModel);
        rows.insert(rows.end(), own.begin(), own.end());
      }
    } else {
      rows = expected_rows(0, signal, first.first(4096));
    }
    EXPECT_EQ(found.bits, naive_activity(rows, all[0].train.mean.size(), 1, 1)) << kind;
  }
}

TEST(Calibration, WithoutCorrelationIsTheRestOfIt) {
  const TokenSplit tokens = known_tokens();
  const auto with = run(KnownModel(), tokens);
  const auto without = run(KnownModel(), tokens, {.correlation = false});
  ASSERT_EQ(with.size(), without.size());
  for (std::size_t i = 0; i < with.size(); ++i) {
    Moments expected = with[i].train;
    expected.correlation.clear();
    expect_equal(without[i].train, expected);
    EXPECT_EQ(without[i].dt_quantiles, with[i].dt_quantiles);
  }
}

/// Members that are runs of 10 columns, from the last run to the first.
TEST(Calibration, TakesEveryColumnOfARunAsAnObservation) {
  Layout layout = known_layout();
  AxisGroup heads{.name = "layers.0/head", .kind = "head", .layer = 0, .size = 7};
  heads.segments = {
      {.tensor = "layers.0/out_proj.weight", .dim = 1, .offset = 60, .stride = -10, .block = 10},
      {.tensor = "layers.0/dt_proj.weight", .dim = 0, .offset = 60, .stride = -10, .block = 10}};
  layout.groups = {heads};
  const TokenSplit tokens = known_tokens();
  const auto all = run(KnownModel(), tokens, {.activity = true}, layout);
  ASSERT_EQ(all.size(), 1u);
  EXPECT_EQ(all[0].signal, "gated");

  const auto in_runs = [&](Site site) {
    std::vector<float> rows;
    for (const TokenId token : tokens.train) {
      for (Index column = 0; column < 10; ++column) {
        for (Index head = 0; head < 7; ++head) {
          rows.push_back(activation(0, site, token, 10 * (6 - head) + column));
        }
      }
    }
    return rows;
  };
  const std::vector<float> gated = in_runs(Site::gated);
  expect_near(all[0].train, naive_moments(gated, 7));
  EXPECT_EQ(all[0].train.decay, naive_moments(in_runs(Site::decay), 7).mean);
  EXPECT_EQ(all[0].train.activity->bits, naive_activity(gated, 7, 10, 7));
  ChannelQuantiles quantiles(7, 1000);
  quantiles.add(in_runs(Site::dt));
  EXPECT_EQ(all[0].dt_quantiles, quantiles.finish());
}

TEST(Calibration, OfTheTrainTokensDoesNotSeeTheHeldOutOnes) {
  TokenSplit tokens = known_tokens();
  const std::vector<GroupStatistics> before = run(KnownModel(), tokens);
  for (TokenId& id : tokens.heldout) id += 1000;
  const std::vector<GroupStatistics> after = run(KnownModel(), tokens);
  ASSERT_EQ(before.size(), after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    SCOPED_TRACE(name_of(before[i]));
    expect_equal(before[i].train, after[i].train);
    EXPECT_EQ(before[i].dt_quantiles, after[i].dt_quantiles);
    EXPECT_NE(before[i].heldout.mean, after[i].heldout.mean);
  }
}

TEST(Calibration, HasTheSameBitsOnAnyNumberOfThreads) {
  const TokenSplit tokens = known_tokens();
  std::vector<std::vector<GroupStatistics>> results;
  for (const int threads : {1, 2}) {
    const ThreadScope scope(threads);
    results.push_back(run(KnownModel(), tokens, {.activity = true}));
  }
  for (std::size_t i = 0; i < results[0].size(); ++i) {
    SCOPED_TRACE(name_of(results[0][i]));
    expect_equal(results[0][i].train, results[1][i].train);
    expect_equal(results[0][i].heldout, results[1][i].heldout);
  }
}

TEST(Calibration, TakesWholeSequencesInChunksOfBoundedSize) {
  TokenSplit tokens = known_tokens();
  tokens.train_shape = {7, 1000};
  tokens.train.clear();
  for (TokenId id = 0; id < 7000; ++id) tokens.train.push_back(id);
  const KnownModel model;
  const std::vector<GroupStatistics> all =
      run(model, tokens, {.kinds = {"model"}, .signals = {"normed"}});
  EXPECT_EQ(model.largest_rows, 2000);
  ASSERT_EQ(all.size(), 1u);
  expect_near(all[0].train, naive_moments(expected_rows(0, "normed", tokens.train), kModel));
}

TEST(Calibration, MeasuresOnlyWhatIsAskedFor) {
  const TokenSplit tokens = known_tokens();
  const CalibrationOptions options{.kinds = {"state", "inner"}, .signals = {"gated", "bc"}};
  std::vector<std::string> names;
  for (const auto& statistics : run(KnownModel(), tokens, options)) {
    names.push_back(name_of(statistics));
  }
  EXPECT_THAT(names, ElementsAre("layers.0/inner gated", "layers.0/state bc",
                                 "layers.1/inner gated", "layers.1/state bc"));
}

TEST(Calibration, DoesNotRunLayersThatNobodyAskedFor) {
  Layout layout = known_layout();
  std::erase_if(layout.groups, [](const AxisGroup& group) { return group.layer != 0; });
  KnownModel model;
  std::int64_t tokens_done = 0;
  struct Counter : Progress {
    std::int64_t* done;
    void advance(std::int64_t amount, std::string_view) override { *done += amount; }
  } progress;
  progress.done = &tokens_done;
  calibrate(
      model, layout, known_tokens(), {}, [](GroupStatistics&&) {}, progress);
  EXPECT_EQ(tokens_done, 140);
}

/// what() of the error of the given code that `call` throws.
template <typename Call>
std::string error_of(ErrorCode code, const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return {};
}

TEST(Calibration, RefusesAKindWithoutSignals) {
  EXPECT_THAT(
      error_of(ErrorCode::usage, [] { statistics_entries(known_layout(), {.kinds = {"heads"}}); }),
      HasSubstr("kind 'heads': has no signals, expected model (normed), inner (gated, conv), state "
                "(bc), dt_rank (dt_rank)"));
}

TEST(Calibration, RefusesASignalOfAnotherKind) {
  EXPECT_THAT(
      error_of(ErrorCode::usage,
               [] { statistics_entries(known_layout(), {.kinds = {"inner"}, .signals = {"bc"}}); }),
      HasSubstr("signal 'bc': belongs to none of the kinds asked for"));
}

TEST(Calibration, RefusesALayoutOfAnotherSize) {
  Layout layout = known_layout();
  layout.groups[1].size = 80;
  Progress progress;
  EXPECT_THAT(error_of(ErrorCode::usage,
                       [&] {
                         calibrate(
                             KnownModel(), layout, known_tokens(), {}, [](GroupStatistics&&) {},
                             progress);
                       }),
              HasSubstr("layers.0/inner: signal 'gated' is channels [0, 80) in the layout, the "
                        "model has 70"));
}

TEST(Calibration, RefusesASignalThatTheModelDoesNotShow) {
  KnownModel model;
  model.is_hiding_conv = true;
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { run(model, known_tokens()); }),
              HasSubstr("layers.0/inner: the model shows no signal 'conv'"));
}

TEST(Calibration, RefusesAnActiveShareThatIsNone) {
  for (const double share : {0.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THAT(error_of(ErrorCode::usage,
                         [&] { statistics_entries(known_layout(), {.active_share = share}); }),
                HasSubstr("expected one in (0, 1]"));
  }
}

TEST(Calibration, RefusesASplitThatDoesNotFillItsShape) {
  TokenSplit tokens = known_tokens();
  tokens.heldout.pop_back();
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { run(KnownModel(), tokens); }),
              HasSubstr("held-out tokens: 39 ids, expected 2 sequences of 20"));
}

TEST(Calibration, NamesTheChannelThatIsNotFinite) {
  KnownModel model;
  model.bad_token = 220;
  EXPECT_THAT(error_of(ErrorCode::input, [&] { run(model, known_tokens()); }),
              HasSubstr("layers.0/inner: signal 'gated' of channel 5 is not finite"));
}

/// A family of the test models, open, and what its fast model shows of random tokens.
struct FamilyModel {
  testing::ScratchFolder folder;
  Checkpoint checkpoint;
  Layout layout;
  TokenSplit tokens{.train_shape = {4, 12}, .heldout_shape = {2, 12}, .train = {}, .heldout = {}};
  std::map<std::pair<Index, Site>, std::vector<float>> train;  ///< by layer

  explicit FamilyModel(std::string_view name) {
    std::vector<testing::Family> all = testing::mamba_families();
    for (testing::Family& family : testing::hybrid_families()) all.push_back(std::move(family));
    const testing::Family& family = *std::ranges::find(all, name, &testing::Family::name);
    testing::write_family(folder.path(), family, family.make(3));
    checkpoint = Checkpoint::open(folder.path());
    layout = layout_of(checkpoint, {.settings = family.settings});
    const auto model = fast_model(checkpoint, layout);
    Random random(7);
    for (auto* half : {&tokens.train, &tokens.heldout}) {
      const BatchShape shape = half == &tokens.train ? tokens.train_shape : tokens.heldout_shape;
      for (std::int64_t i = 0; i < shape.rows(); ++i) {
        half->push_back(
            static_cast<TokenId>(random.below(static_cast<std::uint64_t>(model->spec().vocab))));
      }
    }
    record(*model);
  }

  void record(const LanguageModel<float>& model) {
    struct Recorder : Observer<float> {
      FamilyModel* owner;
      bool wants(Site) const override { return true; }
      void see(Index layer, Site site, std::span<const float> values, Index) override {
        auto& kept = owner->train[{layer, site}];
        kept.insert(kept.end(), values.begin(), values.end());
      }
    } recorder;
    recorder.owner = this;
    std::vector<float> hidden(tokens.train.size() * static_cast<std::size_t>(model.spec().d_model));
    model.embed(tokens.train, hidden);
    for (Index layer = 0; layer < model.spec().n_layer; ++layer) {
      model.layer(layer, tokens.train_shape, hidden, nullptr, &recorder);
    }
  }

  /// The columns of a site, (rows * (columns / n), n): each list of n is an observation.
  std::vector<float> columns(Index layer, Site site, const std::vector<std::size_t>& wanted) const {
    const std::vector<float>& values = train.at({layer, site});
    const std::size_t width = values.size() / tokens.train.size();
    std::vector<float> rows;
    for (std::size_t row = 0; row < values.size(); row += width) {
      for (const std::size_t column : wanted) rows.push_back(values.at(row + column));
    }
    return rows;
  }

  std::vector<GroupStatistics> calibrated(int threads = 0,
                                          const CalibrationOptions& options = {}) const {
    const auto model = fast_model(checkpoint, layout, {.threads = threads});
    return run(*model, tokens, options, layout);
  }
};

const GroupStatistics& statistics_of(const std::vector<GroupStatistics>& all,
                                     const std::string& group, const std::string& signal) {
  const auto found = std::ranges::find_if(all, [&](const GroupStatistics& each) {
    return each.group == group && each.signal == signal;
  });
  if (found == all.end()) throw std::out_of_range(group + " " + signal);
  return *found;
}

/// first, first + step, ...: `count` of them.
std::vector<std::size_t> run_of(std::size_t first, std::size_t count, std::size_t step = 1) {
  std::vector<std::size_t> columns;
  for (std::size_t i = 0; i < count; ++i) columns.push_back(first + i * step);
  return columns;
}

std::vector<std::size_t> joined(std::vector<std::size_t> a, const std::vector<std::size_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// 2 groups of 3 heads of 4 channels, 5 states, and an MLP part of 12 channels before the scan's:
/// every column by hand.
TEST(Calibration, OfMamba2MeasuresEveryGroupWhereItsChannelsStand) {
  const FamilyModel model("mamba-ssm Mamba2, MLP part, biases, D a channel");
  const auto all = model.calibrated();
  const auto expect = [&](const std::string& group, const std::string& signal, Site site,
                          const std::vector<std::size_t>& columns, std::size_t n) {
    SCOPED_TRACE(group + " " + signal);
    expect_near(statistics_of(all, "layers.1/" + group, signal).train,
                naive_moments(model.columns(1, site, columns), n));
  };
  expect("mlp", "gated", Site::gated, run_of(0, 12), 12);
  for (std::size_t head = 0; head < 6; ++head) {
    const std::string group = "channel." + std::to_string(head);
    expect(group, "gated", Site::gated, run_of(12 + 4 * head, 4), 4);
    expect(group, "conv", Site::conv, run_of(4 * head, 4), 4);
  }
  for (std::size_t g = 0; g < 2; ++g) {
    std::vector<std::size_t> heads;
    for (std::size_t i = 0; i < 4; ++i) heads = joined(heads, run_of(12 + 12 * g + i, 3, 4));
    expect("head." + std::to_string(g), "gated", Site::gated, heads, 3);
    expect("state." + std::to_string(g), "bc", Site::conv,
           joined(run_of(24 + 5 * g, 5), run_of(34 + 5 * g, 5)), 5);
  }
  std::vector<std::size_t> groups;
  for (std::size_t i = 0; i < 12; ++i) groups = joined(groups, run_of(i, 2, 12));     // x
  for (std::size_t i = 0; i < 5; ++i) groups = joined(groups, run_of(24 + i, 2, 5));  // B
  for (std::size_t i = 0; i < 5; ++i) groups = joined(groups, run_of(34 + i, 2, 5));  // C
  expect("group", "conv", Site::conv, groups, 2);
}

TEST(Calibration, OfMamba2GivesHeadsTheirDecayAndStepSizes) {
  const FamilyModel model("mamba-ssm Mamba2");
  const auto all = model.calibrated();
  const auto& heads = statistics_of(all, "layers.0/head.1", "gated");
  EXPECT_EQ(heads.train.decay, naive_moments(model.columns(0, Site::decay, {3, 4, 5}), 3).mean);
  ChannelQuantiles quantiles(3, 48);
  quantiles.add(model.columns(0, Site::dt, {3, 4, 5}));
  EXPECT_EQ(heads.dt_quantiles, quantiles.finish());
  EXPECT_TRUE(statistics_of(all, "layers.0/channel.2", "gated").train.decay.empty());
  EXPECT_TRUE(statistics_of(all, "layers.0/channel.2", "gated").dt_quantiles.empty());
  const auto expected =
      naive_moments(model.columns(0, Site::decay, {0, 3, 1, 4, 2, 5}), 2);  // of the heads
  EXPECT_EQ(statistics_of(all, "layers.0/group", "conv").train.decay, expected.mean);
}

TEST(Calibration, PoolsTheStreamOfEveryLayerAndStep) {
  for (const char* name : {"mamba-ssm Mamba1, attention and MLPs", "jamba", "falcon_h1"}) {
    SCOPED_TRACE(name);
    const FamilyModel model(name);
    std::vector<float> rows;
    for (Index layer = 0; model.train.contains({layer, Site::normed}); ++layer) {
      const std::vector<float>& own = model.train.at({layer, Site::normed});
      rows.insert(rows.end(), own.begin(), own.end());
    }
    const auto all = model.calibrated(0, {.kinds = {"model"}});
    ASSERT_EQ(all.size(), 1u);
    // Steps alternate chunk by chunk, so that sums come in another order.
    expect_near(all[0].train, naive_moments(rows, all[0].train.mean.size()));
    EXPECT_GE(all[0].train.rows, 4 * std::ssize(model.tokens.train));  // steps of all layers
  }
}

TEST(Calibration, OfBlocksHasTheSameBitsOnAnyNumberOfThreads) {
  const FamilyModel model("mamba2 hf, two groups, biases");
  const auto one = model.calibrated(1, {.activity = true});
  const ThreadScope scope(3);
  const auto other = model.calibrated(3, {.activity = true});
  ASSERT_EQ(one.size(), other.size());
  for (std::size_t i = 0; i < one.size(); ++i) {
    SCOPED_TRACE(name_of(one[i]));
    expect_equal(one[i].train, other[i].train);
    expect_equal(one[i].heldout, other[i].heldout);
    EXPECT_EQ(one[i].dt_quantiles, other[i].dt_quantiles);
  }
}

TEST(Calibration, ServesEveryModelWhoseBlocksShowTheirSites) {
  using Signals = std::map<std::string, std::vector<std::string_view>>;
  const auto signals = [](const Layout& layout) {
    Signals found;
    for (const AxisGroup& group : layout.groups) {
      const auto own = signals_of(layout, group);
      if (!own.empty()) found[group.kind] = own;
    }
    return found;
  };
  const Signals mamba1 = {{"inner", {"gated", "conv"}},
                          {"state", {"bc"}},
                          {"dt_rank", {"dt_rank"}},
                          {"model", {"normed"}}};
  const Signals mamba2 = {{"channel", {"gated", "conv"}},
                          {"head", {"gated", "conv"}},
                          {"group", {"gated", "conv"}},
                          {"state", {"bc"}},
                          {"model", {"normed"}}};
  for (const char* name : {"mamba hf, tied", "falcon_mamba", "jamba"}) {
    const FamilyModel model(name);
    EXPECT_TRUE(can_calibrate(model.layout)) << name;
    EXPECT_EQ(signals(model.layout), mamba1) << name;
  }
  for (const char* name :
       {"mamba-ssm Mamba2", "mamba-codestral, consolidated", "bamba", "nemotron_h, plain experts",
        "granitemoehybrid, RoPE, experts", "falcon_h1"}) {
    const FamilyModel model(name);
    EXPECT_TRUE(can_calibrate(model.layout)) << name;
    EXPECT_EQ(signals(model.layout), mamba2) << name;
  }
  const FamilyModel mamba3("mamba-ssm Mamba3");  // runs, but shows no more than the stream
  EXPECT_EQ(signals(mamba3.layout), (Signals{{"model", {"normed"}}}));
  EXPECT_THAT(error_of(ErrorCode::usage, [&] { mamba3.calibrated(0, {.kinds = {"head"}}); }),
              HasSubstr("kind 'head': has no signals, expected model (normed)"));
}

TEST(Calibration, IsNotForModelsThatCannotRun) {
  Layout layout = known_layout();
  EXPECT_TRUE(can_calibrate(layout));
  layout.spec.architecture = "mixers";
  EXPECT_FALSE(can_calibrate(layout));
}

TEST(Calibration, DoesNotTellTwoMixersOfALayerApart) {
  Layout layout = known_layout();
  layout.blocks[1].layer = 0;
  EXPECT_THAT(signals_of(layout, *layout.find("layers.0/inner")), ElementsAre());
  EXPECT_THAT(signals_of(layout, *layout.find("model")), ElementsAre("normed"));
}

TEST(Calibration, TakesTheSignalThatIsWantedWhereAGroupHasIt) {
  const Layout layout = known_layout();
  const auto wanted = [&](const char* group, const char* signal) {
    return signal_for(layout, *layout.find(group), signal);
  };
  EXPECT_EQ(wanted("layers.0/inner", "conv"), "conv");
  EXPECT_EQ(wanted("layers.0/inner", "bc"), "gated");
  EXPECT_EQ(wanted("layers.0/state", "conv"), "bc");
  EXPECT_EQ(signal_for(layout, {.name = "x", .kind = "y", .layer = 0, .size = 2}, "conv"), "");
  EXPECT_EQ(signal_read_by("out_proj.weight"), "gated");
  EXPECT_EQ(signal_read_by("x_proj.weight"), "conv");
  EXPECT_EQ(signal_read_by(""), "normed");
  EXPECT_EQ(signal_read_by("down_proj.weight"), "");
}

}  // namespace
}  // namespace icd
