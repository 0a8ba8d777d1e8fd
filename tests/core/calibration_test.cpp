#include "icd/calibration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "gemm.h"
#include "icd/error.h"
#include "icd/random.h"
#include "quantile.h"
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
  return static_cast<float>(site == Site::dt ? 0.01 * own * own : own + common);
}

/// A model whose activations are known: the residual carries the token through the layers.
class KnownModel : public LanguageModel<float> {
 public:
  TokenId bad_token = -1;  ///< one that turns channel 5 of "gated" into NaN

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
    for (const Site site : {Site::normed, Site::conv, Site::x_proj, Site::dt, Site::gated}) {
      if (!observer->wants(site)) continue;
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

Layout known_layout() {
  Layout layout;
  layout.groups.push_back({.name = "model", .kind = "model", .size = kModel});
  for (Index layer = 0; layer < kLayers; ++layer) {
    const std::string stem = "layers." + std::to_string(layer) + "/";
    layout.groups.push_back({stem + "inner", "inner", layer, kInner});
    layout.groups.push_back({stem + "state", "state", layer, kState});
    layout.groups.push_back({stem + "dt_rank", "dt_rank", layer, kRank});
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
                                 const CalibrationOptions& options = {}) {
  std::vector<GroupStatistics> all;
  Progress progress;
  calibrate(
      model, known_layout(), tokens, options,
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
  EXPECT_EQ(a.correlation, b.correlation);
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
    results.push_back(run(KnownModel(), tokens));
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
      HasSubstr("kind 'heads'"));
}

TEST(Calibration, RefusesASignalOfAnotherKind) {
  EXPECT_THAT(
      error_of(ErrorCode::usage,
               [] { statistics_entries(known_layout(), {.kinds = {"inner"}, .signals = {"bc"}}); }),
      HasSubstr("signal 'bc': belongs to none of the kinds asked for (inner)"));
}

TEST(Calibration, RefusesALayoutOfAnotherSize) {
  Layout layout = known_layout();
  layout.groups[1].size = 64;
  Progress progress;
  EXPECT_THAT(error_of(ErrorCode::usage,
                       [&] {
                         calibrate(
                             KnownModel(), layout, known_tokens(), {}, [](GroupStatistics&&) {},
                             progress);
                       }),
              HasSubstr("layers.0/inner: 64 channels in the layout, 70 in the model"));
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

}  // namespace
}  // namespace icd
