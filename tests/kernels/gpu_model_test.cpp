#include "kernels/gpu_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "icd/calibration.h"
#include "icd/error.h"
#include "icd/layout.h"
#include "icd/random.h"
#include "icd/tokens.h"
#include "icd/verify.h"
#include "kernels/dense_gemm.h"
#include "kernels/gpu_plan.h"
#include "kernels/gpu_work.h"
#include "moments.h"
#include "site_sums.h"
#include "support/device.h"
#include "support/families.h"
#include "support/family_files.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"
#include "support/tiny_mamba2.h"

namespace icd {
namespace {

using testing::Family;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using ::testing::StartsWith;
using testing::TinyCheckpoint;
using testing::TinyMamba2;
using testing::TinyMamba2Options;
using testing::TinyOptions;

// Kernels may differ from their references by 2e-5 (tests/support/arrays.h), here several in turn,
// and sums are in f32.
constexpr double kTolerance = 5e-5;

/// A checkpoint on disk and what it is.
struct Case {
  std::string name;
  ScratchFolder folder;
  std::optional<Checkpoint> checkpoint;
  Layout layout;

  void open(const LayoutRequest& request = {}) {
    checkpoint.emplace(Checkpoint::open(folder.path()));
    layout = layout_of(*checkpoint, request);
  }
};

std::unique_ptr<Case> mamba1(std::string name, const TinyOptions& options) {
  auto made = std::make_unique<Case>();
  made->name = std::move(name);
  TinyCheckpoint(options).write(made->folder.path());
  made->open();
  return made;
}

std::unique_ptr<Case> mamba2(std::string name, const TinyMamba2Options& options) {
  auto made = std::make_unique<Case>();
  made->name = std::move(name);
  TinyMamba2(options).write(made->folder.path());
  made->open();
  return made;
}

/// Odd sizes, in which nothing is aligned, and sizes as models have them.
std::vector<std::unique_ptr<Case>> cases() {
  std::vector<std::unique_ptr<Case>> all;
  all.push_back(mamba1("mamba1", {}));
  all.push_back(mamba1("mamba1, biases, own head", {.proj_bias = true, .tied_head = false}));
  all.push_back(mamba1("mamba1, mamba-ssm, no conv bias", {.hf = false, .conv_bias = false}));
  all.push_back(mamba1(
      "mamba1, bf16, 64 wide",
      {.dtype = "BF16", .vocab = 200, .d_model = 64, .d_inner = 128, .d_state = 16, .dt_rank = 4}));
  all.push_back(mamba2("mamba2, two groups", {}));
  all.push_back(mamba2("mamba2, mamba-ssm, own head",
                       {.hf = false, .ngroups = 1, .heads_per_group = 4, .tied_head = false}));
  all.push_back(mamba2("mamba2, biases", {.conv_bias = false, .proj_bias = true}));
  all.push_back(mamba2("mamba2, heads of 64", {.dtype = "F16",
                                               .vocab = 200,
                                               .d_model = 64,
                                               .ngroups = 1,
                                               .heads_per_group = 2,
                                               .headdim = 64,
                                               .d_state = 128}));
  return all;
}

std::vector<TokenId> tokens_for(const ModelSpec& spec, std::int64_t count, std::uint64_t seed = 1) {
  return random_tokens(spec.vocab, count, seed);
}

template <typename Found, typename Expected>
double difference(std::span<const Found> found, std::span<const Expected> expected) {
  if (found.size() != expected.size()) return INFINITY;
  double gaps = 0;
  double squares = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double gap = static_cast<double>(found[i]) - static_cast<double>(expected[i]);
    gaps += gap * gap;
    squares += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
  }
  const double result = squares > 0 ? std::sqrt(gaps / squares) : std::sqrt(gaps);
  return std::isnan(result) ? INFINITY : result;
}

template <typename Found, typename Expected>
double difference(const std::vector<Found>& found, const std::vector<Expected>& expected) {
  return difference(std::span<const Found>(found), std::span<const Expected>(expected));
}

void expect_error(ErrorCode code, const std::string& part, const std::function<void()>& work) {
  try {
    work();
    ADD_FAILURE() << "no error, expected: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr(part));
    EXPECT_EQ(std::count(error.what(), error.what() + std::string(error.what()).size(), '\n'), 0);
  }
}

/// Everything that is shown, by layer and site.
template <typename Real>
class Everything : public Observer<Real> {
 public:
  bool wants(Site /*site*/) const override { return true; }
  void see(Index layer, Site site, std::span<const Real> values, Index channels) override {
    std::vector<Real>& all = seen[{layer, site}];
    all.insert(all.end(), values.begin(), values.end());
    widths[{layer, site}] = channels;
  }

