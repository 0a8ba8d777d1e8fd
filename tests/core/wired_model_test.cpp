#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "icd/error.h"
#include "icd/language_model.h"
#include "support/families.h"
#include "support/family_files.h"
#include "support/files.h"
#include "support/naive_math.h"
#include "support/naive_mixers.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using testing::Family;
using testing::NaiveTensors;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyOptions;

using Tokens = std::vector<TokenId>;

Block block_of(const std::string& type, const std::string& prefix,
               const std::map<std::string, Index, std::less<>>& sizes) {
  Block block;
  block.type = type;
  block.prefix = prefix;
  block.sizes = sizes;
  return block;
}

/// A small Mamba-1 on disk, with the layout that wires its mixers as blocks.
struct WiredMamba1 {
  ScratchFolder folder;
  Checkpoint checkpoint;
  Layout layout;

  explicit WiredMamba1(const TinyOptions& options) : checkpoint(open(options, folder)) {
    const ModelSpec spec = ModelSpec::of(checkpoint);
    layout.name = "mamba1";
    layout.spec = spec;
    layout.wiring = Wiring();
    layout.wiring->embedding = spec.embedding();
    layout.wiring->final_norm_weight = spec.tensor("norm_f.weight");
    if (options.layer_norm) layout.wiring->final_norm_bias = spec.tensor("norm_f.bias");
    layout.wiring->head = spec.tied_head ? spec.embedding() : spec.head();
    layout.wiring->numbers = {{"norm_eps", spec.norm_epsilon}};
    for (Index i = 0; i < spec.n_layer; ++i) {
      Block block = block_of("mamba1", spec.tensor(i, "mixer."),
                             {{"in", spec.d_model},
                              {"out", spec.d_model},
                              {"d_inner", spec.d_inner},
                              {"d_state", spec.d_state},
                              {"dt_rank", spec.dt_rank},
                              {"d_conv", spec.d_conv}});
      for (const StoredTensor& tensor : checkpoint.tensors()) {
        if (!tensor.name.starts_with(block.prefix)) continue;
        block.tensors[tensor.name.substr(block.prefix.size())] = tensor.name;
      }
      layout.blocks.push_back(std::move(block));
      layout.wiring->layers.push_back(
          {{.norm_weight = spec.tensor(i, "norm.weight"),
            .norm_bias = options.layer_norm ? spec.tensor(i, "norm.bias") : "",
            .blocks = {static_cast<std::size_t>(i)}}});
    }
  }

  static Checkpoint open(const TinyOptions& options, const ScratchFolder& folder) {
    TinyCheckpoint(options).write(folder.path());
    return Checkpoint::open(folder.path());
  }
};

const Tokens kTokens = {1, 5, 2, 23, 0, 7, 7, 11, 3, 19, 4, 6};
constexpr BatchShape kShape = {.sequences = 2, .length = 6};

TEST(WiredModel, OfMamba1BlocksIsTheReferenceBitForBit) {
  for (const TinyOptions& options :
       {TinyOptions{}, TinyOptions{.hf = false, .layer_norm = true, .tied_head = false}}) {
    const WiredMamba1 model(options);
    const auto wired = reference_model(model.checkpoint, model.layout);
    const auto known = reference_model(model.checkpoint, model.layout.spec);
    EXPECT_EQ(wired->logits(kTokens, kShape), known->logits(kTokens, kShape));
  }
}

/// Keeps all it is shown, layer by layer.
template <typename Real>
struct Recorder : Observer<Real> {
  std::map<std::pair<Index, Site>, std::vector<Real>> values;

  bool wants(Site) const override { return true; }
  void see(Index layer, Site site, std::span<const Real> shown, Index) override {
    auto& kept = values[{layer, site}];
    kept.insert(kept.end(), shown.begin(), shown.end());
  }
};

template <typename Real>
Recorder<Real> shown_by(const LanguageModel<Real>& model) {
  Recorder<Real> recorder;
  std::vector<Real> hidden(kTokens.size() * static_cast<std::size_t>(model.spec().d_model));
  model.embed(kTokens, hidden);
  for (Index layer = 0; layer < model.spec().n_layer; ++layer) {
    model.layer(layer, kShape, hidden, nullptr, &recorder);
  }
  return recorder;
}

TEST(WiredModel, OfMamba1BlocksShowsWhatThePlainModelDoesBitForBit) {
  const WiredMamba1 model({});
  const auto wired = shown_by(*reference_model(model.checkpoint, model.layout));
  EXPECT_EQ(wired.values.size(), 2 * kSites.size());
  EXPECT_EQ(wired.values, shown_by(*reference_model(model.checkpoint, model.layout.spec)).values);
}

