#include "icd/weight_similarity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "gemm.h"
#include "icd/error.h"
#include "icd/random.h"
#include "support/files.h"
#include "support/tiny_checkpoint.h"

namespace icd {
namespace {

using ::testing::HasSubstr;
using testing::random_bytes;
using testing::safetensors_bytes;
using testing::ScratchFolder;
using testing::TinyTensor;

TinyTensor tensor(const std::string& name, const std::string& dtype, const Shape& shape,
                  std::uint64_t seed) {
  std::int64_t count = 1;
  for (const std::int64_t size : shape) count *= size;
  return {name, dtype, shape, random_bytes(dtype, count, 1.0, 0.5, seed)};
}

Checkpoint written(const ScratchFolder& folder, const std::vector<TinyTensor>& tensors) {
  testing::write_file(folder / "model.safetensors", safetensors_bytes(tensors));
  return Checkpoint::open(folder.path());
}

/// A group of 6 with every pattern: rows and columns, halves, an offset, blocks, rank 3.
AxisGroup six() {
  return {.name = "six",
          .kind = "inner",
          .size = 6,
          .segments = {{.tensor = "halves", .dim = 0, .offset = 0},
                       {.tensor = "halves", .dim = 0, .offset = 6},
                       {.tensor = "columns", .dim = 1, .offset = 2},
                       {.tensor = "blocks", .dim = 0, .offset = 1, .stride = 3, .block = 3},
                       {.tensor = "cube", .dim = 1},
                       {.tensor = "vector", .dim = 0}}};
}

std::vector<TinyTensor> six_tensors() {
  return {tensor("halves", "F32", {12, 5}, 1), tensor("columns", "BF16", {7, 9}, 2),
          tensor("blocks", "F16", {20, 2}, 3), tensor("cube", "F64", {3, 6, 2}, 4),
          tensor("vector", "F32", {6}, 5)};
}

std::vector<double> values_of(const Checkpoint& checkpoint, std::string_view name) {
  const TensorView view = checkpoint.view(*checkpoint.find(name));
  std::vector<double> values(static_cast<std::size_t>(view.elements()));
  read_as(view, std::span<double>(values));
  return values;
}

/// Straight from the definition, over every element of every tensor of up to three axes.
std::vector<double> naive_similarity(const Checkpoint& checkpoint, const AxisGroup& group) {
  const auto n = static_cast<std::size_t>(group.size);
  std::vector<double> gram(n * n);
  std::vector<std::string> done;
  for (const AxisSegment& first : group.segments) {
    if (std::find(done.begin(), done.end(), first.tensor) != done.end()) continue;
    done.push_back(first.tensor);
    const std::vector<double> values = values_of(checkpoint, first.tensor);
    const Shape& shape = checkpoint.find(first.tensor)->shape;
    std::vector<std::vector<double>> vectors(n);
    for (const AxisSegment& segment : group.segments) {
      if (segment.tensor != first.tensor) continue;
      for (std::size_t at = 0; at < values.size(); ++at) {
        std::int64_t rest = static_cast<std::int64_t>(at);
        std::int64_t place = 0;
        for (std::size_t axis = shape.size(); axis-- > 0; rest /= shape[axis]) {
          if (static_cast<int>(axis) == segment.dim) place = rest % shape[axis];
        }
        place -= segment.offset;
        if (place < 0 || place >= std::int64_t{group.size} * segment.block) continue;
        vectors[static_cast<std::size_t>(place / segment.block)].push_back(values[at]);
      }
    }
    double total = 0;
    for (std::size_t c = 0; c < vectors[0].size(); ++c) {
      double mean = 0;
      for (const auto& vector : vectors) mean += vector[c] / static_cast<double>(n);
      for (auto& vector : vectors) {
        vector[c] -= mean;
        total += vector[c] * vector[c];
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      for (std::size_t j = 0; j < n; ++j) {
        for (std::size_t c = 0; c < vectors[0].size(); ++c) {
          gram[i * n + j] += vectors[i][c] * vectors[j][c] / total;
        }
      }
    }
  }
  std::vector<double> result(n * n);
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {
      result[i * n + j] = gram[i * n + j] / std::sqrt(gram[i * n + i] * gram[j * n + j]);
    }
  }
  return result;
}

void expect_near(const std::vector<float>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t at = 0; at < found.size(); ++at)
    EXPECT_NEAR(found[at], expected[at], 2e-6) << at;
}

TEST(WeightSimilarity, AgreesWithItsDefinitionForEverySegmentPattern) {
  const ScratchFolder folder;
  const Checkpoint checkpoint = written(folder, six_tensors());
  expect_near(weight_similarity(checkpoint, six()), naive_similarity(checkpoint, six()));
}

TEST(WeightSimilarity, AgreesWithItsDefinitionBeyondOneChunk) {
  // 5000 and 3 * 900 coordinates: cut along the leading axis, and inside one entry of it.
  const ScratchFolder folder;
  const Checkpoint checkpoint = written(
      folder, {tensor("long", "F32", {5000, 3}, 1), tensor("deep", "BF16", {2, 3, 3, 900}, 2)});
  const AxisGroup group = {
      .name = "three",
      .kind = "inner",
      .size = 3,
      .segments = {{.tensor = "long", .dim = 1}, {.tensor = "deep", .dim = 1}}};
  expect_near(weight_similarity(checkpoint, group), naive_similarity(checkpoint, group));
}

TEST(WeightSimilarity, FollowsAPermutationOfTheMembers) {
  const Permutation order = Permutation::from_gather({3, 0, 5, 1, 4, 2});
  std::vector<TinyTensor> tensors = {tensor("rows", "F32", {6, 5}, 1),
                                     tensor("vector", "F32", {6}, 2)};
  const AxisGroup group = {.name = "six",
                           .kind = "inner",
                           .size = 6,
                           .segments = {{.tensor = "rows"}, {.tensor = "vector"}}};
  const ScratchFolder before_folder;
  const auto before = weight_similarity(written(before_folder, tensors), group);
  for (TinyTensor& each : tensors) {
    const std::size_t member_bytes = each.bytes.size() / 6;
    std::string moved;
    for (const Index from : order.gather()) {
      moved += each.bytes.substr(static_cast<std::size_t>(from) * member_bytes, member_bytes);
    }
    each.bytes = moved;
  }
  const ScratchFolder after_folder;
  const auto after = weight_similarity(written(after_folder, tensors), group);
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 6; ++j) {
      EXPECT_NEAR(after[static_cast<std::size_t>(i * 6 + j)],
                  before[static_cast<std::size_t>(order[i] * 6 + order[j])], 2e-6);
    }
  }
}