  std::map<std::pair<Index, Site>, std::vector<Real>> seen;
  std::map<std::pair<Index, Site>, Index> widths;
};

template <typename Real>
Everything<Real> watched(const LanguageModel<Real>& model, std::span<const TokenId> tokens,
                         BatchShape shape) {
  Everything<Real> everything;
  std::vector<Real> hidden(tokens.size() * static_cast<std::size_t>(model.spec().d_model));
  model.embed(tokens, hidden);
  for (Index i = 0; i < model.spec().n_layer; ++i) {
    model.layer(i, shape, hidden, nullptr, &everything);
  }
  return everything;
}

// What needs no device.

TEST(GpuPlan, TakesModelsOfMambaMixers) {
  for (const auto& each : cases()) {
    SCOPED_TRACE(each->name);
    const GpuPlan plan = gpu_plan(*each->checkpoint, each->layout);
    EXPECT_EQ(plan.layers.size(), 2U);
    EXPECT_EQ(plan.spec.vocab, each->layout.spec.vocab);
    std::int64_t elements = 0;
    for (const StoredTensor& tensor : each->checkpoint->tensors()) {
      elements += each->checkpoint->view(tensor).elements();
    }
    EXPECT_EQ(weight_bytes(*each->checkpoint, plan), 4 * elements);
  }
}

TEST(GpuPlan, NamesWhatHasNoKernel) {
  const auto refused = [](const std::unique_ptr<Case>& model, const std::string& part) {
    SCOPED_TRACE(model->name);
    expect_error(ErrorCode::unsupported, part,
                 [&] { gpu_plan(*model->checkpoint, model->layout); });
  };
  refused(mamba1("norm", {.hf = false, .layer_norm = true}), "has LayerNorms");
  refused(mamba1("width", {.hf = false, .d_conv = 9}), "has d_conv 9, on a GPU expected at most 8");
  refused(mamba2("mlp", {.hf = false, .heads_per_group = 1, .d_mlp = 8}),
          "has d_mlp 8, on a GPU expected at most 0");
  refused(mamba2("D", {.hf = false, .d_per_channel = true}), "has a value a channel");
}

TEST(GpuPlan, RefusesEveryOtherFamilyInOneLine) {
  std::size_t taken = 0;
  std::vector<Family> families = testing::mamba_families();
  for (auto more : {testing::hybrid_families(), testing::other_families()}) {
    families.insert(families.end(), more.begin(), more.end());
  }
  for (const Family& family : families) {
    SCOPED_TRACE(family.name);
    const ScratchFolder folder;
    testing::write_family(folder.path(), family, family.make(1));
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    const Layout layout = layout_of(checkpoint, {.settings = family.settings});
    try {
      gpu_plan(checkpoint, layout);
      ++taken;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::unsupported) << error.what();
      EXPECT_THAT(error.hint(), StartsWith("--device cpu"));
    }
  }
  EXPECT_GE(taken, 5U);
}

// What does.

class GpuModelOnDevice : public testing::DeviceTest {
 protected:
  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    try {
      open_cublas_lt();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what() << "; " << error.hint();
    }
  }
};

TEST_F(GpuModelOnDevice, GivesTheLogitsOfTheReference) {
  for (const auto& each : cases()) {
    SCOPED_TRACE(each->name);
    const auto model = gpu_model(*each->checkpoint, each->layout);
    const auto reference = reference_model(*each->checkpoint, each->layout);
    for (const BatchShape shape :
         {BatchShape{1, 1}, BatchShape{1, 2}, BatchShape{3, 7}, BatchShape{2, 300}}) {
      const auto tokens = tokens_for(model->spec(), shape.rows());
      EXPECT_LE(difference(model->logits(tokens, shape), reference->logits(tokens, shape)),
                kTolerance)
          << shape.sequences << " sequences of " << shape.length;
    }
  }
}

