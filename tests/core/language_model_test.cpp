#include "icd/language_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "fast_model.h"
#include "icd/error.h"
#include "icd/random.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyOptions;

/// A checkpoint on disk, open.
struct Model {
  ScratchFolder folder;
  Checkpoint checkpoint;
  ModelSpec spec;

  explicit Model(const TinyOptions& options = {})
      : checkpoint(written(options, folder)), spec(ModelSpec::of(checkpoint)) {}

  static Checkpoint written(const TinyOptions& options, const ScratchFolder& folder) {
    TinyCheckpoint(options).write(folder.path());
    return Checkpoint::open(folder.path());
  }

  std::vector<TokenId> tokens(std::int64_t count, std::uint64_t seed = 7) const {
    Random random(seed);
    std::vector<TokenId> ids(static_cast<std::size_t>(count));
    for (TokenId& id : ids) {
      id = static_cast<TokenId>(random.below(static_cast<std::uint64_t>(spec.vocab)));
    }
    return ids;
  }

  std::unique_ptr<LanguageModel<float>> fast(const FastModelOptions& options = {}) const {
    return fast_model(checkpoint, spec, options);
  }
  std::unique_ptr<LanguageModel<double>> reference() const {
    return reference_model(checkpoint, spec);
  }
};

/// max|found - exact| / max|exact|
template <typename Real>
double relative_error(const std::vector<Real>& found, const std::vector<double>& exact) {
  if (found.size() != exact.size()) return INFINITY;
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(found[i]) - exact[i]));
    largest = std::max(largest, std::abs(exact[i]));
  }
  return worst / largest;
}

// Sizes that divide by nothing and sizes that divide by everything, in both dialects, with
// every tensor that may be there or not.
std::map<std::string, TinyOptions> variants() {
  const TinyOptions wide = {.d_model = 24, .d_inner = 48, .d_state = 16, .dt_rank = 2};
  std::map<std::string, TinyOptions> all;
  all["hf"] = {};
  all["mamba_ssm"] = {.hf = false};
  all["wide"] = wide;
  all["odd"] = {.hf = false, .vocab = 40, .d_model = 11, .d_inner = 22, .d_state = 3};
  all["bf16"] = {.dtype = "BF16"};
  all["f16"] = {.dtype = "F16"};
  all["no_conv_bias"] = {.conv_bias = false};
  all["proj_bias"] = {.proj_bias = true};
  all["odd_proj_bias"] = {.d_model = 11, .d_inner = 22, .proj_bias = true};
  all["layer_norm"] = {.hf = false, .layer_norm = true};
  all["untied"] = {.tied_head = false};
  all["one_tap"] = {.d_conv = 1};
  all["two_taps"] = {.d_conv = 2};
  return all;
}

class EveryVariant : public ::testing::TestWithParam<std::string> {
 protected:
  Model model{variants().at(GetParam())};
};

/// The largest relative error of a fast model's layers and head, each fed with what the
/// reference made so far: a random model blows small errors up from layer to layer (its rows
/// differ a hundredfold in size), which says nothing about the arithmetic.
double largest_part_error(const LanguageModel<float>& fast, const LanguageModel<double>& reference,
                          const std::vector<TokenId>& tokens, BatchShape shape) {
  const ModelSpec& spec = fast.spec();
  std::vector<float> hidden(tokens.size() * static_cast<std::size_t>(spec.d_model));
  fast.embed(tokens, hidden);
  double worst = 0;
  for (Index i = 0; i < spec.n_layer; ++i) {
    std::vector<double> exact(hidden.begin(), hidden.end());
    fast.layer(i, shape, hidden);
    reference.layer(i, shape, exact);
    worst = std::max(worst, relative_error(hidden, exact));
    hidden.assign(exact.begin(), exact.end());
  }
  std::vector<float> logits(tokens.size() * static_cast<std::size_t>(spec.vocab));
  std::vector<double> exact(logits.size());
  fast.head(hidden, logits);
  reference.head(std::vector<double>(hidden.begin(), hidden.end()), exact);
  return std::max(worst, relative_error(logits, exact));
}

TEST_P(EveryVariant, FastAgreesWithReference) {
  const BatchShape shape = {.sequences = 3, .length = 17};
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  EXPECT_LE(largest_part_error(*model.fast(), *model.reference(), tokens, shape), 2e-6);
}

TEST_P(EveryVariant, OneDnnAgreesWithReference) {
  if (!is_built_with_onednn()) GTEST_SKIP() << "built without oneDNN";
  const BatchShape shape = {.sequences = 2, .length = 9};
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  const auto fast = model.fast({.gemm = GemmEngine::onednn});
  EXPECT_LE(largest_part_error(*fast, *model.reference(), tokens, shape), 2e-6);
}

