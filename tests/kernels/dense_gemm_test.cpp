#include "kernels/dense_gemm.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/reference_math.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;
using testing::normal_array;
using testing::poisoned_array;
using testing::relative_l2;
using testing::tolerance;

::testing::Message text(const DenseGemmShape& s) {
  return ::testing::Message() << "tokens " << s.tokens << ", inputs " << s.inputs << ", outputs "
                              << s.outputs << ", type " << s.type << ", x_row " << s.x_row
                              << ", y_row " << s.y_row << ", bias " << s.has_bias << ", adds "
                              << s.adds_to_y << ", transposed " << s.is_transposed << ", tf32 "
                              << s.may_use_tf32 << ", workspace " << s.workspace_bytes;
}

std::int64_t or_packed(std::int64_t stride, std::int64_t packed) {
  return stride != 0 ? stride : packed;
}

class DenseGemmOnDevice : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    try {
      library_ = open_cublas_lt();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what() << "; " << error.hint();
    }
  }

  void expect_agrees(const DenseGemmShape& shape, std::optional<double> bound = {}) {
    SCOPED_TRACE(text(shape));
    const bool is_turned = shape.is_transposed;
    const std::int64_t x_row = or_packed(shape.x_row, is_turned ? shape.tokens : shape.inputs);
    const std::int64_t y_row = or_packed(shape.y_row, shape.outputs);
    Random random(41);
    const HostArray x =
        normal_array(shape.type, (is_turned ? shape.inputs : shape.tokens) * x_row, random);
    const HostArray W = normal_array(shape.type, shape.outputs * shape.inputs, random);
    const HostArray bias = normal_array(shape.type, shape.outputs, random);
    const HostArray before = shape.adds_to_y
                                 ? normal_array(shape.type, shape.tokens * y_row, random)
                                 : poisoned_array(shape.type, shape.tokens * y_row);
    HostArray expected = before;
    reference::each_row(shape.tokens, [&](std::int64_t t) {
      for (std::int64_t r = 0; r < shape.outputs; ++r) {
        double sum = shape.has_bias ? static_cast<double>(bias[r]) : 0;
        if (shape.adds_to_y) sum += static_cast<double>(before[t * y_row + r]);
        for (std::int64_t i = 0; i < shape.inputs; ++i) {
          const std::int64_t at_x = is_turned ? i * x_row + t : t * x_row + i;
          const std::int64_t at_w = is_turned ? i * shape.outputs + r : r * shape.inputs + i;
          sum += static_cast<double>(x[at_x]) * static_cast<double>(W[at_w]);
        }
        expected.set(t * y_row + r, static_cast<float>(sum));
      }
    });

    DeviceArray device_x(x);
    DeviceArray device_W(W);
    DeviceArray device_bias(bias);
    DeviceArray y(before);
    DeviceBuffer workspace(std::max<std::int64_t>(shape.workspace_bytes, 1));
    DenseGemm gemm(library_, shape);
    check(gemm.run(device_x.data(), device_W.data(), device_bias.data(), y.data(), workspace.data(),
                   nullptr),
          "DenseGemm::run");
    EXPECT_LT(relative_l2(y.back(), expected), bound.value_or(tolerance(shape.type)));
  }

  std::shared_ptr<const CublasLt> library_;
};

TEST_F(DenseGemmOnDevice, TakesEveryType) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const bool has_bias : {false, true}) {
      for (const std::int64_t tokens : {1, 2, 7, 64, 130}) {
        expect_agrees(
            {.tokens = tokens, .inputs = 96, .outputs = 64, .type = type, .has_bias = has_bias});
      }
      expect_agrees(
          {.tokens = 33, .inputs = 1536, .outputs = 80, .type = type, .has_bias = has_bias});
    }
  }
}

TEST_F(DenseGemmOnDevice, TakesOperandsThatAreTransposed) {
  for (const std::int64_t inputs : {1, 7, 130, 2048}) {
    for (const std::int64_t size : {4, 24, 200}) {
      expect_agrees({.tokens = size, .inputs = inputs, .outputs = size, .is_transposed = true});
    }
    expect_agrees({.tokens = 12,
                   .inputs = inputs,
                   .outputs = 20,
                   .x_row = 16,
                   .y_row = 24,
                   .adds_to_y = true,
                   .is_transposed = true});
  }
}

TEST_F(DenseGemmOnDevice, TakesOddSizesOfF32) {
  expect_agrees({.tokens = 3, .inputs = 1, .outputs = 1});
  expect_agrees({.tokens = 5, .inputs = 37, .outputs = 11, .has_bias = true});
}

TEST_F(DenseGemmOnDevice, TakesStridesAndNoWorkspace) {
  expect_agrees(
      {.tokens = 20, .inputs = 64, .outputs = 48, .type = ICD_BF16, .x_row = 160, .y_row = 56});
  expect_agrees(
      {.tokens = 20, .inputs = 64, .outputs = 48, .type = ICD_BF16, .workspace_bytes = 0});
}

TEST_F(DenseGemmOnDevice, AddsToWhatIsThere) {
  for (const bool has_bias : {false, true}) {
    expect_agrees({.tokens = 33,
                   .inputs = 96,
                   .outputs = 64,
                   .y_row = 68,
                   .has_bias = has_bias,
                   .adds_to_y = true});
  }
  expect_agrees({.tokens = 2, .inputs = 96, .outputs = 64, .type = ICD_BF16, .adds_to_y = true});
}

TEST_F(DenseGemmOnDevice, UsesTf32OnlyWhenAsked) {
  // 10 bits of mantissa leave 3e-4; what f32 leaves is checked everywhere else.
  expect_agrees({.tokens = 128, .inputs = 512, .outputs = 256, .may_use_tf32 = true}, 2e-3);
  expect_agrees({.tokens = 128, .inputs = 512, .outputs = 256});
}

TEST_F(DenseGemmOnDevice, SucceedsOnNothing) {
  DenseGemm gemm(library_, {.tokens = 0, .inputs = 4, .outputs = 4});
  EXPECT_EQ(gemm.run(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr), cudaSuccess);
}

TEST_F(DenseGemmOnDevice, RefusesSizesThatMakeNoSense) {
  EXPECT_THROW(DenseGemm(library_, {.tokens = -1, .inputs = 4, .outputs = 4}), Error);
  EXPECT_THROW(DenseGemm(library_, {.tokens = 1, .inputs = 0, .outputs = 4}), Error);
  EXPECT_THROW(DenseGemm(library_, {.tokens = 1, .inputs = 4, .outputs = 4, .type = 9}), Error);
}

}  // namespace
}  // namespace icd