TEST_F(GpuModelOnDevice, GivesTheLogitsOfEveryFamilyItTakes) {
  std::vector<Family> families = testing::mamba_families();
  for (auto more : {testing::hybrid_families(), testing::other_families()}) {
    families.insert(families.end(), more.begin(), more.end());
  }
  for (const Family& family : families) {
    SCOPED_TRACE(family.name);
    const ScratchFolder folder;
    testing::write_family(folder.path(), family, family.make(1));
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    const Layout layout = layout_of(checkpoint, {.settings = family.settings});
    try {
      gpu_plan(checkpoint, layout);
    } catch (const Error&) {
      continue;
    }
    const auto model = gpu_model(checkpoint, layout);
    const auto reference = reference_model(checkpoint, layout);
    const BatchShape shape = {.sequences = 2, .length = 40};
    const auto tokens = tokens_for(model->spec(), shape.rows());
    EXPECT_LE(difference(model->logits(tokens, shape), reference->logits(tokens, shape)),
              kTolerance);
  }
}

TEST_F(GpuModelOnDevice, CutsBatchesWithoutATrace) {
  const BatchShape shape = {.sequences = 3, .length = 37};
  for (const auto& each : cases()) {
    const auto tokens = tokens_for(each->layout.spec, shape.rows());
    const auto whole = gpu_model(*each->checkpoint, each->layout)->logits(tokens, shape);
    for (const std::int64_t rows : {1, 8, 80}) {
      SCOPED_TRACE(each->name + ", rows at once: " + std::to_string(rows));
      const auto model = gpu_model(*each->checkpoint, each->layout, {.rows_at_once = rows});
      EXPECT_LE(difference(model->logits(tokens, shape), whole), kTolerance);
    }
  }
}

TEST_F(GpuModelOnDevice, ShowsWhatTheReferenceShows) {
  const BatchShape shape = {.sequences = 3, .length = 21};
  for (const auto& each : cases()) {
    const auto tokens = tokens_for(each->layout.spec, shape.rows());
    const auto reference = reference_model(*each->checkpoint, each->layout);
    const auto expected = watched(*reference, tokens, shape);
    for (const std::int64_t rows : {16, 4096}) {
      const auto model = gpu_model(*each->checkpoint, each->layout, {.rows_at_once = rows});
      const auto found = watched(*model, tokens, shape);
      EXPECT_EQ(found.widths, expected.widths) << each->name;
      for (const auto& [at, values] : expected.seen) {
        const auto own = found.seen.find(at);
        ASSERT_NE(own, found.seen.end());
        EXPECT_LE(difference(own->second, values), kTolerance)
            << each->name << ", layer " << at.first << ", site " << static_cast<int>(at.second)
            << ", rows at once: " << rows;
      }
    }
  }
}

TEST_F(GpuModelOnDevice, GoesOnTokenByTokenAsItWouldInOneRun) {
  constexpr Index kSequences = 3;
  constexpr Index kPrompt = 19;
  constexpr Index kSteps = 6;  // the first runs as it is, the second is captured, then replays
  const BatchShape shape = {.sequences = kSequences, .length = kPrompt + kSteps};
  for (const auto& each : cases()) {
    SCOPED_TRACE(each->name);
    const auto model = gpu_model(*each->checkpoint, each->layout);
    const auto vocab = static_cast<std::size_t>(model->spec().vocab);
    const auto tokens = tokens_for(model->spec(), shape.rows());
    const auto all = model->logits(tokens, shape);
    const auto columns = [&](Index first, Index count) {
      std::vector<TokenId> ids;
      for (Index s = 0; s < kSequences; ++s) {
        for (Index t = 0; t < count; ++t) {
          ids.push_back(tokens[static_cast<std::size_t>(s * shape.length + first + t)]);
        }
      }
      return ids;
    };
    const auto expected = [&](Index token) {
      std::vector<float> rows;
      for (Index s = 0; s < kSequences; ++s) {
        const auto row =
            all.begin() + static_cast<std::ptrdiff_t>((std::int64_t{s} * shape.length + token) *
                                                      static_cast<std::int64_t>(vocab));
        rows.insert(rows.end(), row, row + static_cast<std::ptrdiff_t>(vocab));
      }
      return rows;
    };
    const auto session = model->start(kSequences);
    EXPECT_LE(difference(session->prefill(columns(0, kPrompt), kPrompt), expected(kPrompt - 1)),
              kTolerance);
    for (Index step = 0; step < kSteps; ++step) {
      EXPECT_LE(difference(session->step(columns(kPrompt + step, 1)), expected(kPrompt + step)),
                kTolerance)
          << "step " << step;
    }

    // Steps and prefills in turn, and a first call that is a step.
    const auto mixed = model->start(kSequences);
    EXPECT_LE(difference(mixed->step(columns(0, 1)), expected(0)), kTolerance);
    EXPECT_LE(difference(mixed->step(columns(1, 1)), expected(1)), kTolerance);
    EXPECT_LE(difference(mixed->prefill(columns(2, 3), 3), expected(4)), kTolerance);
    EXPECT_LE(difference(mixed->step(columns(5, 1)), expected(5)), kTolerance);
    EXPECT_LE(difference(mixed->prefill(columns(6, 12), 12), expected(17)), kTolerance);
    EXPECT_LE(difference(mixed->step(columns(18, 1)), expected(18)), kTolerance);
  }
}

