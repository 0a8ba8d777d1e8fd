#include "size_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Polynomial size(const std::string& name) { return {{{name}, 1}}; }
Polynomial whole(std::int64_t n) { return {{{}, n}}; }

TEST(SizeSystem, ReadsOneSizeFromOneLength) {
  SizeSystem sizes;
  sizes.equate(whole(2) * size("d_inner"), 48);
  sizes.solve();
  EXPECT_EQ(sizes.value("d_inner"), 24);
}

TEST(SizeSystem, SolvesProductsAsUnknownsOfALinearSystem) {
  // Mamba-2 without its norm: only sums of products are lengths.
  SizeSystem sizes;
  const Polynomial scan = size("heads") * size("headdim");
  const Polynomial states = size("groups") * size("d_state");
  sizes.set("groups", 2);
  sizes.equate(whole(2) * size("d_mlp") + whole(2) * scan + whole(2) * states + size("heads"), 84);
  sizes.equate(scan + whole(2) * states, 44);
  sizes.equate(size("d_mlp") + scan, 29);
  sizes.equate(size("heads"), 6);
  sizes.solve();
  EXPECT_EQ(sizes.value("headdim"), 4);
  EXPECT_EQ(sizes.value("d_mlp"), 5);
  EXPECT_EQ(sizes.value("d_state"), 5);
  EXPECT_TRUE(sizes.unknowns().empty());
}

TEST(SizeSystem, LeavesUnknownWhatLengthsDoNotTell) {
  SizeSystem sizes;
  sizes.equate(size("groups") * size("d_state"), 128);
  sizes.solve();
  EXPECT_THAT(sizes.unknowns(), ElementsAre("d_state", "groups"));
  EXPECT_FALSE(sizes.value("groups"));
}

TEST(SizeSystem, NotesWhatDoesNotDivide) {
  SizeSystem sizes;
  sizes.set("groups", 3);
  sizes.equate(size("groups") * size("heads_per_group"), 8);
  sizes.solve();
  EXPECT_THAT(sizes.misfit(), HasSubstr("heads_per_group"));
  EXPECT_FALSE(sizes.value("heads_per_group"));
}

TEST(SizeSystem, TakesNoNegativeSize) {
  SizeSystem sizes;
  sizes.equate(size("a") + whole(5), 3);
  sizes.equate(size("b") + size("c"), 3);
  sizes.equate(size("b"), 7);
  sizes.solve();
  EXPECT_FALSE(sizes.value("a"));
  EXPECT_FALSE(sizes.value("c"));
  EXPECT_FALSE(sizes.misfit().empty());
}

TEST(SizeSystem, RefusesToOverflow) {
  SizeSystem sizes;
  for (const char* name : {"a", "b", "c"}) sizes.set(name, std::int64_t{1} << 31);
  EXPECT_FALSE(sizes.value(size("a") * size("b") * size("c")));
}

RC_GTEST_PROP(SizeSystem, FindsTheSizesThatMadeTheLengths, ()) {
  const auto draw = [](std::int64_t least) { return *rc::gen::inRange<std::int64_t>(least, 300); };
  const std::int64_t groups = draw(1);
  const std::int64_t heads = draw(1);
  const std::int64_t headdim = draw(1);
  const std::int64_t states = draw(1);
  const std::int64_t mlp = draw(0);
  SizeSystem sizes;
  sizes.set("groups", groups);
  const Polynomial scan = size("groups") * size("heads") * size("headdim");
  const Polynomial bc = whole(2) * size("groups") * size("states");
  sizes.equate(whole(2) * size("mlp") + whole(2) * scan + bc + size("groups") * size("heads"),
               2 * mlp + 2 * groups * heads * headdim + 2 * groups * states + groups * heads);
  sizes.equate(scan + bc, groups * heads * headdim + 2 * groups * states);
  sizes.equate(size("mlp") + scan, mlp + groups * heads * headdim);
  sizes.equate(size("groups") * size("heads"), groups * heads);
  sizes.solve();
  RC_ASSERT(sizes.value("heads") == heads);
  RC_ASSERT(sizes.value("headdim") == headdim);
  RC_ASSERT(sizes.value("states") == states);
  RC_ASSERT(sizes.value("mlp") == mlp);
}

}  // namespace
}  // namespace icd
