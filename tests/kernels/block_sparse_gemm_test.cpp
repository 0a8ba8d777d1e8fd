#include "kernels/block_sparse_gemm.h"

#include <cmath>
#include <cstdint>
#include <ostream>
#include <vector>

#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;
using testing::int_array;
using testing::kTypes;
using testing::normal_array;
using testing::poisoned_array;
using testing::relative_l2;
using testing::tolerance;

struct Case {
  std::int64_t tokens = 70;
  std::int64_t block_rows = 5;
  std::int64_t block_columns = 6;
  std::int32_t block = 32;
  std::int32_t type = ICD_BF16;
  double share = 0.4;        // of the blocks that are stored
  std::int64_t padding = 0;  // elements between rows of x and y
  std::int64_t offset = 0;   // elements that arrays are off their alignment

  std::int64_t rows() const { return block_rows * block; }
  std::int64_t columns() const { return block_columns * block; }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "tokens " << c.tokens << ", rows of blocks " << c.block_rows
             << ", columns of blocks " << c.block_columns << ", block " << c.block << ", type "
             << c.type << ", share " << c.share << ", padding " << c.padding << ", offset "
             << c.offset;
}

struct Inputs {
  HostArray x;
  HostArray starts;
  HostArray columns_of;
  HostArray values;
};

Inputs inputs_of(const Case& c) {
  Random random(31);
  std::vector<std::int32_t> starts = {0};
  std::vector<std::int32_t> columns_of;
  for (std::int64_t r = 0; r < c.block_rows; ++r) {
    for (std::int64_t k = 0; k < c.block_columns; ++k) {
      if (random.uniform() < c.share) columns_of.push_back(static_cast<std::int32_t>(k));
    }
    starts.push_back(static_cast<std::int32_t>(columns_of.size()));
  }
  const auto stored = static_cast<std::int64_t>(columns_of.size());
  return {normal_array(c.type, c.tokens * (c.columns() + c.padding), random), int_array(starts),
          int_array(columns_of), normal_array(c.type, stored * c.block * c.block, random)};
}

BlockSparseGemm args_of(const Case& c, const void* x, void* y, const void* starts,
                        const void* columns_of, const void* values) {
  return {.tokens = c.tokens,
          .rows = c.rows(),
          .columns = c.columns(),
          .block = c.block,
          .type = c.type,
          .x = x,
          .x_row = c.columns() + c.padding,
          .y = y,
          .y_row = c.rows() + c.padding,
          .starts = static_cast<const std::int32_t*>(starts),
          .columns_of = static_cast<const std::int32_t*>(columns_of),
          .values = values};
}

HostArray output_of(const Case& c) {
  return poisoned_array(c.type, c.tokens * (c.rows() + c.padding));
}

HostArray by_reference(const Case& c, const Inputs& inputs) {
  HostArray y = output_of(c);
  reference::block_sparse_gemm(args_of(c, inputs.x.data(), y.data(), inputs.starts.data(),
                                       inputs.columns_of.data(), inputs.values.data()));
  return y;
}

HostArray on_device(const Case& c, const Inputs& inputs) {
  const std::int64_t offset = c.offset * element_bytes(c.type);
  DeviceArray x(inputs.x, offset);
  DeviceArray y(output_of(c), offset);
  DeviceArray starts(inputs.starts);
  DeviceArray columns_of(inputs.columns_of);
  DeviceArray values(inputs.values, offset);
  check(
      block_sparse_gemm(
          args_of(c, x.data(), y.data(), starts.data(), columns_of.data(), values.data()), nullptr),
      "block_sparse_gemm");
  return y.back();
}

void expect_agrees(const Case& c) {
  SCOPED_TRACE(::testing::Message() << c);
  const Inputs inputs = inputs_of(c);
  const HostArray found = on_device(c, inputs);
  EXPECT_LT(relative_l2(found, by_reference(c, inputs)), tolerance(c.type));
  EXPECT_TRUE(found == on_device(c, inputs)) << "y differs from run to run";
}

TEST(BlockSparseGemmReference, IsTheDenseProduct) {
  const Case c = {.tokens = 3, .block_rows = 2, .block_columns = 3, .block = 16, .type = ICD_F32};
  const Inputs inputs = inputs_of(c);
  std::vector<double> dense(static_cast<std::size_t>(c.rows() * c.columns()));
  const auto* starts = reinterpret_cast<const std::int32_t*>(inputs.starts.data());
  const auto* columns_of = reinterpret_cast<const std::int32_t*>(inputs.columns_of.data());
  for (std::int64_t r = 0; r < c.rows(); ++r) {
    for (std::int32_t k = starts[r / 16]; k < starts[r / 16 + 1]; ++k) {
      for (std::int64_t i = 0; i < 16; ++i) {
        dense[static_cast<std::size_t>(r * c.columns() + columns_of[k] * 16 + i)] =
            static_cast<double>(inputs.values[(k * 16 + r % 16) * 16 + i]);
      }
    }
  }
  const HostArray found = by_reference(c, inputs);
  for (std::int64_t t = 0; t < c.tokens; ++t) {
    for (std::int64_t r = 0; r < c.rows(); ++r) {
      double sum = 0;
      for (std::int64_t i = 0; i < c.columns(); ++i) {
        sum += dense[static_cast<std::size_t>(r * c.columns() + i)] *
               static_cast<double>(inputs.x[t * c.columns() + i]);
      }
      EXPECT_NEAR(found[t * c.rows() + r], sum, 1e-5) << "token " << t << ", row " << r;
    }
  }
}

TEST(BlockSparseGemm, SucceedsOnNothingAndRefusesWhatDoesNotFit) {
  EXPECT_EQ(block_sparse_gemm({}, nullptr), cudaSuccess);
  EXPECT_EQ(block_sparse_gemm({.rows = 16, .columns = 16}, nullptr), cudaSuccess);
  EXPECT_EQ(block_sparse_gemm({.tokens = 1, .rows = 16, .columns = 16, .block = 8}, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(block_sparse_gemm({.tokens = 1, .rows = 17, .columns = 16}, nullptr),
            cudaErrorInvalidValue);
  EXPECT_EQ(block_sparse_gemm({.tokens = -1}, nullptr), cudaErrorInvalidValue);
}

class BlockSparseGemmOnDevice : public testing::DeviceTest {};

TEST_F(BlockSparseGemmOnDevice, TakesEveryTypeBlockAndNumberOfTokens) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t block : {16, 32, 64}) {
      for (const std::int64_t tokens : {1, 15, 16, 63, 64, 65, 130}) {
        expect_agrees({.tokens = tokens, .block = block, .type = type});
      }
    }
  }
}

TEST_F(BlockSparseGemmOnDevice, TakesAnyShareOfBlocks) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t block : {16, 32, 64}) {
      for (const double share : {0.0, 0.1, 1.0}) {
        expect_agrees(
            {.tokens = 33, .block_rows = 9, .block = block, .type = type, .share = share});
      }
    }
  }
}

TEST_F(BlockSparseGemmOnDevice, TakesAnyStrideAndAddress) {
  for (const std::int32_t type : kTypes) {
    for (const std::int64_t offset : {0, 1, 4, 8}) {
      for (const std::int64_t padding : {0, 1, 8}) {
        expect_agrees({.type = type, .padding = padding, .offset = offset});
      }
    }
  }
}

TEST_F(BlockSparseGemmOnDevice, TakesManyBlocks) {
  expect_agrees({.tokens = 20, .block_rows = 40, .block_columns = 80, .block = 64, .share = 0.25});
}

}  // namespace
}  // namespace icd
