#include "icd/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::ScratchFolder;
using testing::TinyCheckpoint;

Plan some_plan() {
  return {.architecture = "mamba1",
          .settings = {{"ngroups", 2}},
          .structure = std::string(64, 'a'),
          .sources = {{"model.safetensors", 12, std::string(64, 'b')}},
          .objective = "modularity",
          .options = {{"block", "64"}},
          .solver = "swap",
          .evidence = "|r| of something",
          .seed = 7,
          .groups = {{"layers.0/inner", Permutation::from_gather({2, 0, 1})},
                     {"model", Permutation::identity(2)}},
          .scores = {{.group = "layers.0/inner",
                      .objective = "modularity",
                      .calibration_before = 0.1,
                      .calibration_after = 0.2,
                      .heldout_before = 0.05,
                      .heldout_after = 0.15}}};
}

std::string refusal(const std::string& text) {
  const ScratchFolder scratch;
  testing::write_file(scratch / "plan.json", text);
  try {
    Plan::read(scratch / "plan.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    return error.what();
  }
  return "accepted";
}

std::string edited(const std::string& from, const std::string& to) {
  std::string text = some_plan().text();
  const auto at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Plan, ReadsBackWhatItWrites) {
  const ScratchFolder scratch;
  const Plan plan = some_plan();
  testing::write_file(scratch / "plan.json", plan.text());
  const Plan read = Plan::read(scratch / "plan.json");
  EXPECT_EQ(read.groups, plan.groups);
  EXPECT_EQ(read.settings, plan.settings);
  EXPECT_EQ(read.sources, plan.sources);
  EXPECT_EQ(read.seed, plan.seed);
  EXPECT_EQ(read.structure, plan.structure);
  EXPECT_EQ(plan.text(), some_plan().text());
  EXPECT_EQ(read.text(), plan.text());  // scores included
}

std::string merge_refusal(const Plan& one, const Plan& other) {
  try {
    merged({{"a.json", one}, {"b.json", other}});
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input);
    return error.what();
  }
  return "accepted";
}

TEST(PlanMerge, JoinsOrdersAndScoresAndSaysHowTheyWereMade) {
  const Plan one = some_plan();
  Plan other = some_plan();
  other.objective = "nm";
  other.groups = {{"layers.1/inner", Permutation::from_gather({1, 0, 2})},
                  {"model", Permutation::identity(2)}};  // the same as in one
  other.scores[0].group = "layers.1/inner";
  const Plan both = merged({{"a.json", one}, {"b.json", other}});
  EXPECT_EQ(both.groups.size(), 3U);
  EXPECT_EQ(both.groups.at("layers.1/inner"), other.groups.at("layers.1/inner"));
  EXPECT_EQ(both.scores.size(), 2U);
  EXPECT_EQ(both.objective, "modularity + nm");
  EXPECT_EQ(both.solver, "swap");
  EXPECT_EQ(merged({{"a.json", one}}).text(), one.text());
  EXPECT_EQ(merged({{"a.json", both}, {"b.json", other}}).objective, "modularity + nm");
}

TEST(PlanMerge, RefusesWhatDoesNotBelongTogether) {
  Plan other = some_plan();
  other.groups.at("layers.0/inner") = Permutation::identity(3);
  EXPECT_EQ(merge_refusal(some_plan(), other),
            "group 'layers.0/inner': has different orders in a.json and b.json");
  other = some_plan();
  other.structure = std::string(64, 'c');
  EXPECT_THAT(merge_refusal(some_plan(), other), HasSubstr("b.json: was made for a mamba1"));
  other = some_plan();
  other.sources[0].sha256 = std::string(64, 'c');
  EXPECT_EQ(merge_refusal(some_plan(), other),
            "b.json: was made for other weight files than a.json");
}

TEST(Plan, RefusesWhatIsNoBijection) {
  EXPECT_EQ(
      refusal(edited("[2,0,1]", "[2,0,2]")),
      "plan.json: group 'layers.0/inner': permutation of 3: entry 2 repeats 2, already at entry 0");
  EXPECT_THAT(refusal(edited("[2,0,1]", "[2,0,3]")), HasSubstr("entry 2 is 3, expected 0 to 2"));
  EXPECT_THAT(refusal(edited("[2,0,1]", "[2,0,-1]")), HasSubstr("entry 2 is not a whole number"));
  EXPECT_THAT(refusal(edited("[2,0,1]", "[2,0,4294967297]")),
              HasSubstr("entry 2 is not a whole number"));
  EXPECT_THAT(refusal(edited("[2,0,1]", "[2,0,1.0]")), HasSubstr("entry 2 is not a whole number"));
  EXPECT_THAT(refusal(edited("[2,0,1]", "\"all\"")), HasSubstr("expected an array"));
}

TEST(Plan, RefusesWhatIsNoPlan) {
  EXPECT_THAT(refusal("[]"), HasSubstr("is not a JSON object"));
  EXPECT_THAT(refusal("{}"), HasSubstr("'schema' is missing"));
  EXPECT_THAT(refusal(edited("icd.plan/1", "icd.plan/9")), HasSubstr("expected 'icd.plan/1'"));
  EXPECT_THAT(refusal(edited("\"gather\"", "\"scatter\"")),
              HasSubstr("form is 'scatter', expected 'gather'"));
  EXPECT_THAT(refusal(edited("\"structure\"", "\"scripture\"")),
              HasSubstr("'structure' is missing"));
}

TEST(CheckPlan, RefusesAPlanOfAnotherModel) {
  const ScratchFolder scratch;
  TinyCheckpoint().write(scratch / "m");
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m");
  const Layout layout = layout_of(checkpoint, ModelSpec::of(checkpoint));
  const auto message = [&](const Plan& plan) {
    try {
      check_plan(plan, checkpoint, layout);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  Plan plan = some_plan();
  plan.groups = {{"layers.0/inner", Permutation::identity(16)}};
  EXPECT_THAT(message(plan),
              HasSubstr("was made for a checkpoint of structure aaaaaaaaaaaa, this one's is"));
  plan.structure = checkpoint.structure_digest();
  EXPECT_EQ(message(plan), "accepted");
  plan.groups = {{"layers.0/inner", Permutation::identity(8)}};
  EXPECT_EQ(message(plan), "plan: group 'layers.0/inner' orders 8 things, the model has 16");
  plan.groups = {{"layers.2/inner", Permutation::identity(16)}};
  EXPECT_EQ(message(plan), "plan: group 'layers.2/inner' is not one of this model");
}

}  // namespace
}  // namespace icd
