// The table of Mamba-1 against the model itself: every group may be re-ordered, and no
// binding may be forgotten.
#include "icd/layout.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "icd/progress.h"
#include "icd/random.h"
#include "icd/rewrite.h"
#include "icd/tokens.h"
#include "icd/verify.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyCheckpoint;
using testing::TinyOptions;

/// An order without a fixed point, as far as there is one: nothing stays by chance.
Permutation derangement(Index n, std::uint64_t seed) {
  Random random(seed);
  for (;;) {
    Permutation p = random_permutation(n, random);
    bool fixed = false;
    for (Index i = 0; i < n; ++i) fixed = fixed || p[i] == i;
    if (!fixed || n < 2) return p;
  }
}

VerifyOptions some_tokens(Index vocab, bool in_double) {
  VerifyOptions options{.shape = {2, 12}, .in_double = in_double};
  options.tokens = random_tokens(vocab, options.shape.rows(), 3);
  return options;
}

/// The model re-ordered as `layout` says, compared with itself.
VerifyReport reorder(const Checkpoint& checkpoint, const Layout& layout,
                     const std::map<std::string, Permutation>& groups, const fs::path& folder,
                     bool in_double) {
  Progress silent;
  fs::remove_all(folder);  // of the re-ordering before this one
  fs::create_directories(folder);
  testing::write_file(folder / "config.json", checkpoint.config_text());
  rewrite(checkpoint, expand(checkpoint, layout, groups), folder, {.digests = false}, silent);
  const Checkpoint written = Checkpoint::open(folder);
  return verify(checkpoint, layout, written, layout_of(written), nullptr,
                some_tokens(ModelSpec::of(checkpoint).vocab, in_double), silent);
}

std::vector<TinyOptions> variants() {
  std::vector<TinyOptions> all;
  all.push_back({});
  all.push_back({.hf = false});
  all.push_back({.proj_bias = true, .tied_head = false});
  all.push_back({.hf = false, .conv_bias = false, .layer_norm = true, .stored_tied_head = true});
  all.push_back({.hf = false,
                 .dtype = "BF16",
                 .proj_bias = true,
                 .layer_norm = true,
                 .tied_head = false,
                 .prefix = "model."});
  return all;
}

class Mamba1Layout : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    TinyCheckpoint(variants()[static_cast<std::size_t>(GetParam())]).write(scratch_ / "m");
    checkpoint_.emplace(Checkpoint::open(scratch_ / "m"));
    layout_ = layout_of(*checkpoint_, ModelSpec::of(*checkpoint_));
  }

  ScratchFolder scratch_;
  std::optional<Checkpoint> checkpoint_;
  Layout layout_;
};

TEST_P(Mamba1Layout, ReordersEachGroupExactly) {
  for (const AxisGroup& group : layout_.groups) {
    const VerifyReport report = reorder(
        *checkpoint_, layout_, {{group.name, derangement(group.size, 7)}}, scratch_ / "o", true);
    EXPECT_TRUE(report.equivalent()) << group.name << ": " << report.logits.back().relative();
  }
}

TEST_P(Mamba1Layout, ReordersAllGroupsTogetherExactly) {
  std::map<std::string, Permutation> all;
  for (const AxisGroup& group : layout_.groups) {
    all.emplace(group.name, derangement(group.size, all.size() + 1));
  }
  const VerifyReport report = reorder(*checkpoint_, layout_, all, scratch_ / "o", true);
  ASSERT_EQ(report.logits.size(), 2u);
  EXPECT_LT(report.logits[0].relative(), 1e-5);
  EXPECT_LT(report.logits[1].relative(), 1e-13);
}