TEST_F(GpuModelOnDevice, RefusesCallsThatDoNotFit) {
  const auto each = mamba1("mamba1", {});
  const auto model = gpu_model(*each->checkpoint, each->layout);
  const auto session = model->start(2);
  expect_error(ErrorCode::usage, "id is 24, expected one in [0, 24)", [&] {
    session->step(std::vector<TokenId>{1, 24});
  });
  expect_error(ErrorCode::usage, "has 1 elements, expected 2",
               [&] { session->step(std::vector<TokenId>{1}); });
  expect_error(ErrorCode::usage, "expected at least one", [&] { model->start(0); });
  std::vector<float> hidden(8);
  LayerState<float> state;
  expect_error(ErrorCode::unsupported, "sequences go on in a session",
               [&] { model->layer(0, {.sequences = 1, .length = 1}, hidden, &state); });
  expect_error(ErrorCode::unavailable, "cudaSetDevice",
               [&] { gpu_model(*each->checkpoint, each->layout, {.device = 4096}); });
  EXPECT_NO_THROW(session->step(std::vector<TokenId>{1, 2})) << "an error is not left behind";
}

std::vector<GroupStatistics> statistics_of(const LanguageModel<float>& model, const Case& of,
                                           const TokenSplit& split,
                                           const CalibrationOptions& options = {}) {
  std::vector<GroupStatistics> all;
  Progress progress;
  calibrate(
      model, of.layout, split, options,
      [&](GroupStatistics&& statistics) { all.push_back(std::move(statistics)); }, progress);
  return all;
}

void expect_near(const Moments& found, const Moments& expected) {
  EXPECT_EQ(found.rows, expected.rows);
  EXPECT_LE(difference(found.mean, expected.mean), 1e-4);
  EXPECT_LE(difference(found.variance, expected.variance), 1e-4);
  EXPECT_LE(difference(found.minimum, expected.minimum), 1e-4);
  EXPECT_LE(difference(found.maximum, expected.maximum), 1e-4);
  EXPECT_LE(difference(found.decay, expected.decay), 1e-4);
  EXPECT_LE(difference(found.correlation, expected.correlation), 1e-4);
}

void expect_near(const std::vector<GroupStatistics>& found,
                 const std::vector<GroupStatistics>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    SCOPED_TRACE(expected[i].group + ", " + expected[i].signal);
    EXPECT_EQ(found[i].group, expected[i].group);
    EXPECT_EQ(found[i].signal, expected[i].signal);
    expect_near(found[i].train, expected[i].train);
    expect_near(found[i].heldout, expected[i].heldout);
    EXPECT_LE(difference(found[i].dt_quantiles, expected[i].dt_quantiles), 1e-4);
  }
}

TEST_F(GpuModelOnDevice, HasTheStatisticsOfTheCpu) {
  for (const auto& each : cases()) {
    const auto ids = tokens_for(each->layout.spec, 480);
    const TokenSplit split = split_tokens(ids, 40, 480, 0.25);
    const auto expected = statistics_of(*fast_model(*each->checkpoint, each->layout), *each, split);
    for (const std::int64_t rows : {16, 100, 4096}) {
      SCOPED_TRACE(each->name + ", rows at once: " + std::to_string(rows));
      const auto model = gpu_model(*each->checkpoint, each->layout, {.rows_at_once = rows});
      expect_near(statistics_of(*model, *each, split), expected);
    }
  }
}

