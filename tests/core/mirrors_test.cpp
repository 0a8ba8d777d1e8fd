#include "mirrors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "icd/error.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::ScratchFolder;
using testing::TinyTensor;

TinyTensor tensor(const std::string& name, Shape shape) {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return {name, "F32", std::move(shape), std::string(static_cast<std::size_t>(4 * count), '1')};
}

/// What mirrors the weights a.0.x.w (3, 2) and a.0.x.b (3), of which a group orders axis 0.
struct Found {
  std::set<std::string> names;
  std::vector<std::string> segments;  ///< tensors of the group
};

Found mirrors_among(std::vector<TinyTensor> others, const std::string& base = "") {
  const ScratchFolder scratch;
  std::vector<TinyTensor> tensors = {tensor("a.0.x.w", {3, 2}), tensor("a.0.x.b", {3})};
  tensors.insert(tensors.end(), others.begin(), others.end());
  testing::write_file(scratch / "m.safetensors", testing::safetensors_bytes(tensors));
  const Checkpoint checkpoint = Checkpoint::open(scratch / "m.safetensors");
  std::vector<AxisGroup> groups = {{.name = "g",
                                    .kind = "g",
                                    .size = 3,
                                    .segments = {{.tensor = "a.0.x.w"}, {.tensor = "a.0.x.b"}}}};
  Found found;
  found.names = add_mirrors(checkpoint, base, {"a.0.x.b", "a.0.x.w"}, groups);
  for (const AxisSegment& segment : groups[0].segments) found.segments.push_back(segment.tensor);
  return found;
}

TEST(Mirrors, AreCopiesOfAllWeights) {
  const Found found = mirrors_among({tensor("ema.0.x.w", {3, 2}), tensor("ema.0.x.b", {3})});
  EXPECT_THAT(found.names, ElementsAre("ema.0.x.b", "ema.0.x.w"));
  EXPECT_THAT(found.segments, ElementsAre("a.0.x.w", "a.0.x.b", "ema.0.x.w", "ema.0.x.b"));
}

TEST(Mirrors, AreMomentsThatAreCalledAfterTheirWeight) {
  const Found found = mirrors_among(
      {tensor("opt.a.0.x.w.exp_avg", {3, 2}), tensor("opt.a.0.x.b.exp_avg", {3})}, "a.");
  EXPECT_THAT(found.names, ElementsAre("opt.a.0.x.b.exp_avg", "opt.a.0.x.w.exp_avg"));
}

TEST(Mirrors, AreNotTensorsThatHappenToHaveTheNameAndTheShape) {
  EXPECT_THAT(mirrors_among({tensor("enc.x.w", {3, 2})}).names, IsEmpty());
  EXPECT_THAT(mirrors_among({tensor("w", {3, 2}), tensor("b", {3})}).names, IsEmpty());
  EXPECT_THAT(mirrors_among({tensor("ema.0.x.w", {3, 2}), tensor("ema.0.x.b", {4})}).names,
              IsEmpty());
  // Inside the model it is a tensor of its own, whatever it is called.
  EXPECT_THAT(mirrors_among({tensor("a.1.0.x.w", {3, 2}), tensor("a.1.0.x.b", {3})}, "a.").names,
              IsEmpty());
}

TEST(Mirrors, AreMomentsByTheNumberOfTheirParameter) {
  const Found found = mirrors_among({tensor("bn.running_mean", {5}),
                                     tensor("optimizer_states.0.state.0.exp_avg", {3, 2}),
                                     tensor("optimizer_states.0.state.0.step", {}),
                                     tensor("optimizer_states.0.state.1.exp_avg", {3}),
                                     tensor("optimizer_states.0.state.1.step", {1})});
  EXPECT_THAT(found.segments,
              ElementsAre("a.0.x.w", "a.0.x.b", "optimizer_states.0.state.0.exp_avg",
                          "optimizer_states.0.state.1.exp_avg"));
}

TEST(Mirrors, RefuseAnOptimizerOfOtherParameters) {
  try {
    mirrors_among({tensor("optimizer.state.0.exp_avg", {3})});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unsupported);
    EXPECT_THAT(error.what(), HasSubstr("shape is (3,), expected (3, 2), that of parameter 0"));
  }
  EXPECT_THROW(mirrors_among({tensor("optimizer.state.7.exp_avg", {3})}), Error);
}

}  // namespace
}  // namespace icd