TEST(WeightSimilarity, IsNotDecidedByTheTensorWithTheLargestValues) {
  const AxisGroup group = {
      .name = "six", .kind = "inner", .size = 6, .segments = {{.tensor = "a"}, {.tensor = "b"}}};
  const ScratchFolder small;
  const ScratchFolder large;
  TinyTensor scaled = tensor("a", "F32", {6, 4}, 1);
  const auto before =
      weight_similarity(written(small, {scaled, tensor("b", "F32", {6, 3}, 2)}), group);
  for (std::size_t at = 0; at < scaled.bytes.size(); at += sizeof(float)) {
    float value;
    std::memcpy(&value, scaled.bytes.data() + at, sizeof(value));
    value *= 1024;
    std::memcpy(scaled.bytes.data() + at, &value, sizeof(value));
  }
  const auto after =
      weight_similarity(written(large, {scaled, tensor("b", "F32", {6, 3}, 2)}), group);
  for (std::size_t at = 0; at < before.size(); ++at) EXPECT_NEAR(after[at], before[at], 2e-6);
}

TEST(WeightSimilarity, IsNaNWhereAllMembersAreEqual) {
  TinyTensor equal = tensor("equal", "F32", {3, 2}, 1);
  equal.bytes = equal.bytes.substr(0, 8) + equal.bytes.substr(0, 8) + equal.bytes.substr(0, 8);
  const ScratchFolder folder;
  const auto found = weight_similarity(
      written(folder, {equal}),
      {.name = "three", .kind = "inner", .size = 3, .segments = {{.tensor = "equal"}}});
  for (const float r : found) EXPECT_TRUE(std::isnan(r));
}

TEST(WeightSimilarity, HasTheSameBitsOnAnyNumberOfThreads) {
  const ScratchFolder folder;
  const Checkpoint checkpoint = written(folder, {tensor("w", "F32", {200, 90}, 1)});
  const AxisGroup group = {
      .name = "w", .kind = "inner", .size = 200, .segments = {{.tensor = "w"}}};
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2}) {
    const ThreadScope scope(threads);
    results.push_back(weight_similarity(checkpoint, group));
  }
  EXPECT_EQ(results[0], results[1]);
}

void expect_refused(const TinyTensor& stored, const AxisSegment& segment, ErrorCode code,
                    const std::string& message) {
  const ScratchFolder folder;
  const Checkpoint checkpoint = written(folder, {stored});
  try {
    weight_similarity(checkpoint, {.name = "g", .kind = "inner", .size = 4, .segments = {segment}});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_THAT(error.what(), HasSubstr(message));
  }
}

TEST(WeightSimilarity, RefusesATensorThatIsNotThere) {
  expect_refused(tensor("a", "F32", {4}, 1), {.tensor = "b"}, ErrorCode::usage, "tensor 'b'");
}

TEST(WeightSimilarity, RefusesASegmentBeyondItsAxis) {
  expect_refused(tensor("a", "F32", {8}, 1), {.tensor = "a", .offset = 1, .stride = 2, .block = 2},
                 ErrorCode::usage, "tensor 'a': shape is (8,), expected entries [1, 9) on axis 0");
  expect_refused(tensor("a", "F32", {8}, 1), {.tensor = "a", .dim = 1}, ErrorCode::usage,
                 "on axis 1");
}

TEST(WeightSimilarity, RefusesATypeThatIsNoFloat) {
  expect_refused({"a", "I8", {4}, std::string(4, '\1')}, {.tensor = "a"}, ErrorCode::unsupported,
                 "tensor 'a': dtype is I8");
}

TEST(WeightSimilarity, RefusesAWeightThatIsNotFinite) {
  TinyTensor bad = tensor("a", "F32", {4}, 1);
  bad.bytes.replace(4, 4, std::string("\x00\x00\xc0\x7f", 4));
  expect_refused(bad, {.tensor = "a"}, ErrorCode::input, "tensor 'a': holds NaN or infinity");
}

}  // namespace
}  // namespace icd
