#include "icd/verify.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "icd/expand.h"
#include "icd/random.h"
#include "icd/rewrite.h"
#include "icd/tokens.h"
#include "support/files.h"
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
    return verify(*original_, Checkpoint::open(scratch_ / name), plan, options_, silent_);
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
  EXPECT_LT(report.logits[1].relative(), 1e-14);
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
  const VerifyReport report = verify(checkpoint, checkpoint, nullptr, options_, silent_);
  EXPECT_TRUE(report.equivalent());
  EXPECT_EQ(report.logits[0].non_finite, 20 * 24);
  EXPECT_FALSE(against("nan", nullptr).equivalent()) << "NaN on one side only";
}

}  // namespace
}  // namespace icd
