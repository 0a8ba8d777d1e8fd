#include "icd/kernel_rules.h"

#include <gmock/gmock.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <set>

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

Block mamba2(Index d_model, Index d_ssm, Index headdim, Index ngroups, Index d_state,
             Index d_mlp = 0, Index d_conv = 4) {
  return {.type = "mamba2",
          .prefix = "",
          .layer = -1,
          .sizes = {{"in", d_model},
                    {"out", d_model},
                    {"d_ssm", d_ssm},
                    {"d_mlp", d_mlp},
                    {"headdim", headdim},
                    {"ngroups", ngroups},
                    {"d_state", d_state},
                    {"d_conv", d_conv}},
          .tensors = {},
          .numbers = {}};
}

const KernelRule* find(const std::vector<KernelRule>& rules, std::string_view id) {
  const auto at = std::find_if(rules.begin(), rules.end(),
                               [&](const KernelRule& rule) { return rule.id == id; });
  return at == rules.end() ? nullptr : &*at;
}

bool holds(const Block& block, std::string_view id) {
  const auto rules = kernel_rules(block);
  const KernelRule* rule = find(rules, id);
  return rule != nullptr && rule->holds;
}

std::set<std::string> broken(const Block& block) {
  std::set<std::string> ids;
  for (const KernelRule& rule : kernel_rules(block)) {
    if (!rule.holds && rule.reach != KernelRule::Reach::flashinfer) ids.insert(rule.id);
  }
  return ids;
}

TEST(KernelRules, SixtyFourChannelsInOneHeadBreakTheRowStride) {
  const Block block = mamba2(64, 128, 64, 1, 128);
  const auto rules = kernel_rules(block);
  const KernelRule* rule = find(rules, "conv-row-stride");
  ASSERT_NE(rule, nullptr);
  EXPECT_FALSE(rule->holds);
  EXPECT_THAT(rule->requirement, HasSubstr("= 514) is a multiple of 8"));
  EXPECT_EQ(rule->message,
            "causal_conv1d with channel last layout requires strides (x.stride(0) and "
            "x.stride(2)) to be multiples of 8");
  EXPECT_THAT(rule->remedy, HasSubstr("`icd reshape --headdim 16`"));
  EXPECT_THAT(broken(block), ElementsAre("conv-row-stride"));
  EXPECT_THAT(fitting_headdims(block), ElementsAre(1, 2, 4, 8, 16));
}

TEST(KernelRules, EightChannelsAHeadRepairIt) {
  EXPECT_THAT(broken(mamba2(64, 128, 8, 1, 128)), IsEmpty());
}

TEST(KernelRules, RemediesAreOnlyForRulesThatAreBroken) {
  for (const KernelRule& rule : kernel_rules(mamba2(64, 128, 64, 1, 128))) {
    EXPECT_EQ(rule.remedy.empty(), rule.holds) << rule.id;
    EXPECT_FALSE(rule.source.empty()) << rule.id;
    EXPECT_FALSE(rule.where.empty()) << rule.id;
  }
}

TEST(KernelRules, HeadsPerGroupAndInnerSizeSayTheSame) {
  Block block = mamba2(64, 128, 16, 2, 32);
  block.sizes.erase("d_ssm");
  block.sizes["heads_per_group"] = 4;
  const auto with_heads = kernel_rules(block);
  const auto with_inner = kernel_rules(mamba2(64, 128, 16, 2, 32));
  ASSERT_EQ(with_heads.size(), with_inner.size());
  for (std::size_t i = 0; i < with_heads.size(); ++i) {
    EXPECT_EQ(with_heads[i].requirement, with_inner[i].requirement);
  }
}

TEST(KernelRules, AHeaddimThatDoesNotDivideIsSaid) {
  EXPECT_THAT(broken(mamba2(64, 128, 48, 1, 64)), ElementsAre("inner-size", "whole-heads"));
}

TEST(KernelRules, HeadsHaveToFillGroups) {
  EXPECT_TRUE(broken(mamba2(64, 128, 64, 4, 64)).contains("heads-in-groups"));
  EXPECT_TRUE(fitting_headdims(mamba2(64, 128, 64, 3, 64)).empty());
}

TEST(KernelRules, ConvolutionsAreTwoToFourWide) {
  EXPECT_FALSE(holds(mamba2(64, 128, 8, 1, 128, 0, 1), "conv-width"));
  EXPECT_TRUE(holds(mamba2(64, 128, 8, 1, 128, 0, 2), "conv-width"));
  EXPECT_TRUE(holds(mamba2(64, 128, 8, 1, 128, 0, 4), "conv-width"));
  EXPECT_FALSE(holds(mamba2(64, 128, 8, 1, 128, 0, 5), "conv-width"));
}

TEST(KernelRules, FlashInferIsAskedOfButDoesNotDecide) {
  const Block block = mamba2(64, 128, 8, 1, 128);
  EXPECT_FALSE(holds(block, "flashinfer-headdim"));
  EXPECT_TRUE(holds(block, "flashinfer-d_state"));
  EXPECT_THAT(fitting_headdims(block), ElementsAre(1, 2, 4, 8));
}

TEST(KernelRules, ExpandOfTheConfigurationHasToAgree) {
  Block block = mamba2(64, 128, 8, 1, 128);
  block.sizes["expand"] = 3;
  const auto rules = kernel_rules(block);
  EXPECT_EQ(find(rules, "inner-size")->message,
            "Inconsistent configuration: hidden_size * expand (192) must equal num_heads * "
            "head_dim (128).");
  EXPECT_FALSE(find(rules, "inner-size")->holds);
}