TEST(WiredModel, ShowsEveryStepsNormedInput) {
  WiredMamba1 model({});
  auto& layers = model.layout.wiring->layers;
  layers = {{layers[0][0], layers[1][0]}};  // two steps in one layer
  layers[0][1].blocks.clear();
  const auto shown = shown_by(*reference_model(model.checkpoint, model.layout));
  const std::size_t rows = kTokens.size();
  const auto d_model = static_cast<std::size_t>(model.layout.spec.d_model);
  EXPECT_EQ(shown.values.at({0, Site::normed}).size(), 2 * rows * d_model);
  EXPECT_EQ(shown.values.at({0, Site::dt}).size(),
            rows * static_cast<std::size_t>(model.layout.spec.d_inner));
}

template <typename Real>
double relative_error(const std::vector<Real>& found, const std::vector<double>& exact) {
  if (found.size() != exact.size()) return INFINITY;
  double largest = 0;
  double gap = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    largest = std::max(largest, std::abs(exact[i]));
    gap = std::max(gap, std::abs(static_cast<double>(found[i]) - exact[i]));
  }
  return gap / largest;
}

TEST(WiredModel, InFloatAgreesWithTheReferenceForAnyThreadsAndAnyCache) {
  const WiredMamba1 model({});
  const auto exact = reference_model(model.checkpoint, model.layout)->logits(kTokens, kShape);
  const auto fast = fast_model(model.checkpoint, model.layout, {.threads = 1});
  const auto first = fast->logits(kTokens, kShape);
  EXPECT_LT(relative_error(first, exact), 1e-5);
  EXPECT_EQ(first, fast->logits(kTokens, kShape));
  EXPECT_EQ(first, fast_model(model.checkpoint, model.layout, {.threads = 3, .cache_bytes = 0})
                       ->logits(kTokens, kShape));
}

/// Mamba-2 and an MLP side by side, then attention: steps of a model by hand, every multiplier.
TEST(WiredModel, AddsTheBlocksOfAStepAndScalesWhereTheWiringSays) {
  testing::TensorMaker maker(5);
  maker.embedding("embed", 9, 12);
  maker.norm("norm1", 12);
  maker.norm("norm2", 12);
  maker.norm("final", 12);
  maker.linear("head", 9, 12);
  testing::make_mamba2(maker, "mixer.", {});
  for (const char* name : {"q_proj", "k_proj", "v_proj", "o_proj"}) {
    maker.linear(std::string("attention.") + name, 12, 12);
  }
  maker.linear("mlp.gate_proj", 7, 12);
  maker.linear("mlp.up_proj", 7, 12);
  maker.linear("mlp.down_proj", 12, 7);
  const NaiveTensors tensors = maker.take();

  std::vector<testing::TinyTensor> stored;
  for (const auto& [name, tensor] : tensors) {
    std::string bytes(tensor.values.size() * sizeof(double), '\0');
    std::memcpy(bytes.data(), tensor.values.data(), bytes.size());
    stored.push_back({name, "F64", tensor.shape, std::move(bytes)});
  }
  const ScratchFolder folder;
  testing::write_file(folder / "model.safetensors", testing::safetensors_bytes(stored));
  const Checkpoint checkpoint = Checkpoint::open(folder / "model.safetensors");

  Layout layout;
  layout.name = "by hand";
  layout.blocks = {
      block_of("mamba2", "mixer.",
               {{"in", 12},
                {"out", 12},
                {"ngroups", 2},
                {"heads_per_group", 3},
                {"headdim", 4},
                {"d_state", 5},
                {"d_conv", 3}}),
      block_of("mlp", "mlp.", {{"in", 12}, {"out", 12}}),
      block_of("attention", "attention.",
               {{"in", 12}, {"out", 12}, {"n_heads", 3}, {"n_kv_heads", 3}, {"head_dim", 4}})};
  for (Block& block : layout.blocks) {
    for (const auto& [name, tensor] : tensors) {
      if (name.starts_with(block.prefix)) block.tensors[name.substr(block.prefix.size())] = name;
    }
  }
  layout.wiring =
      Wiring{.embedding = "embed",
             .final_norm_weight = "final.weight",
             .final_norm_bias = "",
             .head = "head.weight",
             .layers = {{{.norm_weight = "norm1.weight", .norm_bias = "", .blocks = {0, 1}},
                         {.norm_weight = "norm2.weight", .norm_bias = "", .blocks = {2}}}},
             .numbers = {{"norm_eps", 1e-4},
                         {"embedding_multiplier", 3},
                         {"residual_multiplier", 0.5},
                         {"logits_scaling", 4},
                         {"lm_head_multiplier", 3}}};
  const Tokens tokens = {4, 8, 1, 0, 2, 4};
  const auto found = reference_model(checkpoint, layout)->logits(tokens, {1, 6});
  const auto in_float = fast_model(checkpoint, layout)->logits(tokens, {1, 6});

  const testing::Scope all(tensors);
  testing::Rows hidden =
      testing::scaled(testing::embedding(all.at("embed"), {4, 8, 1, 0, 2, 4}), 3);
  const auto normed = [&](const char* name) {
    return testing::rms_norm(hidden, &all.at(name), 1, 1e-4);
  };
  const testing::Rows both =
      testing::sum(testing::naive_mamba2(normed("norm1.weight"), all.in("mixer"), {.groups = 2}),
                   testing::gated_mlp(normed("norm1.weight"), all.in("mlp")));
  hidden = testing::sum(hidden, testing::scaled(both, 0.5));
  const testing::Rows attended = testing::naive_attention(
      normed("norm2.weight"), all.in("attention"), {.heads = 3, .kv_heads = 3, .headdim = 4});
  hidden = testing::sum(hidden, testing::scaled(attended, 0.5));
  std::vector<double> expected;
  testing::append(
      expected,
      testing::scaled(testing::linear(normed("final.weight"), all.at("head.weight")), 0.75));
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 1e-11);
  EXPECT_LT(relative_error(in_float, expected), 1e-5);
}

