#include "kernels/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "support/device.h"

namespace icd {
namespace {

using ::testing::IsEmpty;
using ::testing::MatchesRegex;
using ::testing::Not;
using ::testing::StartsWith;

TEST(Device, SaysInOneLineWhyThereIsNone) {
  const std::string why = why_no_device();
  const auto found = devices();
  const bool usable = std::any_of(found.begin(), found.end(),
                                  [](const DeviceInfo& device) { return device.trouble.empty(); });
  EXPECT_EQ(why.empty(), usable) << why;
  if (!usable) {
    EXPECT_THAT(why, StartsWith("CUDA: "));
    EXPECT_EQ(std::count(why.begin(), why.end(), '\n'), 0) << why;
  }
}

TEST(Device, NamesTheRuntimeExactlyWhereItIsBuiltIn) {
  if (is_built_with_cuda()) {
    EXPECT_THAT(cuda_runtime_version(), MatchesRegex("[0-9]+\\.[0-9]"));
  } else {
    EXPECT_THAT(cuda_runtime_version(), IsEmpty());
    EXPECT_THAT(cuda_driver_version(), IsEmpty());
    EXPECT_THAT(devices(), IsEmpty());
    EXPECT_THAT(why_no_device(), ::testing::HasSubstr("built without it"));
  }
}

TEST(Device, BlamesTheDriverWhereThereIsNone) {
  if (!is_built_with_cuda() || !cuda_driver_version().empty()) GTEST_SKIP() << "needs no driver";
  EXPECT_EQ(why_no_device(), "CUDA: there is no NVIDIA driver on this machine");
  EXPECT_THAT(devices(), IsEmpty());
}

class ListedDevice : public testing::DeviceTest {};

TEST_F(ListedDevice, HasANameMemoryAndAComputeCapability) {
  for (const DeviceInfo& device : devices()) {
    EXPECT_THAT(device.name, Not(IsEmpty()));
    EXPECT_GE(device.major, 3) << device.name;
    EXPECT_GT(device.memory_bytes, std::int64_t{1} << 30) << device.name;
  }
  EXPECT_THAT(cuda_driver_version(), MatchesRegex("[0-9]+\\.[0-9]"));
}

}  // namespace
}  // namespace icd