TEST_P(EveryVariant, HasTheSameBitsOnEveryCpuPath) {
  const BatchShape shape = {.sequences = 2, .length = 13};
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  const auto logits = [&](CpuPath path) {
    return fast_model_on(path, model.checkpoint, model.spec)->logits(tokens, shape);
  };
  const std::vector<float> expected = logits(CpuPath::plain);
  for (const CpuPath path : kCpuPaths) {
    if (!is_supported(path)) continue;
    EXPECT_EQ(logits(path), expected) << cpu_kernels(path).name;
  }
}

/// Logits of one sequence, a token at a time.
template <typename Real>
std::vector<Real> stepped(const LanguageModel<Real>& model, const std::vector<TokenId>& tokens) {
  std::vector<LayerState<Real>> state;
  std::vector<Real> all;
  for (const TokenId token : tokens) {
    const std::vector<Real> logits = model.step(std::vector{token}, state);
    all.insert(all.end(), logits.begin(), logits.end());
  }
  return all;
}

TEST_P(EveryVariant, StepsGiveTheBitsOfTheWholeSequence) {
  const std::vector<TokenId> tokens = model.tokens(11);
  const BatchShape shape = {.sequences = 1, .length = 11};
  const auto fast = model.fast();
  EXPECT_EQ(stepped(*fast, tokens), fast->logits(tokens, shape));
  const auto reference = model.reference();
  EXPECT_EQ(stepped(*reference, tokens), reference->logits(tokens, shape));
}

