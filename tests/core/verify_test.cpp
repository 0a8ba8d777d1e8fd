#include "icd/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "icd/expand.h"
#include "icd/random.h"
#include "icd/rewrite.h"
#include "icd/tokens.h"
#include "support/families.h"
#include "support/family_files.h"
#include "support/files.h"
#include "support/naive_mixers.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyCheckpoint;

/// A tiny model, a plan for it, and the model that the plan makes of it.
class Verify : public ::testing::Test {
 protected:
  Verify() {
    TinyCheckpoint(kOptions).write(scratch_ / "a");
    original_.emplace(Checkpoint::open(scratch_ / "a"));
    const Layout layout = layout_of(*original_, ModelSpec::of(*original_));
    plan_.architecture = layout.name;
    plan_.structure = original_->structure_digest();
    for (const AxisGroup& group : layout.groups) {
      Random random = Random::derived(3, plan_.groups.size());
      plan_.groups.emplace(group.name, random_permutation(group.size, random));
    }
    fs::create_directories(scratch_ / "b");
    rewrite(*original_, expand(*original_, layout, plan_.groups), scratch_ / "b", {}, silent_);
    testing::write_file(scratch_ / "b/config.json", original_->config_text());
    options_.shape = {2, 10};
    options_.tokens = random_tokens(24, 20, 1);
  }

  VerifyReport against(const std::string& name, const Plan* plan) {
    return compare(*original_, Checkpoint::open(scratch_ / name), plan);
  }

  VerifyReport compare(const Checkpoint& a, const Checkpoint& b, const Plan* plan) {
    return verify(a, layout_of(a), b, layout_of(b), plan, options_, silent_);
  }

  /// The permuted model with one bit of one tensor turned over.
  void damage(const std::string& tensor, std::size_t byte, char mask) {
    const Checkpoint permuted = Checkpoint::open(scratch_ / "b");
    std::string bytes = testing::read_file(scratch_ / "b/model.safetensors");
    const auto at = static_cast<std::size_t>(permuted.find(tensor)->begin) + byte;
    bytes[at] = static_cast<char>(bytes[at] ^ mask);
    fs::create_directories(scratch_ / "c");
    testing::write_file(scratch_ / "c/model.safetensors", bytes);
    testing::write_file(scratch_ / "c/config.json", original_->config_text());
  }

  static inline const testing::TinyOptions kOptions{.n_layer = 3};
  ScratchFolder scratch_;
  Progress silent_;
  std::optional<Checkpoint> original_;
  Plan plan_;
  VerifyOptions options_;
};

TEST_F(Verify, FindsAPermutedModelEquivalent) {
  options_.in_double = true;
  const VerifyReport report = against("b", &plan_);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.bytes_equal, true);
  ASSERT_EQ(report.logits.size(), 2u);
  EXPECT_EQ(report.logits[0].rows, 20);
  EXPECT_GT(report.logits[0].max_abs, 0) << "re-ordered sums round differently";
  EXPECT_LT(report.logits[1].relative(), 1e-13);
  EXPECT_EQ(report.logits[1].top1_agreement, 1);
  EXPECT_EQ(report.first_apart, "");
}

TEST_F(Verify, NeedsNoPlanToCompareOutputs) {
  const VerifyReport report = against("b", nullptr);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.bytes_equal, std::nullopt);
  EXPECT_EQ(report.first_apart, "");
}

TEST_F(Verify, NamesTheLayerWhereTheModelsPart) {
  damage("backbone.layers.1.mixer.D", 3, 0x40);  // an exponent bit
  for (const Plan* plan : {static_cast<const Plan*>(nullptr), static_cast<const Plan*>(&plan_)}) {
    const VerifyReport report = against("c", plan);
    EXPECT_FALSE(report.equivalent());
    EXPECT_EQ(report.first_apart, "layer 1");
  }
}

