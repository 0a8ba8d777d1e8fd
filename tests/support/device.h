#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "kernels/device.h"

namespace icd::testing {

/// Skips, visibly, where there is no device; fails instead where ICD_REQUIRE_DEVICE=1 says
/// that there has to be one.
class DeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string why = why_no_device();
    if (why.empty()) return;
    const char* required = std::getenv("ICD_REQUIRE_DEVICE");
    if (required != nullptr && std::string_view(required) == "1") {
      FAIL() << why << " (ICD_REQUIRE_DEVICE=1)";
    }
    GTEST_SKIP() << why;
  }
};

}  // namespace icd::testing
