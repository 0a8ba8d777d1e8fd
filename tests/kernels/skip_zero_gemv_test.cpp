#include "kernels/skip_zero_gemv.h"

#include <cmath>
#include <cstdint>
#include <ostream>

#include "kernels/reference.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;
using testing::kTypes;
using testing::normal_array;
using testing::poisoned_array;
using testing::relative_l2;
using testing::tolerance;

struct Case {
  std::int64_t rows = 33;
  std::int64_t columns = 65;
  std::int32_t type = ICD_BF16;
  std::int32_t input_major = 0;
  double share = 0.25;      // of x that is not 0
  std::int64_t offset = 0;  // bytes that x and y are off their alignment
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "rows " << c.rows << ", columns " << c.columns << ", type " << c.type
             << ", input_major " << c.input_major << ", share " << c.share << ", offset "
             << c.offset;
}

struct Inputs {
  HostArray W;
  HostArray x;
};

Inputs inputs_of(const Case& c) {
  Random random(21);
  Inputs inputs = {normal_array(c.type, c.rows * c.columns, random),
                   normal_array(c.type, c.columns, random)};
  for (std::int64_t i = 0; i < c.columns; ++i) {
    if (random.uniform() >= c.share) inputs.x.set(i, i % 3 == 0 ? -0.0F : 0.0F);
  }
  return inputs;
}

SkipZeroGemv args_of(const Case& c, const void* W, const void* x, void* y) {
  SkipZeroGemv args = {};
  args.rows = c.rows;
  args.columns = c.columns;
  args.type = c.type;
  args.input_major = c.input_major;
  args.W = W;
  args.x = x;
  args.y = y;
  return args;
}

HostArray by_reference(const Case& c, const Inputs& inputs) {
  HostArray y = poisoned_array(c.type, c.rows);
  reference::skip_zero_gemv(args_of(c, inputs.W.data(), inputs.x.data(), y.data()));
  return y;
}

HostArray on_device(const Case& c, const Inputs& inputs) {
  DeviceArray W(inputs.W);
  DeviceArray x(inputs.x, c.offset);
  DeviceArray y(poisoned_array(c.type, c.rows), c.offset);
  SkipZeroGemv args = args_of(c, W.data(), x.data(), y.data());
  DeviceArray workspace(poisoned_array(ICD_F32, skip_zero_gemv_workspace(args) / 4));
  args.workspace = workspace.data();
  EXPECT_EQ(why_not(args), "");
  check(skip_zero_gemv(args, nullptr), "skip_zero_gemv");
  HostArray found = y.back();
  workspace.back();  // for its guard
  return found;
}

void expect_agrees(const Case& c, const Inputs& inputs) {
  SCOPED_TRACE(::testing::Message() << c);
  const HostArray found = on_device(c, inputs);
  EXPECT_LT(relative_l2(found, by_reference(c, inputs)), tolerance(c.type));
  EXPECT_TRUE(found == on_device(c, inputs)) << "y differs from run to run";
}

void expect_agrees(const Case& c) { expect_agrees(c, inputs_of(c)); }

TEST(SkipZeroGemvReference, IsAProductInBothLayouts) {
  const float by_row[] = {1, 2, 3, 4, 5, 6};    // (2, 3)
  const float by_input[] = {1, 4, 2, 5, 3, 6};  // (3, 2)
  const float x[] = {10, 0, -1};
  Case c = {.rows = 2, .columns = 3, .type = ICD_F32};
  for (const float* W : {by_row, by_input}) {
    c.input_major = W == by_input ? 1 : 0;
    float y[] = {-1, -1};
    reference::skip_zero_gemv(args_of(c, W, x, y));
    EXPECT_EQ(y[0], 7) << c;
    EXPECT_EQ(y[1], 34) << c;
  }
}

TEST(SkipZeroGemvReference, DoesNotMeetWhatItSkips) {
  const float W[] = {NAN, 2, INFINITY};
  const float x[] = {0, 3, -0.0F};
  float y = 0;
  reference::skip_zero_gemv(args_of({.rows = 1, .columns = 3, .type = ICD_F32}, W, x, &y));
  EXPECT_EQ(y, 6);
}

TEST(SkipZeroGemv, SucceedsOnNothing) {
  const SkipZeroGemv args = {};
  EXPECT_EQ(skip_zero_gemv(args, nullptr), cudaSuccess);
}

class SkipZeroGemvOnDevice : public testing::DeviceTest {};

TEST_F(SkipZeroGemvOnDevice, TakesEveryTypeLayoutAndSize) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t input_major : {0, 1}) {
      for (const std::int64_t rows : {1, 3, 8, 33, 64, 260}) {
        for (const std::int64_t columns : {0, 1, 7, 8, 31, 256, 1027, 5120}) {
          expect_agrees(
              {.rows = rows, .columns = columns, .type = type, .input_major = input_major});
        }
      }
    }
  }
}

TEST_F(SkipZeroGemvOnDevice, TakesAnyShareOfZeros) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t input_major : {0, 1}) {
      for (const double share : {0.0, 0.001, 0.5, 1.0}) {
        expect_agrees({.rows = 72,
                       .columns = 2048,
                       .type = type,
                       .input_major = input_major,
                       .share = share});
      }
    }
  }
}

TEST_F(SkipZeroGemvOnDevice, TakesLargeMatrices) {
  for (const std::int32_t input_major : {0, 1}) {
    expect_agrees({.rows = 2560, .columns = 5120, .input_major = input_major});
    expect_agrees({.rows = 5, .columns = 300'007, .input_major = input_major});
    expect_agrees({.rows = 100'003, .columns = 9, .input_major = input_major});
  }
}

TEST_F(SkipZeroGemvOnDevice, TakesVectorsAtAnyAddress) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t input_major : {0, 1}) {
      for (const std::int64_t elements : {1, 2, 4, 8}) {
        expect_agrees({.rows = 48,
                       .columns = 96,
                       .type = type,
                       .input_major = input_major,
                       .offset = elements * element_bytes(type)});
      }
    }
  }
}

TEST_F(SkipZeroGemvOnDevice, DoesNotMeetWhatItSkips) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t input_major : {0, 1}) {
      for (const std::int64_t rows : {40, 41}) {
        const Case c = {
            .rows = rows, .columns = rows + 56, .type = type, .input_major = input_major};
        Inputs inputs = inputs_of(c);
        for (std::int64_t column = 0; column < c.columns; ++column) {
          if (inputs.x[column] != 0) continue;
          for (std::int64_t r = 0; r < rows; ++r) {
            inputs.W.set(input_major != 0 ? column * rows + r : r * c.columns + column,
                         r % 2 == 0 ? NAN : INFINITY);
          }
        }
        expect_agrees(c, inputs);
      }
    }
  }
}

TEST_F(SkipZeroGemvOnDevice, PassesOnWhatIsNotFinite) {
  for (const std::int32_t input_major : {0, 1}) {
    const Case c = {.rows = 40, .columns = 64, .input_major = input_major, .share = 1};
    Inputs inputs = inputs_of(c);
    inputs.W.set(5, NAN);
    inputs.W.set(700, INFINITY);
    inputs.W.set(64 * 40 - 1, -INFINITY);
    expect_agrees(c, inputs);
    inputs.x.set(3, INFINITY);
    expect_agrees(c, inputs);
    inputs.x.set(9, NAN);
    expect_agrees(c, inputs);
  }
}

}  // namespace
}  // namespace icd