/// The families with a language model in them: those that have logits.
std::vector<Family> families() {
  std::vector<Family> all = testing::mamba_families();
  for (Family& family : testing::hybrid_families()) all.push_back(std::move(family));
  return all;
}

// Zamba's shared blocks read the embeddings besides the stream and feed a projection of their
// own, which no step says; a bare mixer is no model.
constexpr std::string_view kNotWired[] = {"zamba", "Mamba2Simple"};

TEST(WiredModel, OfEveryFamilyComputesWhatPlainLoopsDo) {
  int wired = 0;
  for (const Family& family : families()) {
    SCOPED_TRACE(family.name);
    const ScratchFolder folder;
    const NaiveTensors tensors = family.make(1);
    testing::write_family(folder.path(), family, tensors);
    const Checkpoint checkpoint = Checkpoint::open(folder.path());
    Layout layout = layout_of(checkpoint, {.settings = family.settings});
    // The plain loops have mamba-ssm's Mamba-3 as it was before June 2026.
    for (Block& block : layout.blocks) {
      if (block.type.starts_with("mamba3")) block.numbers["softplus_a"] = 1;
    }
    if (!has_model(layout)) {
      EXPECT_TRUE(std::ranges::any_of(
          kNotWired, [&](std::string_view name) { return family.name.find(name) == 0; }));
      continue;
    }
    ++wired;
    const auto exact = family.forward(tensors, 2);
    const auto model = reference_model(checkpoint, layout);
    Tokens tokens;
    for (const auto& sequence :
         testing::random_ids(2, static_cast<std::size_t>(model->spec().vocab))) {
      for (const std::size_t id : sequence) tokens.push_back(static_cast<TokenId>(id));
    }
    const BatchShape shape = {.sequences = 2, .length = static_cast<Index>(tokens.size() / 2)};
    const auto found = model->logits(tokens, shape);
    const auto in_float = fast_model(checkpoint, layout)->logits(tokens, shape);
    EXPECT_LT(relative_error(found, exact), 1e-12);
    EXPECT_LT(relative_error(in_float, exact), 1e-5);
  }
  EXPECT_EQ(wired, 22);
}

template <typename Call>
void expect_error(ErrorCode code, const std::string& what, Call call) {
  try {
    call();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), ::testing::HasSubstr(what));
  }
}

TEST(WiredModel, OfMamba1WithoutWiringIsTheModelOfItsSpec) {
  WiredMamba1 model({});
  model.layout.wiring.reset();
  EXPECT_TRUE(has_model(model.layout));
  EXPECT_EQ(fast_model(model.checkpoint, model.layout)->logits(kTokens, kShape),
            fast_model(model.checkpoint, model.layout.spec)->logits(kTokens, kShape));
  model.layout.spec.architecture = "mixers";
  EXPECT_FALSE(has_model(model.layout));
  expect_error(ErrorCode::unsupported, "but not how they make a language model",
               [&] { fast_model(model.checkpoint, model.layout); });
}

TEST(WiredModel, RefusesStateBlocksItCannotRunAndTokensOutsideTheVocabulary) {
  WiredMamba1 model({});
  const auto wired = fast_model(model.checkpoint, model.layout);
  std::vector<LayerState<float>> state;
  expect_error(ErrorCode::unsupported, "only Mamba-1 models run token by token",
               [&] { wired->step(Tokens{1}, state); });
  expect_error(ErrorCode::usage, "token 1 of the input: id is 24, expected one in [0, 24)", [&] {
    wired->logits(Tokens{1, 24}, {1, 2});
  });
  model.layout.blocks[1].type = "oxidizr_mamba2";
  expect_error(ErrorCode::unsupported, "is a oxidizr_mamba2, which icd cannot run",
               [&] { fast_model(model.checkpoint, model.layout); });
}

}  // namespace
}  // namespace icd
