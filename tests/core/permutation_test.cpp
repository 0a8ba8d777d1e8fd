#include "icd/permutation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <numeric>

#include "icd/error.h"
#include "icd/expand.h"
#include "icd/random.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Permutation of(std::vector<Index> source) { return Permutation::from_gather(std::move(source)); }

std::string message(std::vector<Index> source) {
  try {
    of(std::move(source));
  } catch (const Error& error) {
    return error.what();
  }
  return "accepted";
}

Permutation arbitrary(Index n) {
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  return random_permutation(n, random);
}

TEST(Permutation, NamesTheFirstEntryThatIsNoPlace) {
  EXPECT_EQ(message({0, 3, 1}), "permutation of 3: entry 1 is 3, expected 0 to 2");
  EXPECT_EQ(message({0, -1, 1}), "permutation of 3: entry 1 is -1, expected 0 to 2");
  EXPECT_EQ(message({2, 1, 2}), "permutation of 3: entry 2 repeats 2, already at entry 0");
}

TEST(Permutation, IsInGatherForm) {
  const Permutation p = of({2, 0, 1});
  EXPECT_EQ(p[0], 2);  // what was third now stands first
  EXPECT_THAT(p.inverse().gather(), ElementsAre(1, 2, 0));
}

TEST(Permutation, ComposesInTheOrderOfApplication) {
  const Permutation p = of({2, 0, 1});
  const Permutation q = of({1, 0, 2});
  // x = (a, b, c) becomes (c, a, b), then (a, c, b).
  EXPECT_THAT(p.then(q).gather(), ElementsAre(0, 2, 1));
  EXPECT_THROW(p.then(Permutation::identity(2)), Error);
}

TEST(Permutation, OfNothingIsTheIdentity) {
  EXPECT_TRUE(Permutation().is_identity());
  EXPECT_EQ(Permutation::identity(0), Permutation());
  EXPECT_FALSE(of({1, 0}).is_identity());
}

TEST(Inflate, MovesRunsAsWholes) {
  EXPECT_THAT(inflate(of({2, 0, 1}), 2).gather(), ElementsAre(4, 5, 0, 1, 2, 3));
}

TEST(Deal, TakesTheFirstOfEveryRunThenTheSecond) {
  EXPECT_THAT(deal(of({2, 0, 1}), 2).gather(), ElementsAre(4, 0, 2, 5, 1, 3));
}

TEST(DirectSum, KeepsEachPartOnItsStretch) {
  const Permutation parts[] = {of({1, 0}), Permutation(), of({2, 0, 1})};
  EXPECT_THAT(direct_sum(parts).gather(), ElementsAre(1, 0, 4, 2, 3));
}

TEST(Inflate, RefusesFactorsThatMakeNoSense) {
  EXPECT_THROW(inflate(of({0}), 0), Error);
  EXPECT_THROW(deal(of({0}), -1), Error);
  EXPECT_THROW(inflate(Permutation::identity(1 << 20), 1 << 12), Error);
}

TEST(ExpandHidden, RefusesARatioThatIsNotWhole) {
  const Permutation hidden = of({2, 0, 1});
  EXPECT_THAT(expand_hidden(hidden, 6, HiddenExpansion::block).gather(),
              ElementsAre(4, 5, 0, 1, 2, 3));
  EXPECT_THAT(expand_hidden(hidden, 6, HiddenExpansion::repeat).gather(),
              ElementsAre(4, 0, 2, 5, 1, 3));
  for (const Index size : {0, 2, 4, 7}) {
    try {
      expand_hidden(hidden, size, HiddenExpansion::block);
      ADD_FAILURE() << size << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::usage);
      EXPECT_THAT(error.what(), HasSubstr("from 3 hidden ones is a ratio of"));
    }
  }
}

RC_GTEST_PROP(PermutationProperty, InverseUndoes, ()) {
  const Permutation p = arbitrary(*rc::gen::inRange(0, 200));
  RC_ASSERT(p.then(p.inverse()).is_identity());
  RC_ASSERT(p.inverse().then(p).is_identity());
}

RC_GTEST_PROP(PermutationProperty, ComposingIsAssociativeAndInvertsBackwards, ()) {
  const auto n = *rc::gen::inRange(0, 100);
  const Permutation p = arbitrary(n);
  const Permutation q = arbitrary(n);
  const Permutation r = arbitrary(n);
  RC_ASSERT(p.then(q).then(r) == p.then(q.then(r)));
  RC_ASSERT(p.then(q).inverse() == q.inverse().then(p.inverse()));
}

RC_GTEST_PROP(PermutationProperty, ExpansionsAreBijectionsThatComposeAndInvert, ()) {
  const auto n = *rc::gen::inRange(1, 60);
  const auto factor = *rc::gen::inRange(1, 5);
  const Permutation p = arbitrary(n);
  const Permutation q = arbitrary(n);
  const auto is_bijection = [](const Permutation& x) {
    return Permutation::from_gather({x.gather().begin(), x.gather().end()}) == x;
  };
  RC_ASSERT(is_bijection(inflate(p, factor)));
  RC_ASSERT(is_bijection(deal(p, factor)));
  RC_ASSERT(inflate(p, factor).then(inflate(q, factor)) == inflate(p.then(q), factor));
  RC_ASSERT(inflate(p, factor).inverse() == inflate(p.inverse(), factor));
  // Dealing also regroups: what undoes it is the inverse of the whole, not a dealing.
  RC_ASSERT(deal(p, factor).then(deal(p, factor).inverse()).is_identity());
  RC_ASSERT(deal(p, 1) == p && inflate(p, 1) == p);
  const Permutation parts[] = {p, q};
  RC_ASSERT(is_bijection(direct_sum(parts)));
}

}  // namespace
}  // namespace icd