TEST_F(GpuModelOnDevice, HasTheStatisticsThatAreAskedFor) {
  const auto each = mamba1("mamba1", {});
  const auto ids = tokens_for(each->layout.spec, 480);
  const TokenSplit split = split_tokens(ids, 40, 480, 0.25);
  const auto model = gpu_model(*each->checkpoint, each->layout);
  const auto cpu = fast_model(*each->checkpoint, each->layout);
  for (const CalibrationOptions& options :
       {CalibrationOptions{.correlation = false}, CalibrationOptions{.activity = true},
        CalibrationOptions{.kinds = {"inner"}, .signals = {"conv"}}}) {
    const auto found = statistics_of(*model, *each, split, options);
    const auto expected = statistics_of(*cpu, *each, split, options);
    expect_near(found, expected);
    for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
      EXPECT_EQ(found[i].train.activity != nullptr, options.activity);
    }
  }
}

// Columns of all kinds: stretches apart and mirrored, several values a member, offsets and units
// that f32 products would not survive, a constant, rows in several calls, more than go into one
// product.
TEST_F(GpuModelOnDevice, AddsUpAsTheCpuDoes) {
  constexpr std::int64_t kWidth = 90;
  constexpr std::int64_t kRows = 1500;
  constexpr Index kMembers = 13;
  const std::vector<SiteColumns> all_columns = {
      {.stretches = {{.tensor = {}, .offset = 2}}},
      {.stretches = {{.tensor = {}, .offset = 1, .stride = 3, .block = 3}}},
      {.stretches = {{.tensor = {}, .offset = 0}, {.tensor = {}, .offset = 70, .stride = -2}}}};
  Random random(7);
  std::vector<float> values;
  for (std::int64_t i = 0; i < kRows * kWidth; ++i) {
    const std::int64_t c = i % kWidth;
    const double value = random.uniform() + (i / kWidth % 2 == 0 ? 0.25 : 0);
    values.push_back(static_cast<float>(c % 7 == 3   ? 3.7
                                        : c % 7 == 4 ? 1e-28 * value
                                        : c % 7 == 5 ? 1e15 * value
                                        : c % 7 == 6 ? 1000 + value
                                                     : value));
  }
  const auto each = mamba1("mamba1", {});
  const auto model = gpu_model(*each->checkpoint, each->layout);
  const auto* maker = dynamic_cast<const SumsMaker*>(model.get());
  ASSERT_NE(maker, nullptr);
  EXPECT_TRUE(maker->has_room_for_sums(std::vector<Index>{kMembers, kMembers}));
  EXPECT_FALSE(maker->has_room_for_sums(std::vector<Index>{1 << 20}));
  const GpuTensor on_device(values);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  for (const SiteColumns& columns : all_columns) {
    SCOPED_TRACE(std::to_string(columns.stretches.size()) + " stretches of block " +
                 std::to_string(columns.stretches[0].block));
    const auto sums = maker->sums(kMembers, true);
    sums->add(on_device.data(), 1000, kWidth, columns);
    sums->add(on_device.data() + 1000 * kWidth, kRows - 1000, kWidth, columns);
    MomentsAccumulator found(kMembers);
    found.add(sums->finish());
    std::vector<float> cut;
    for (const AxisSegment& stretch : columns.stretches) {
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (Index i = 0; i < stretch.block; ++i) {
          for (Index k = 0; k < kMembers; ++k) {
            cut.push_back(values[static_cast<std::size_t>(row * kWidth + stretch.offset +
                                                          k * stretch.stride + i)]);
          }
        }
      }
    }
    MomentsAccumulator expected(kMembers);
    expected.add(cut);
    ASSERT_FALSE(found.first_fault());
    const Moments a = found.finish();
    const Moments b = expected.finish();
    EXPECT_EQ(a.rows, b.rows);
    EXPECT_EQ(a.minimum, b.minimum);
    EXPECT_EQ(a.maximum, b.maximum);
    for (std::size_t c = 0; c < kMembers; ++c) {
      EXPECT_NEAR(a.mean[c], b.mean[c], 1e-12 * std::abs(b.mean[c])) << c;
      EXPECT_NEAR(a.variance[c], b.variance[c], 1e-9 * b.variance[c]) << c;
    }
    for (std::size_t i = 0; i < a.correlation.size(); ++i) {
      if (std::isnan(b.correlation[i])) {
        EXPECT_TRUE(std::isnan(a.correlation[i])) << i;
      } else {
        EXPECT_NEAR(a.correlation[i], b.correlation[i], 1e-5) << i;
      }
    }
  }

  values[static_cast<std::size_t>(700 * kWidth + 2 + 5)] = NAN;
  const GpuTensor spoilt(values);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const auto sums = maker->sums(kMembers, true);
  sums->add(spoilt.data(), kRows, kWidth, all_columns[0]);
  MomentsAccumulator faulty(kMembers);
  faulty.add(sums->finish());
  EXPECT_EQ(faulty.first_fault(), 5);
}