TEST_F(Verify, SeesABitThatTheOutputsHide) {
  damage("backbone.layers.2.mixer.A_log", 0, 1);  // the last bit of a mantissa
  const VerifyReport report = against("c", &plan_);
  EXPECT_TRUE(report.logits[0].within());
  EXPECT_EQ(report.bytes_equal, false);
  EXPECT_THAT(report.first_byte_fault, HasSubstr("tensor 'backbone.layers.2.mixer.A_log'"));
  EXPECT_FALSE(report.equivalent());
}

TEST_F(Verify, SeesAPlanThatIsNotTheOneApplied) {
  Plan other = plan_;
  other.groups.at("layers.0/state") = Permutation::identity(5);
  EXPECT_EQ(against("b", &other).bytes_equal, false);
}

TEST_F(Verify, RefusesModelsOfDifferentSizes) {
  TinyCheckpoint({.n_layer = 2}).write(scratch_ / "d");
  EXPECT_THROW(against("d", nullptr), Error);
}

TEST_F(Verify, TakesNaNInBothModelsForEqual) {
  TinyCheckpoint tiny(kOptions);
  auto& bytes = tiny.tensor("backbone.layers.2.mixer.D").bytes;
  bytes.replace(0, 4, "\xff\xff\xff\x7f", 4);
  tiny.write(scratch_ / "nan");
  const Checkpoint checkpoint = Checkpoint::open(scratch_ / "nan");
  const VerifyReport report = compare(checkpoint, checkpoint, nullptr);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.logits[0].non_finite, 20 * 24);
  EXPECT_FALSE(against("nan", nullptr).equivalent()) << "NaN on one side only";
}

/// Two Mamba-2 mixers of two groups in a file without a model around them, and the file that a
/// plan makes of it.
class VerifyBlocks : public ::testing::Test {
 protected:
  VerifyBlocks() {
    testing::TensorMaker maker(5);
    for (const char* mixer : {"a.", "b."}) testing::make_mamba2(maker, mixer, {});
    const testing::Family bare = {.name = "bare",
                                  .config = "",
                                  .settings = {},
                                  .make = {},
                                  .forward = {},
                                  .invisible = {},
                                  .wrong = {}};
    testing::write_family(scratch_ / "original", bare, maker.take());
    original_.emplace(Checkpoint::open(scratch_ / "original"));
    layout_ = layout_of(*original_, kRequest);
    plan_.architecture = layout_.name;
    plan_.settings = layout_.settings;
    plan_.structure = original_->structure_digest();
    for (const AxisGroup& group : layout_.groups) {
      Random random = Random::derived(3, plan_.groups.size());
      plan_.groups.emplace(group.name, random_permutation(group.size, random));
    }
    fs::create_directories(scratch_ / "permuted");
    rewrite(*original_, expand(*original_, layout_, plan_.groups), scratch_ / "permuted", {},
            silent_);
  }

  VerifyReport against(const std::string& name, const Plan* plan) {
    const Checkpoint permuted = Checkpoint::open(scratch_ / name);
    return verify(*original_, layout_, permuted, layout_of(permuted, kRequest), plan, options_,
                  silent_);
  }

  static inline const LayoutRequest kRequest = {.name = "mixers", .settings = {{"ngroups", 2}}};
  ScratchFolder scratch_;
  Progress silent_;
  std::optional<Checkpoint> original_;
  Layout layout_;
  Plan plan_;
  VerifyOptions options_ = {.in_double = true};
};

TEST_F(VerifyBlocks, RunsMixersOneByOneWhereThereIsNoModel) {
  const VerifyReport report = against("permuted", &plan_);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.proof, "2 blocks, each on random inputs");
  EXPECT_EQ(report.bytes_equal, true);
  EXPECT_TRUE(report.logits.empty());
  EXPECT_TRUE(report.not_run.empty());
  ASSERT_EQ(report.blocks.size(), 4u);
  EXPECT_EQ(report.blocks[0].block, "a.");
  EXPECT_EQ(report.blocks[0].type, "mamba2");
  EXPECT_EQ(report.blocks[0].arithmetic, "f32");
  EXPECT_EQ(report.blocks[0].rows, 96);
  EXPECT_GT(report.blocks[0].max_abs, 0) << "re-ordered sums round differently";
  EXPECT_EQ(report.blocks[3].arithmetic, "f64");
  EXPECT_LT(report.blocks[3].relative(), 1e-13);
}