/// A row of in_proj's output, entry by entry, and the tensor that causal-conv1d is handed.
struct NaiveSlice {
  std::vector<char> row;
  Index channels() const { return static_cast<Index>(std::count(row.begin(), row.end(), 'x')); }
  Index stride_of_time() const { return static_cast<Index>(row.size()); }
  Index stride_of_batch(Index length) const { return length * stride_of_time(); }
};

NaiveSlice slice_of(Index d_mlp, Index heads, Index headdim, Index ngroups, Index d_state) {
  NaiveSlice slice;
  const auto add = [&](char part, Index count) { slice.row.insert(slice.row.end(), count, part); };
  add('m', d_mlp);
  add('m', d_mlp);
  for (Index h = 0; h < heads; ++h) add('z', headdim);
  for (Index h = 0; h < heads; ++h) add('x', headdim);
  for (Index g = 0; g < 2 * ngroups; ++g) add('x', d_state);  // B and C are convolved too
  add('t', heads);
  return slice;
}

RC_GTEST_PROP(KernelRulesProperty, AgreesWithTheStridesOfASlice, ()) {
  const Index ngroups = *rc::gen::inRange(1, 4);
  const Index heads = ngroups * *rc::gen::inRange(1, 9);
  const Index headdim = *rc::gen::inRange(1, 20);
  const Index d_state = *rc::gen::inRange(1, 20);
  const Index d_mlp = *rc::gen::inRange(0, 20);
  const NaiveSlice slice = slice_of(d_mlp, heads, headdim, ngroups, d_state);
  const Block block = mamba2(1, heads * headdim, headdim, ngroups, d_state, d_mlp);
  RC_ASSERT(holds(block, "conv-channels") == (slice.channels() % 8 == 0));
  bool strides = true;  // of any length of a sequence
  for (Index length = 1; length <= 8; ++length) {
    strides = strides && slice.stride_of_time() % 8 == 0 && slice.stride_of_batch(length) % 8 == 0;
  }
  RC_ASSERT(holds(block, "conv-row-stride") == strides);
}

RC_GTEST_PROP(KernelRulesProperty, FittingHeaddimsAreTheDivisorsThatBreakNothing, ()) {
  const Index ngroups = *rc::gen::inRange(1, 3);
  const Index headdim = *rc::gen::element(4, 6, 8, 16, 24, 64);
  const Index d_ssm = ngroups * *rc::gen::inRange(1, 5) * headdim;
  const Index d_state = 4 * *rc::gen::inRange(1, 9);
  const Index d_model = d_ssm % 2 == 0 ? d_ssm / 2 : d_ssm;
  std::vector<Index> expected;
  for (Index smaller = 1; smaller <= headdim; ++smaller) {
    if (headdim % smaller != 0) continue;
    if (broken(mamba2(d_model, d_ssm, smaller, ngroups, d_state)).empty()) {
      expected.push_back(smaller);
    }
  }
  RC_ASSERT(fitting_headdims(mamba2(d_model, d_ssm, headdim, ngroups, d_state)) == expected);
}

TEST(KernelRules, OfMamba1) {
  const auto block = [](Index d_inner, Index d_state, Index d_conv) {
    return Block{.type = "mamba1",
                 .prefix = "",
                 .layer = 0,
                 .sizes = {{"d_inner", d_inner}, {"d_state", d_state}, {"d_conv", d_conv}},
                 .tensors = {},
                 .numbers = {}};
  };
  EXPECT_THAT(broken(block(384, 16, 4)), IsEmpty());
  EXPECT_THAT(broken(block(384, 256, 4)), IsEmpty());
  EXPECT_THAT(broken(block(384, 257, 4)), ElementsAre("scan-state"));
  EXPECT_THAT(broken(block(380, 16, 5)), ElementsAre("conv-channels", "conv-width"));
}

TEST(KernelRules, OfMamba3) {
  const auto block = [](Index d_state, Index headdim, Index angles, Index rank, Index ngroups) {
    return Block{.type = "mamba3",
                 .prefix = "",
                 .layer = 0,
                 .sizes = {{"d_state", d_state},
                           {"headdim", headdim},
                           {"rope_angles", angles},
                           {"mimo_rank", rank},
                           {"ngroups", ngroups},
                           {"heads_per_group", 4}},
                 .tensors = {},
                 .numbers = {}};
  };
  EXPECT_THAT(broken(block(64, 32, 16, 1, 1)), IsEmpty());
  EXPECT_THAT(broken(block(64, 48, 16, 1, 1)), ElementsAre("siso-powers-of-two"));
  EXPECT_THAT(broken(block(96, 48, 48, 4, 1)), IsEmpty());
  EXPECT_THAT(broken(block(96, 48, 12, 4, 1)), ElementsAre("mimo-rotary-divisor"));
  EXPECT_THAT(broken(block(64, 32, 16, 1, 2)), ElementsAre("decode-groups"));
  Block mimo = block(0, 48, 24, 4, 1);
  mimo.type = "mamba3_mimo";
  mimo.sizes.erase("d_state");
  mimo.sizes["d_plain_half"] = 24;
  EXPECT_THAT(broken(mimo), IsEmpty());
  mimo.sizes["d_plain_half"] = 12;
  EXPECT_THAT(broken(mimo), ElementsAre("mimo-rotary-divisor"));
  EXPECT_THAT(broken(block(15, 32, 0, 1, 1)),
              ElementsAre("an-angle", "even-state", "siso-powers-of-two"));
}

TEST(KernelRules, OtherBlocksHaveNone) {
  EXPECT_THAT(kernel_rules(Block{.type = "attention",
                                 .prefix = "",
                                 .layer = 0,
                                 .sizes = {{"headdim", 7}},
                                 .tensors = {},
                                 .numbers = {}}),
              IsEmpty());
}

}  // namespace
}  // namespace icd
