#include "kernels/sparse_gemm.h"

#include <algorithm>
#include <cstdint>
#include <memory>

#include "icd/error.h"
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

// Two of every four neighbours are 0, which two is random.
HostArray sparse_array(const SparseGemmShape& shape, Random& random) {
  HostArray W = normal_array(shape.type, shape.outputs * shape.inputs, random);
  for (std::int64_t i = 0; i < W.count(); i += 4) {
    const auto first = static_cast<std::int64_t>(random.below(4));
    const auto step = static_cast<std::int64_t>(random.below(3)) + 1;
    W.set(i + first, 0);
    W.set(i + (first + step) % 4, 0);
  }
  return W;
}

class SparseGemmOnDevice : public testing::DeviceTest {
 protected:
  void SetUp() override {
    testing::DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    try {
      library_ = open_cusparse_lt();
    } catch (const Error& error) {
      GTEST_SKIP() << error.what() << "; " << error.hint();
    }
  }

  void expect_agrees(const SparseGemmShape& shape) {
    SCOPED_TRACE(::testing::Message() << "tokens " << shape.tokens << ", inputs " << shape.inputs
                                      << ", outputs " << shape.outputs << ", type " << shape.type);
    Random random(51);
    const HostArray x = normal_array(shape.type, shape.tokens * shape.inputs, random);
    const HostArray W = sparse_array(shape, random);
    HostArray expected = poisoned_array(shape.type, shape.tokens * shape.outputs);
    reference::each_row(shape.tokens, [&](std::int64_t t) {
      for (std::int64_t r = 0; r < shape.outputs; ++r) {
        double sum = 0;
        for (std::int64_t i = 0; i < shape.inputs; ++i) {
          sum += static_cast<double>(x[t * shape.inputs + i]) *
                 static_cast<double>(W[r * shape.inputs + i]);
        }
        expected.set(t * shape.outputs + r, static_cast<float>(sum));
      }
    });
    DeviceArray device_x(x);
    DeviceArray device_W(W);
    DeviceArray y(poisoned_array(shape.type, shape.tokens * shape.outputs));
    const SparseGemm gemm(library_, shape, device_W.data(), nullptr);
    DeviceBuffer workspace(std::max<std::int64_t>(gemm.workspace_bytes(), 1));
    check(gemm.run(device_x.data(), y.data(), workspace.data(), nullptr), "SparseGemm::run");
    EXPECT_LT(relative_l2(y.back(), expected), tolerance(shape.type));
  }

  std::shared_ptr<const CusparseLt> library_;
};

TEST_F(SparseGemmOnDevice, AgreesWithTheDenseProduct) {
  for (const std::int32_t type : {ICD_F16, ICD_BF16}) {
    expect_agrees({.tokens = 8, .inputs = 32, .outputs = 32, .type = type});
    expect_agrees({.tokens = 64, .inputs = 256, .outputs = 96, .type = type});
    expect_agrees({.tokens = 136, .inputs = 1536, .outputs = 768, .type = type});
  }
}

TEST_F(SparseGemmOnDevice, RefusesWeightsThatAreDense) {
  Random random(52);
  const SparseGemmShape shape = {.tokens = 8, .inputs = 64, .outputs = 32};
  HostArray W = sparse_array(shape, random);
  for (std::int64_t i = 0; i < 4; ++i) W.set(64 * 7 + 8 + i, 1);
  DeviceArray device_W(W);
  try {
    const SparseGemm gemm(library_, shape, device_W.data(), nullptr);
    FAIL() << "took dense weights";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::input) << error.what();
  }
}

TEST_F(SparseGemmOnDevice, RefusesSizesThatDoNotFit) {
  const auto plan = [&](const SparseGemmShape& shape) {
    SparseGemm gemm(library_, shape, nullptr, nullptr);
  };
  EXPECT_THROW(plan({.tokens = 7, .inputs = 64, .outputs = 32}), Error);
  EXPECT_THROW(plan({.tokens = 8, .inputs = 60, .outputs = 32}), Error);
  EXPECT_THROW(plan({.tokens = 8, .inputs = 64, .outputs = 0}), Error);
  EXPECT_THROW(plan({.tokens = 8, .inputs = 64, .outputs = 32, .type = ICD_F32}), Error);
}

}  // namespace
}  // namespace icd