TEST_F(GpuModelOnDevice, MeasuresTheSameTwice) {
  for (const auto& each : cases()) {
    const auto ids = tokens_for(each->layout.spec, 480);
    const TokenSplit split = split_tokens(ids, 40, 480, 0.25);
    const auto model = gpu_model(*each->checkpoint, each->layout);
    const auto first = statistics_of(*model, *each, split);
    const auto second = statistics_of(*model, *each, split);
    ASSERT_EQ(first.size(), second.size());
    const auto bits = [](const std::vector<float>& values) {
      return std::vector<std::byte>(std::as_bytes(std::span(values)).begin(),
                                    std::as_bytes(std::span(values)).end());
    };
    for (std::size_t i = 0; i < first.size(); ++i) {
      SCOPED_TRACE(each->name + ", " + first[i].group + ", " + first[i].signal);
      EXPECT_EQ(first[i].train.mean, second[i].train.mean);
      EXPECT_EQ(first[i].train.variance, second[i].train.variance);
      EXPECT_EQ(bits(first[i].train.correlation), bits(second[i].train.correlation));
      EXPECT_EQ(bits(first[i].heldout.correlation), bits(second[i].heldout.correlation));
    }
  }
}

TEST_F(GpuModelOnDevice, VerifiesACheckpointAgainstItself) {
  for (const auto& each : cases()) {
    SCOPED_TRACE(each->name);
    VerifyOptions options;
    options.shape = {.sequences = 2, .length = 48};
    options.tokens = tokens_for(each->layout.spec, options.shape.rows());
    options.make_model = [](const Checkpoint& checkpoint, const Layout& layout) {
      return gpu_model(checkpoint, layout);
    };
    Progress progress;
    const VerifyReport report = verify(*each->checkpoint, each->layout, *each->checkpoint,
                                       each->layout, nullptr, options, progress);
    ASSERT_EQ(report.logits.size(), 1U);
    EXPECT_EQ(report.logits[0].max_abs, 0) << "the same twice";
  }
}

TEST_F(GpuModelOnDevice, RunsTheBundledModel) {
  const Checkpoint checkpoint = Checkpoint::open(testing::bundled_model());
  const Layout layout = layout_of(checkpoint);
  const BatchShape shape = {.sequences = 2, .length = 48};
  const auto tokens = tokens_for(layout.spec, shape.rows());
  const auto model = gpu_model(checkpoint, layout);
  EXPECT_LE(difference(model->logits(tokens, shape),
                       fast_model(checkpoint, layout)->logits(tokens, shape)),
            kTolerance);

  // What a bf16 model says next, greedily, by both ways of going on.
  const auto session = model->start(1);
  std::vector<TokenId> text(tokens.begin(), tokens.begin() + 16);
  const auto likeliest = [](std::span<const float> logits) {
    return static_cast<TokenId>(std::ranges::max_element(logits) - logits.begin());
  };
  text.push_back(likeliest(session->prefill(text, 16)));
  for (int i = 0; i < 8; ++i) {
    const auto logits = session->step(std::span(text).last(1));
    const auto whole =
        model->logits(text, {.sequences = 1, .length = static_cast<Index>(text.size())});
    EXPECT_LE(difference(std::span<const float>(logits),
                         std::span<const float>(whole).last(logits.size())),
              kTolerance)
        << "token " << i;
    text.push_back(likeliest(logits));
  }
}

}  // namespace
}  // namespace icd