TEST_P(Mamba1Layout, NeedsEveryBinding) {
  for (std::size_t g = 0; g < layout_.groups.size(); ++g) {
    const AxisGroup& group = layout_.groups[g];
    const Permutation order = derangement(group.size, 11);
    for (std::size_t s = 0; s < group.segments.size(); ++s) {
      Layout lame = layout_;
      auto& segments = lame.groups[g].segments;
      segments.erase(segments.begin() + static_cast<std::ptrdiff_t>(s));
      const AxisSegment& forgotten = group.segments[s];
      const std::string what = fmt::format("{} without {} axis {} at {}", group.name,
                                           forgotten.tensor, forgotten.dim, forgotten.offset);
      try {
        const VerifyReport report =
            reorder(*checkpoint_, lame, {{group.name, order}}, scratch_ / "o", false);
        EXPECT_FALSE(report.equivalent()) << what;
        EXPECT_FALSE(report.first_apart.empty()) << what;
      } catch (const Error& error) {
        // One of two stored copies of a tied tensor: refused before anything is run.
        EXPECT_THAT(error.what(), HasSubstr("but config.json ties them")) << what;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, Mamba1Layout, ::testing::Range(0, 5));

TEST(Layout, OfTheBundledModelNeedsEveryBinding) {
  const ScratchFolder scratch;
  const Checkpoint checkpoint = Checkpoint::open(testing::bundled_model());
  const Layout layout = layout_of(checkpoint, ModelSpec::of(checkpoint));
  for (const char* name : {"layers.2/inner", "layers.4/state", "layers.0/dt_rank"}) {
    const AxisGroup& group = *layout.find(name);
    const auto g = static_cast<std::size_t>(&group - layout.groups.data());
    for (std::size_t s = 0; s < group.segments.size(); ++s) {
      Layout lame = layout;
      auto& segments = lame.groups[g].segments;
      segments.erase(segments.begin() + static_cast<std::ptrdiff_t>(s));
      const VerifyReport report =
          reorder(checkpoint, lame, {{name, derangement(group.size, 1)}}, scratch / "o", false);
      EXPECT_FALSE(report.equivalent()) << name << " without " << group.segments[s].tensor;
      EXPECT_EQ(report.first_apart, fmt::format("layer {}", group.layer));
    }
  }
}

TEST(Layout, ListsWhatFollowsInner) {
  const ScratchFolder scratch;
  TinyCheckpoint({.proj_bias = true}).write(scratch / "m");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m");
  const Layout layout = layout_of(checkpoint, ModelSpec::of(checkpoint));
  std::string follows;
  for (const AxisSegment& s : layout.find("layers.1/inner")->segments) {
    follows +=
        fmt::format("{}@{}+{} ", s.tensor.substr(s.tensor.find("mixer.") + 6), s.dim, s.offset);
  }
  EXPECT_EQ(
      follows,
      "in_proj.weight@0+0 in_proj.weight@0+16 in_proj.bias@0+0 in_proj.bias@0+16 "
      "conv1d.weight@0+0 conv1d.bias@0+0 x_proj.weight@1+0 dt_proj.weight@0+0 dt_proj.bias@0+0 "
      "A_log@0+0 D@0+0 out_proj.weight@1+0 ");
  EXPECT_THAT(layout.kinds(), ::testing::ElementsAre("inner", "state", "dt_rank", "model"));
}

std::string refusal(TinyCheckpoint tiny) {
  const ScratchFolder scratch;
  tiny.write(scratch / "m");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m");
  try {
    layout_of(checkpoint, ModelSpec::of(checkpoint));
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

TEST(Layout, NamesTheFirstTensorThatIsNotAsItShouldBe) {
  TinyCheckpoint missing;
  std::erase_if(missing.tensors,
                [](const auto& t) { return t.name == "backbone.layers.1.mixer.D"; });
  EXPECT_EQ(refusal(missing), "tensor 'backbone.layers.1.mixer.D': is missing");

  TinyCheckpoint reshaped;
  reshaped.tensor("backbone.layers.1.mixer.x_proj.weight").shape = {16, 13};
  EXPECT_EQ(refusal(reshaped),
            "tensor 'backbone.layers.1.mixer.x_proj.weight': shape is (16, 13), expected "
            "(dt_rank + state + state, inner) = (13, 16)");

  TinyCheckpoint biased;
  biased.tensors.push_back(
      {"backbone.layers.0.mixer.in_proj.bias", "F32", {32}, std::string(128, '1')});
  EXPECT_THAT(refusal(biased), HasSubstr("config.json says that the model has none"));
}

TEST(Layout, RefusesAStrangerThatMightHaveToFollow) {
  TinyCheckpoint tiny;
  tiny.tensors.push_back({"backbone.layers.0.adapter", "F32", {2, 16}, std::string(128, '1')});
  EXPECT_THAT(refusal(tiny), HasSubstr("an axis as long as d_inner = 16"));
  tiny.tensors.back().shape = {2, 8, 2};
  EXPECT_THAT(refusal(tiny), HasSubstr("an axis as long as d_model = 8"));
  tiny.tensors.back().shape = {32, 1};
  EXPECT_EQ(refusal(tiny), "accepted");
}

}  // namespace
}  // namespace icd
