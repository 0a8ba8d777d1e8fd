#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cuda_graph.h"
#include "kernels/icd_kernels.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using ::testing::HasSubstr;
using testing::HostArray;
using ::testing::StrEq;

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kColumns = 96;

class CApiOnDevice : public testing::DeviceTest {
 protected:
  /// A norm of x into y, with a weight.
  static RmsNorm norm(const void* x, void* y, const float* weight) {
    RmsNorm args{};
    args.rows = kRows;
    args.columns = kColumns;
    args.eps = 1e-5F;
    args.x = x;
    args.y = y;
    args.x_row = args.y_row = kColumns;
    args.weight = weight;
    return args;
  }

  Random random_{1};
  HostArray x_ = testing::normal_array(ICD_F32, kRows* kColumns, random_);
  HostArray weight_ = testing::normal_array(ICD_F32, kColumns, random_);
  HostArray expected_ = testing::poisoned_array(ICD_F32, kRows* kColumns);

  void SetUp() override {
    DeviceTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const RmsNorm args = norm(x_.data(), expected_.data(), weight_.f32());
    ASSERT_EQ(icd_rms_norm(&args, nullptr), 0) << icd_kernels_error();
  }
};

TEST_F(CApiOnDevice, RunsWhereTheArraysLie) {
  DeviceArray x(x_);
  DeviceArray weight(weight_);
  DeviceArray y(testing::poisoned_array(ICD_F32, kRows * kColumns));
  const RmsNorm args = norm(x.data(), y.data(), weight.f32());
  ASSERT_EQ(icd_rms_norm(&args, nullptr), 0) << icd_kernels_error();
  EXPECT_THAT(icd_kernels_error(), StrEq(""));
  EXPECT_LT(testing::relative_l2(y.back(), expected_), testing::tolerance(ICD_F32));
}

TEST_F(CApiOnDevice, RunsOnAStreamAndInAGraph) {
  DeviceArray x(x_);
  DeviceArray weight(weight_);
  DeviceArray y(testing::poisoned_array(ICD_F32, kRows * kColumns));
  const RmsNorm args = norm(x.data(), y.data(), weight.f32());
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  // Once outside of the capture, as one does: code is loaded at the first launch.
  ASSERT_EQ(icd_rms_norm(&args, stream), 0) << icd_kernels_error();
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  check(cudaMemset(y.data(), 0xff, kRows * kColumns * sizeof(float)), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");

  CudaGraph graph(stream, "icd_rms_norm",
                  [&] { EXPECT_EQ(icd_rms_norm(&args, stream), 0) << icd_kernels_error(); });
  EXPECT_NE(testing::relative_l2(y.back(), expected_), 0) << "the capture ran the call";
  graph.replay(stream);
  EXPECT_LT(testing::relative_l2(y.back(), expected_), testing::tolerance(ICD_F32));
  cudaStreamDestroy(stream);
}

TEST_F(CApiOnDevice, NamesFieldsInDifferentPlaces) {
  DeviceArray x(x_);
  DeviceArray y(testing::poisoned_array(ICD_F32, kRows * kColumns));
  const RmsNorm args = norm(x.data(), y.data(), weight_.f32());
  EXPECT_NE(icd_rms_norm(&args, nullptr), 0);
  EXPECT_THAT(icd_kernels_error(),
              HasSubstr("rms_norm: x is on CUDA device 0, but weight in host memory"));
}

TEST_F(CApiOnDevice, TakesManagedAndPinnedMemory) {
  void* pinned = nullptr;
  void* managed = nullptr;
  check(cudaMallocHost(&pinned, kColumns * sizeof(float)), "cudaMallocHost");
  check(cudaMallocManaged(&managed, kRows * kColumns * sizeof(float)), "cudaMallocManaged");
  std::memcpy(pinned, weight_.data(), kColumns * sizeof(float));
  DeviceArray x(x_);
  const RmsNorm args = norm(x.data(), managed, static_cast<const float*>(pinned));
  ASSERT_EQ(icd_rms_norm(&args, nullptr), 0) << icd_kernels_error();
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  HostArray found(ICD_F32, kRows * kColumns);
  std::memcpy(found.data(), managed, static_cast<std::size_t>(found.size_bytes()));
  EXPECT_LT(testing::relative_l2(found, expected_), testing::tolerance(ICD_F32));
  cudaFree(managed);
  cudaFreeHost(pinned);
}

// Sizes of a long sequence and few channels are those that need one, if any do.
TEST_F(CApiOnDevice, AsksForAWorkspaceThatIsMissing) {
  constexpr std::int64_t kLength = 16384;
  constexpr std::int64_t kChannels = 128;
  constexpr std::int64_t kStates = 128;
  SkipZeroGemv gemv{};
  gemv.rows = kLength;
  gemv.columns = kChannels;
  gemv.type = ICD_BF16;
  gemv.input_major = 1;
  Ssd ssd{};
  ssd.batch = 1;
  ssd.length = kLength;
  ssd.heads = 2;
  ssd.head_dim = 64;
  ssd.groups = 1;
  ssd.states = kStates;
  ssd.type = ICD_BF16;

  DeviceArray some{HostArray(ICD_BF16, kLength * kChannels)};
  DeviceArray other{HostArray(ICD_BF16, kLength * kChannels)};
  DeviceArray floats{HostArray(ICD_F32, kChannels)};
  gemv.W = gemv.x = some.data();
  gemv.y = other.data();
  ssd.x = ssd.dt = ssd.B = ssd.C = {some.data(), kLength * kChannels, kChannels, 1};
  ssd.y = {other.data(), kLength * kChannels, kChannels, 1};
  ssd.A = floats.f32();

  const auto expect_line = [](std::int64_t needed, int status, const char* call) {
    EXPECT_EQ(status != 0, needed > 0) << call << ": " << icd_kernels_error();
    if (needed == 0) return;
    EXPECT_EQ(
        std::string(icd_kernels_error()),
        std::string(call) + ": workspace is NULL, expected " + std::to_string(needed) + " bytes");
  };
  expect_line(icd_skip_zero_gemv_workspace(&gemv), icd_skip_zero_gemv(&gemv, nullptr),
              "skip_zero_gemv");
  expect_line(icd_ssd_workspace(&ssd), icd_ssd(&ssd, nullptr), "ssd");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

TEST_F(CApiOnDevice, SaysNothingAgainstADeviceThatWorks) {
  EXPECT_THAT(icd_kernels_why_no_device(), StrEq(""));
}

}  // namespace
}  // namespace icd
