#include "support/families.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "icd/random.h"

namespace icd::testing {
namespace {

constexpr std::uint64_t kWeights = 1;
constexpr std::uint64_t kInputs = 2;

std::vector<Family> all_families() {
  std::vector<Family> all = mamba_families();
  for (Family& family : hybrid_families()) all.push_back(std::move(family));
  for (Family& family : other_families()) all.push_back(std::move(family));
  return all;
}

/// Largest difference, relative to the largest output.
double difference(const std::vector<double>& a, const std::vector<double>& b) {
  EXPECT_EQ(a.size(), b.size());
  double largest = 0;
  double scale = 0;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    largest = std::max(largest, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(a[i]));
  }
  return largest / scale;
}

bool is_invisible(const Family& family, const std::string& tensor) {
  return std::any_of(family.invisible.begin(), family.invisible.end(),
                     [&](const auto& entry) { return tensor.ends_with(entry.first); });
}

bool holds_indices(const Family& family, const std::string& tensor) {
  return std::any_of(family.index_tensors.begin(), family.index_tensors.end(),
                     [&](const std::string& end) { return tensor.ends_with(end); });
}

TEST(Families, HaveNamesOfTheirOwn) {
  std::vector<std::string> names;
  for (const Family& family : all_families()) names.push_back(family.name);
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
}

TEST(Families, AreMadeFromTheSeedAlone) {
  for (const Family& family : all_families()) {
    SCOPED_TRACE(family.name);
    const NaiveTensors once = family.make(kWeights);
    const NaiveTensors again = family.make(kWeights);
    const NaiveTensors other = family.make(kWeights + 1);
    for (const auto& [name, tensor] : once) {
      EXPECT_EQ(tensor.values, again.at(name).values) << name;
      if (holds_indices(family, name)) continue;
      EXPECT_NE(tensor.values, other.at(name).values) << name;
    }
  }
}

TEST(Families, HoldNoZeroNoOneAndNoValueTwice) {
  for (const Family& family : all_families()) {
    SCOPED_TRACE(family.name);
    for (const auto& [name, tensor] : family.make(kWeights)) {
      std::int64_t elements = 1;
      for (const std::int64_t n : tensor.shape) elements *= n;
      ASSERT_EQ(elements, static_cast<std::int64_t>(tensor.values.size())) << name;
      if (holds_indices(family, name)) continue;
      std::vector<double> values = tensor.values;
      values.insert(values.end(), {0.0, 1.0});
      std::sort(values.begin(), values.end());
      EXPECT_EQ(std::adjacent_find(values.begin(), values.end()), values.end()) << name;
    }
  }
}

TEST(Families, ComputeFiniteNumbersOfModestSize) {
  for (const Family& family : all_families()) {
    const std::vector<double> output = family.forward(family.make(kWeights), kInputs);
    ASSERT_FALSE(output.empty()) << family.name;
    double squares = 0;
    for (const double value : output) squares += value * value;
    const double size = std::sqrt(squares / static_cast<double>(output.size()));
    EXPECT_TRUE(size > 1e-2 && size < 1e3) << family.name << ": root mean square is " << size;
  }
}

TEST(Families, ReadEveryTensorThatTheyMake) {
  for (const Family& family : all_families()) {
    SCOPED_TRACE(family.name);
    NaiveTensors tensors = family.make(kWeights);
    const std::vector<double> output = family.forward(tensors, kInputs);
    for (auto& [name, tensor] : tensors) {
      const NaiveTensor original = tensor;
      // Not all by one factor, which a norm after it would take out again; and not by little,
      // which changes no choice of experts.
      Random random(kInputs);
      if (holds_indices(family, name)) {
        std::reverse(tensor.values.begin(), tensor.values.end());
      } else {
        for (double& value : tensor.values) value *= 1 + 0.5 * random.normal();
      }
      const double change = difference(output, family.forward(tensors, kInputs));
      if (is_invisible(family, name)) {
        EXPECT_LT(change, 1e-9) << name;
      } else {
        EXPECT_GT(change, 1e-6) << name;
      }
      tensor = original;
    }
  }
}

TEST(Families, ComputeAnotherFunctionInAWrongOrder) {
  for (const Family& family : all_families()) {
    SCOPED_TRACE(family.name);
    const NaiveTensors tensors = family.make(kWeights);
    const std::vector<double> output = family.forward(tensors, kInputs);
    for (const auto& [name, apply] : family.wrong) {
      NaiveTensors moved = tensors;
      apply(moved);
      EXPECT_GT(difference(output, family.forward(moved, kInputs)), 1e-6) << name;
    }
  }
}

}  // namespace
}  // namespace icd::testing