TEST_F(VerifyBlocks, NamesTheBlockWhoseOutputsPart) {
  std::string bytes = testing::read_file(scratch_ / "permuted/model.safetensors");
  const Checkpoint permuted = Checkpoint::open(scratch_ / "permuted");
  const auto at = static_cast<std::size_t>(permuted.find("b.D")->begin) + 7;
  bytes[at] = static_cast<char>(bytes[at] ^ 0x40);  // an exponent bit of an F64
  fs::create_directories(scratch_ / "damaged");
  testing::write_file(scratch_ / "damaged/model.safetensors", bytes);
  const VerifyReport report = against("damaged", &plan_);
  EXPECT_FALSE(report.equivalent());
  EXPECT_EQ(report.bytes_equal, false);
  EXPECT_EQ(report.first_apart, "block 'b.'");
  EXPECT_TRUE(report.blocks[0].within());
}

/// A Mamba-2 model whose wiring is not known: its mixers read and write a stream that is ordered.
TEST(VerifyStream, OrdersInputsAndOutputsOfBlocksAsThePlanDoes) {
  const auto families = testing::mamba_families();
  const auto family = std::ranges::find(families, "mamba2 hf, one group", &testing::Family::name);
  ASSERT_NE(family, families.end());
  const ScratchFolder scratch;
  Progress silent;
  testing::write_family(scratch / "a", *family, family->make(1));
  const Checkpoint original = Checkpoint::open(scratch / "a");
  Layout layout = layout_of(original, {.settings = family->settings});
  layout.wiring.reset();
  Plan plan;
  plan.architecture = layout.name;
  plan.structure = original.structure_digest();
  Random random(4);
  const Index d_model = layout.find("model")->size;
  plan.groups.emplace("model", random_permutation(d_model, random));
  fs::create_directories(scratch / "b");
  rewrite(original, expand(original, layout, plan.groups), scratch / "b", {}, silent);
  testing::write_file(scratch / "b/config.json", original.config_text());
  const Checkpoint permuted = Checkpoint::open(scratch / "b");
  Layout other = layout_of(permuted, {.settings = family->settings});
  other.wiring.reset();

  const VerifyReport report = verify(original, layout, permuted, other, &plan, {}, silent);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.proof, "2 blocks, each on random inputs");

  plan.groups.at("model") = Permutation::identity(d_model);
  const VerifyReport moved = verify(original, layout, permuted, other, &plan, {}, silent);
  EXPECT_FALSE(moved.blocks[0].within());
  EXPECT_FALSE(moved.blocks[1].within());
}

TEST_F(VerifyBlocks, LeavesBlocksThatItCannotRunToTheBytes) {
  for (Block& block : layout_.blocks) block.type = "oxidizr_mamba2";
  const auto against_itself = [&](const Plan* plan) {
    return verify(*original_, layout_, *original_, layout_, plan, options_, silent_);
  };
  Plan still = plan_;
  for (auto& [name, order] : still.groups) order = Permutation::identity(order.size());
  const VerifyReport report = against_itself(&still);
  EXPECT_EQ(report.proof, "bytes only");
  EXPECT_EQ(report.not_run, (std::vector<std::string>{"a.", "b."}));
  EXPECT_TRUE(report.equivalent());
  EXPECT_THROW(against_itself(nullptr), Error);
  layout_.blocks[0].type = "mamba2";
  EXPECT_EQ(against_itself(&still).proof, "1 block on random inputs");
}

TEST_F(VerifyBlocks, RefusesBlocksOfOtherSizes) {
  const Checkpoint permuted = Checkpoint::open(scratch_ / "permuted");
  Layout other = layout_of(permuted, kRequest);
  other.blocks[1].sizes["d_state"] += 1;
  EXPECT_THROW(verify(*original_, layout_, permuted, other, &plan_, options_, silent_), Error);
}

}  // namespace
}  // namespace icd
