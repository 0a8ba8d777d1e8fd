#include "icd/dtype.h"

#include <gtest/gtest.h>

namespace icd {
namespace {

TEST(DType, NamesReadBackAsThemselves) {
  for (int i = 0; i < static_cast<int>(DType::unknown); ++i) {
    const auto dtype = static_cast<DType>(i);
    EXPECT_EQ(dtype_from_name(dtype_name(dtype)), dtype) << dtype_name(dtype);
    EXPECT_GT(dtype_bits(dtype), 0);
  }
  EXPECT_EQ(dtype_from_name("?"), std::nullopt);
  EXPECT_EQ(dtype_from_name("bf16"), std::nullopt);
}

TEST(DType, OfLessThanAByteHasNoBytes) {
  EXPECT_EQ(dtype_bytes(DType::f4), 0);
  EXPECT_EQ(dtype_bytes(DType::f6_e2m3), 0);
  EXPECT_EQ(dtype_bytes(DType::unknown), 0);
  EXPECT_EQ(dtype_bytes(DType::f8_e4m3), 1);
  EXPECT_EQ(dtype_bytes(DType::bf16), 2);
  EXPECT_EQ(dtype_bytes(DType::c64), 8);
}

}  // namespace
}  // namespace icd