std::vector<std::string> variant_names() {
  std::vector<std::string> names;
  for (const auto& [name, options] : variants()) names.push_back(name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(LanguageModel, EveryVariant, ::testing::ValuesIn(variant_names()),
                         [](const auto& variant) { return variant.param; });

TEST(LanguageModel, HasTheSameBitsForAnyNumberOfThreads) {
  const Model model({.d_model = 24, .d_inner = 300, .d_state = 16});
  const BatchShape shape = {.sequences = 3, .length = 50};
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  const std::vector<float> expected = model.fast({.threads = 1})->logits(tokens, shape);
  for (const int threads : {2, 3, 5}) {
    EXPECT_EQ(model.fast({.threads = threads})->logits(tokens, shape), expected) << threads;
  }
}

TEST(LanguageModel, HasTheSameBitsForASequenceAloneAndInABatch) {
  const Model model;
  const BatchShape shape = {.sequences = 4, .length = 200};  // passes of 2 sequences
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  const auto fast = model.fast();
  const std::vector<float> together = fast->logits(tokens, shape);
  std::vector<float> apart;
  for (std::size_t s = 0; s < 4; ++s) {
    const std::vector<float> logits =
        fast->logits(std::span(tokens).subspan(s * 200, 200), {.sequences = 1, .length = 200});
    apart.insert(apart.end(), logits.begin(), logits.end());
  }
  EXPECT_EQ(together, apart);
}

TEST(LanguageModel, PassesALongSequenceInStretchesWithTheSameBits) {
  const Model model;
  const std::vector<TokenId> tokens = model.tokens(1200);  // 512 + 512 + 176
  const BatchShape shape = {.sequences = 1, .length = 1200};
  const auto fast = model.fast();
  const std::vector<float> whole = fast->logits(tokens, shape);
  EXPECT_EQ(stepped(*fast, tokens), whole);
  EXPECT_LE(relative_error(whole, model.reference()->logits(tokens, shape)), 1e-5);
}

TEST(LanguageModel, GoesOnFromTheStateOfABatch) {
  const Model model;
  const auto fast = model.fast();
  const auto d_model = static_cast<std::size_t>(model.spec.d_model);
  const std::vector<TokenId> tokens = model.tokens(20);  // (2, 10)
  std::vector<float> whole(tokens.size() * d_model);
  fast->embed(tokens, whole);
  std::vector<float> first;   // (2, 2): shorter than the convolution's memory
  std::vector<float> second;  // (2, 8)
  for (std::size_t s = 0; s < 2; ++s) {
    const auto row = whole.begin() + static_cast<std::ptrdiff_t>(s * 10 * d_model);
    const auto cut = row + static_cast<std::ptrdiff_t>(2 * d_model);
    first.insert(first.end(), row, cut);
    second.insert(second.end(), cut, row + static_cast<std::ptrdiff_t>(10 * d_model));
  }
  fast->layer(0, {.sequences = 2, .length = 10}, whole);
  LayerState<float> state;
  fast->layer(0, {.sequences = 2, .length = 2}, first, &state);
  fast->layer(0, {.sequences = 2, .length = 8}, second, &state);
  for (std::size_t s = 0; s < 2; ++s) {
    const auto row = whole.begin() + static_cast<std::ptrdiff_t>(s * 10 * d_model);
    EXPECT_TRUE(std::equal(row, row + static_cast<std::ptrdiff_t>(2 * d_model),
                           first.begin() + static_cast<std::ptrdiff_t>(s * 2 * d_model)));
    EXPECT_TRUE(std::equal(row + static_cast<std::ptrdiff_t>(2 * d_model),
                           row + static_cast<std::ptrdiff_t>(10 * d_model),
                           second.begin() + static_cast<std::ptrdiff_t>(s * 8 * d_model)));
  }
}

TEST(LanguageModel, StatesOfFastAndReferenceAgree) {
  const Model model;
  const std::vector<TokenId> tokens = model.tokens(12);
  const BatchShape shape = {.sequences = 2, .length = 6};
  std::vector<float> hidden(tokens.size() * static_cast<std::size_t>(model.spec.d_model));
  std::vector<double> exact(hidden.size());
  model.fast()->embed(tokens, hidden);
  model.reference()->embed(tokens, exact);
  LayerState<float> state;
  LayerState<double> exact_state;
  model.fast()->layer(1, shape, hidden, &state);
  model.reference()->layer(1, shape, exact, &exact_state);
  EXPECT_LE(relative_error(state.conv, exact_state.conv), 1e-5);
  EXPECT_LE(relative_error(state.scan, exact_state.scan), 1e-5);
}

TEST(LanguageModel, HasTheSameBitsWithAndWithoutRoomForItsWeights) {
  const Model model;
  const std::vector<TokenId> tokens = model.tokens(30);
  const BatchShape shape = {.sequences = 2, .length = 15};
  const auto roomy = model.fast();
  const std::vector<float> expected = roomy->logits(tokens, shape);
  EXPECT_EQ(roomy->logits(tokens, shape), expected);  // from the cache
  for (const std::int64_t bytes : {0, 8000}) {        // of nothing, of some layers
    const auto cramped = model.fast({.cache_bytes = bytes});
    EXPECT_EQ(cramped->logits(tokens, shape), expected);
    EXPECT_EQ(cramped->logits(tokens, shape), expected);
  }
}

TEST(LanguageModel, MayBeCalledFromSeveralThreads) {
  const Model model;
  const std::vector<TokenId> tokens = model.tokens(40);
  const BatchShape shape = {.sequences = 1, .length = 40};
  const std::vector<float> expected = model.fast()->logits(tokens, shape);
  const auto shared = model.fast({.threads = 1});
  std::vector<std::vector<float>> found(4);
  std::vector<std::thread> threads;
  for (std::vector<float>& logits : found) {
    threads.emplace_back([&] { logits = shared->logits(tokens, shape); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::vector<float>& logits : found) EXPECT_EQ(logits, expected);
}

/// Keeps all it is shown.
template <typename Real>
class Recorder : public Observer<Real> {
 public:
  explicit Recorder(std::vector<Site> wanted) : wanted_(std::move(wanted)) {}
  bool wants(Site site) const override { return std::ranges::find(wanted_, site) != wanted_.end(); }
  void see(Index layer, Site site, std::span<const Real> values, Index channels) override {
    EXPECT_EQ(layer, 1);
    EXPECT_EQ(static_cast<Index>(values.size()) % channels, 0);
    rows[site].insert(rows[site].end(), values.begin(), values.end());
    width[site] = channels;
  }

  std::map<Site, std::vector<Real>> rows;
  std::map<Site, Index> width;

 private:
  std::vector<Site> wanted_;
};

TEST(LanguageModel, ShowsAnObserverEverySiteInRowOrder) {
  const Model model({.d_model = 11, .d_inner = 22});  // inside, rows are wider than 22
  const BatchShape shape = {.sequences = 3, .length = 300};
  const std::vector<TokenId> tokens = model.tokens(shape.rows());
  const std::vector<Site> all(kSites.begin(), kSites.end());
  Recorder<float> recorder(all);
  Recorder<double> exact(all);
  std::vector<float> hidden(tokens.size() * 11);
  std::vector<double> exact_hidden(hidden.size());
  model.fast()->embed(tokens, hidden);
  model.reference()->embed(tokens, exact_hidden);
  model.fast()->layer(1, shape, hidden, nullptr, &recorder);
  model.reference()->layer(1, shape, exact_hidden, nullptr, &exact);
  const std::map<Site, Index> width = {{Site::normed, 11},        {Site::conv, 22},
                                       {Site::x_proj, 3 + 2 * 5}, {Site::dt, 22},
                                       {Site::decay, 22},         {Site::gated, 22}};
  EXPECT_EQ(recorder.width, width);
  EXPECT_EQ(exact.width, width);
  for (const Site site : kSites) {
    EXPECT_LE(relative_error(recorder.rows[site], exact.rows[site]), 1e-5)
        << static_cast<int>(site);
  }
}

TEST(LanguageModel, ShowsAnObserverOnlyWhatItWants) {
  const Model model;
  Recorder<float> recorder({Site::dt});
  std::vector<float> hidden(4 * static_cast<std::size_t>(model.spec.d_model), 0.5F);
  model.fast()->layer(1, {.sequences = 1, .length = 4}, hidden, nullptr, &recorder);
  ASSERT_EQ(recorder.rows.size(), 1U);
  EXPECT_EQ(std::ssize(recorder.rows[Site::dt]), 4 * model.spec.d_inner);
}

template <typename Work>
void expect_error(ErrorCode code, const std::string& what, Work work) {
  try {
    work();
    FAIL() << "no error, expected: " << what;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.what(), what);
  }
}

TEST(LanguageModel, RefusesATokenOutsideTheVocabulary) {
  const Model model;
  for (const TokenId id : {-1, 24}) {
    const std::vector<TokenId> tokens = {3, id};
    const std::string what =
        "token 1 of the input: id is " + std::to_string(id) + ", expected one in [0, 24)";
    const BatchShape shape = {.sequences = 1, .length = 2};
    expect_error(ErrorCode::usage, what, [&] { model.fast()->logits(tokens, shape); });
    expect_error(ErrorCode::usage, what, [&] { model.reference()->logits(tokens, shape); });
  }
}

TEST(LanguageModel, RefusesSizesThatDoNotFit) {
  const Model model;
  const auto fast = model.fast();
  const BatchShape shape = {.sequences = 2, .length = 3};
  std::vector<float> hidden(48);
  std::vector<float> shorter(47);
  LayerState<float> state = {.conv = std::vector<float>(5), .scan = {}};
  expect_error(ErrorCode::usage, "hidden: has 47 elements, expected 48",
               [&] { fast->layer(0, shape, shorter); });
  expect_error(ErrorCode::usage, "layer 2: expected one in [0, 2)",
               [&] { fast->layer(2, shape, hidden); });
  expect_error(ErrorCode::usage, "state of the convolution: has 5 elements, expected 96",
               [&] { fast->layer(0, shape, hidden, &state); });
  expect_error(ErrorCode::usage, "logits: has 47 elements, expected 144",
               [&] { fast->head(hidden, shorter); });
  expect_error(ErrorCode::usage, "tokens: has 1 elements, expected 6",
               [&] { fast->logits(std::vector<TokenId>{1}, shape); });
}

TEST(LanguageModel, IsUnavailableOnAnEngineThatWasNotBuilt) {
  if (is_built_with_onednn()) GTEST_SKIP() << "built with oneDNN";
  const Model model;
  expect_error(ErrorCode::unavailable,
               "gemm engine 'onednn': not built in, expected a build with oneDNN",
               [&] { model.fast({.gemm = GemmEngine::onednn}); });
}

TEST(LanguageModel, GivesTheLogitsOfTransformersOnTheBundledModel) {
  const auto golden = nlohmann::json::parse(testing::read_file(
      std::filesystem::path(ICD_SOURCE_DIR) / "tests/data/mamba-novels-2m-hf.logits.json"));
  const auto tokens = golden["tokens"].get<std::vector<TokenId>>();
  const auto columns = golden["columns"].get<std::vector<std::size_t>>();
  const auto expected = golden["logits"].get<std::vector<std::vector<double>>>();
  const auto norms = golden["row_norms"].get<std::vector<double>>();
  const auto largest = golden["max_abs"].get<double>();
  ASSERT_EQ(tokens.size(), 64U);
  ASSERT_EQ(expected.size(), tokens.size());

  const Checkpoint checkpoint = Checkpoint::open(testing::bundled_model());
  const ModelSpec spec = ModelSpec::of(checkpoint);
  const BatchShape shape = {.sequences = 1, .length = 64};
  const auto check = [&](const auto& logits, const char* model) {
    double worst = 0;
    for (std::size_t t = 0; t < tokens.size(); ++t) {
      const auto* row = logits.data() + t * static_cast<std::size_t>(spec.vocab);
      for (std::size_t j = 0; j < columns.size(); ++j) {
        worst = std::max(worst, std::abs(static_cast<double>(row[columns[j]]) - expected[t][j]));
      }
      double squares = 0;
      for (Index j = 0; j < spec.vocab; ++j) squares += static_cast<double>(row[j]) * row[j];
      EXPECT_NEAR(std::sqrt(squares) / norms[t], 1, 1e-5) << model << ", token " << t;
    }
    EXPECT_LE(worst / largest, 1e-5) << model;
  };
  check(fast_model(checkpoint, spec)->logits(tokens, shape), "fast");
  check(reference_model(checkpoint, spec)->logits(tokens, shape), "reference");
}

}  // namespace
}  // namespace icd
