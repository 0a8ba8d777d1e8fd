#include "kernels/rms_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <vector>

#include "kernels/reference.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;

struct Case {
  std::int64_t rows = 3;
  std::int64_t columns = 64;
  std::int64_t group = 0;
  std::int32_t type = ICD_F32;
  std::int32_t residual_type = ICD_F32;
  bool weight = true;
  bool gate = false;
  std::int32_t norm_before_gate = 0;
  bool residual = false;
  bool residual_out = false;
  bool in_place = false;  // residual_out is residual
  bool order = false;
  std::int64_t gap = 0;              // elements between rows
  std::int64_t offset_elements = 0;  // of x, z and y behind an aligned address
  std::int64_t offset_words = 0;     // of weight, residuals and order
};

std::ostream& operator<<(std::ostream& to, const Case& c) {
  return to << "rows " << c.rows << ", columns " << c.columns << ", group " << c.group << ", type "
            << c.type << ", residual_type " << c.residual_type << ", weight " << c.weight
            << ", gate " << c.gate << ", norm_before_gate " << c.norm_before_gate << ", residual "
            << c.residual << ", residual_out " << c.residual_out << ", in_place " << c.in_place
            << ", order " << c.order << ", gap " << c.gap << ", offset_elements "
            << c.offset_elements << ", offset_words " << c.offset_words;
}

std::vector<std::int32_t> order_of(std::int64_t columns, Random& random) {
  const Permutation order = random_permutation(static_cast<Index>(columns), random);
  return {order.gather().begin(), order.gather().end()};
}

// The arrays of a case, in host memory.
struct Arrays {
  Arrays(const Case& c, Random& random)
      : x(testing::normal_array(c.type, c.rows * (c.columns + c.gap), random)),
        z(testing::normal_array(c.type, x.count(), random)),
        residual(testing::normal_array(c.residual_type, c.rows * c.columns, random)),
        residual_out(testing::poisoned_array(c.residual_type, c.rows * c.columns)),
        weight(testing::normal_array(ICD_F32, c.columns, random, 0.5, 1)),
        order(testing::int_array(order_of(c.columns, random))),
        y(testing::poisoned_array(c.type, x.count())) {}

  HostArray x;
  HostArray z;
  HostArray residual;
  HostArray residual_out;
  HostArray weight;
  HostArray order;
  HostArray y;
};

// `Places` has the fields of Arrays, with data().
template <typename Places>
RmsNorm args_of(const Case& c, Places& at) {
  RmsNorm args{};
  args.rows = c.rows;
  args.columns = c.columns;
  args.group = c.group;
  args.type = c.type;
  args.residual_type = c.residual_type;
  args.norm_before_gate = c.norm_before_gate;
  args.eps = 1e-5F;
  args.x = at.x.data();
  args.y = at.y.data();
  args.x_row = args.y_row = c.columns + c.gap;
  if (c.gate) {
    args.z = at.z.data();
    args.z_row = c.columns + c.gap;
  }
  if (c.residual) args.residual = at.residual.data();
  if (c.residual_out) {
    args.residual_out = c.in_place ? at.residual.data() : at.residual_out.data();
  }
  if (c.weight) args.weight = static_cast<const float*>(at.weight.data());
  if (c.order) args.order = static_cast<const std::int32_t*>(at.order.data());
  return args;
}

struct OnDevice {
  OnDevice(const Case& c, const Arrays& from)
      : x(from.x, c.offset_elements * element_bytes(c.type)),
        z(from.z, c.offset_elements * element_bytes(c.type)),
        residual(from.residual, c.offset_words * element_bytes(c.residual_type)),
        residual_out(from.residual_out, c.offset_words * element_bytes(c.residual_type)),
        weight(from.weight, c.offset_words * 4),
        order(from.order, c.offset_words * 4),
        y(from.y, c.offset_elements * element_bytes(c.type)) {}

  DeviceArray x;
  DeviceArray z;
  DeviceArray residual;
  DeviceArray residual_out;
  DeviceArray weight;
  DeviceArray order;
  DeviceArray y;
};

// One call on the device, compared with the reference. `spoil` changes the inputs first.
template <typename Spoil>
void expect_agrees(const Case& c, const Spoil& spoil) {
  SCOPED_TRACE(::testing::Message() << c);
  Random random(17);
  Arrays host(c, random);
  spoil(host);
  OnDevice device(c, host);
  OnDevice again(c, host);
  check(rms_norm(args_of(c, device), nullptr), "rms_norm");
  check(rms_norm(args_of(c, again), nullptr), "rms_norm");
  reference::rms_norm(args_of(c, host));

  const HostArray y = device.y.back();
  EXPECT_LE(testing::relative_l2(y, host.y), testing::tolerance(c.type)) << "y";
  EXPECT_TRUE(y == again.y.back()) << "the same call gave other bits";
  EXPECT_LE(testing::relative_l2(device.residual.back(), host.residual),
            testing::tolerance(c.residual_type))
      << "residual";
  EXPECT_LE(testing::relative_l2(device.residual_out.back(), host.residual_out),
            testing::tolerance(c.residual_type))
      << "residual_out";
}

void expect_agrees(const Case& c) {
  expect_agrees(c, [](Arrays&) {});
}

float f(double x) { return static_cast<float>(x); }

TEST(RmsNormReference, DividesByTheRootOfTheMeanSquare) {
  HostArray x(ICD_F32, 4);
  HostArray weight(ICD_F32, 4);
  HostArray y(ICD_F32, 4);
  const float values[] = {1, -1, 3, 4};
  for (int c = 0; c < 4; ++c) {
    x.set(c, values[c]);
    weight.set(c, static_cast<float>(c + 1));
  }
  RmsNorm args{};
  args.rows = 1;
  args.columns = 4;
  args.x = x.data();
  args.y = y.data();
  args.weight = weight.f32();
  args.eps = 0.25F;
  reference::rms_norm(args);  // mean square 27 / 4, with eps 7
  for (int c = 0; c < 4; ++c) {
    EXPECT_FLOAT_EQ(y[c], f(double{values[c]} * (c + 1) / std::sqrt(7.0)));
  }
  args.group = 2;  // mean squares 1 and 25 / 2
  reference::rms_norm(args);
  EXPECT_FLOAT_EQ(y[1], f(-2 / std::sqrt(1.25)));
  EXPECT_FLOAT_EQ(y[3], f(16 / std::sqrt(12.75)));
}

TEST(RmsNormReference, GatesBeforeOrAfter) {
  HostArray x(ICD_F32, 2);
  HostArray z(ICD_F32, 2);
  HostArray y(ICD_F32, 2);
  x.set(0, 3);
  x.set(1, 4);
  z.set(0, 1);
  z.set(1, -2);
  const double first = 1 / (1 + std::exp(-1.0));
  const double second = -2 / (1 + std::exp(2.0));
  RmsNorm args{};
  args.rows = 1;
  args.columns = 2;
  args.x = x.data();
  args.z = z.data();
  args.y = y.data();
  reference::rms_norm(args);
  const double rms = std::sqrt((9 * first * first + 16 * second * second) / 2);
  EXPECT_FLOAT_EQ(y[0], f(3 * first / rms));
  EXPECT_FLOAT_EQ(y[1], f(4 * second / rms));
  args.norm_before_gate = 1;
  reference::rms_norm(args);
  EXPECT_FLOAT_EQ(y[0], f(3 / std::sqrt(12.5) * first));
  EXPECT_FLOAT_EQ(y[1], f(4 / std::sqrt(12.5) * second));
}

TEST(RmsNormReference, NormalisesTheSumWithTheResidualAndWritesIt) {
  Random random(1);
  const Case c{.columns = 24, .residual = true, .residual_out = true};
  Arrays separate(c, random);
  Arrays in_place = separate;
  reference::rms_norm(args_of(c, separate));
  Case other = c;
  other.in_place = true;
  reference::rms_norm(args_of(other, in_place));
  EXPECT_TRUE(in_place.residual == separate.residual_out);
  EXPECT_TRUE(in_place.y == separate.y);

  Arrays sum = separate;  // the sum as x, without a residual
  sum.x = separate.residual_out;
  reference::rms_norm(args_of(Case{.columns = 24}, sum));
  EXPECT_LE(testing::relative_l2(sum.y, separate.y), 1e-6);
}

TEST(RmsNormReference, OrderGathersWhatTheColumnsWouldHaveHad) {
  Random random(2);
  Case c{.columns = 48, .group = 16, .gate = true};
  Arrays natural(c, random);
  Arrays ordered = natural;
  reference::rms_norm(args_of(c, natural));
  c.order = true;
  reference::rms_norm(args_of(c, ordered));
  const auto* order = static_cast<const std::int32_t*>(ordered.order.data());
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t column = 0; column < c.columns; ++column) {
      EXPECT_EQ(ordered.y[r * c.columns + column], natural.y[r * c.columns + order[column]]);
    }
  }
}

// No data is touched by a call that has nothing to do, so this needs no device.
TEST(RmsNorm, SucceedsOnNothing) {
  Random random(3);
  for (const auto& [rows, columns] : {std::pair{0, 8}, {8, 0}, {0, 0}}) {
    Case c{.rows = rows, .columns = columns};
    Arrays host(c, random);
    reference::rms_norm(args_of(c, host));
    EXPECT_EQ(rms_norm(args_of(c, host), nullptr), cudaSuccess) << c;
  }
}

using RmsNormOnDevice = testing::DeviceTest;

TEST_F(RmsNormOnDevice, AgreesForEveryTypeAndLength) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int64_t columns :
         {1,   2,   7,    8,    16,   24,   31,   32,   64,   96,   128,   256,   264,
          512, 768, 1001, 1024, 1032, 1536, 2560, 4096, 5120, 8192, 16384, 16392, 20'001}) {
      expect_agrees({.rows = 3, .columns = columns, .type = type});
    }
    for (const std::int64_t rows : {1, 2, 63, 64, 65, 257}) {
      expect_agrees({.rows = rows, .columns = 8, .type = type});
      expect_agrees({.rows = rows, .columns = 200, .type = type});
      expect_agrees({.rows = rows, .columns = 17, .type = type});
    }
  }
}

TEST_F(RmsNormOnDevice, AgreesForEveryVariant) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int32_t residual_type : {ICD_F32, ICD_F16, ICD_BF16}) {
      for (int variant = 0; variant < 64; ++variant) {
        for (const std::int64_t columns : {768, 97}) {
          expect_agrees({.rows = 5,
                         .columns = columns,
                         .type = type,
                         .residual_type = residual_type,
                         .weight = (variant & 1) != 0,
                         .gate = (variant & 2) != 0,
                         .norm_before_gate = (variant >> 2) & 1,
                         .residual = (variant & 8) != 0,
                         .residual_out = (variant & 16) != 0,
                         .order = (variant & 32) != 0});
        }
      }
    }
  }
}

TEST_F(RmsNormOnDevice, WritesTheSumOverTheResidual) {
  for (const std::int32_t type : {ICD_F32, ICD_BF16}) {
    for (const std::int64_t columns : {64, 1536, 101, 40'000}) {
      for (const bool order : {false, true}) {
        expect_agrees({.rows = 4,
                       .columns = columns,
                       .type = type,
                       .residual = true,
                       .residual_out = true,
                       .in_place = true,
                       .order = order});
      }
    }
  }
}

TEST_F(RmsNormOnDevice, AgreesForEveryGroup) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const bool order : {false, true}) {
      for (const std::int64_t group : {1, 3, 8, 16, 40, 64, 128, 320, 640, 1280}) {
        for (const std::int64_t groups : {1, 2, 5, 8}) {
          expect_agrees({.rows = 3,
                         .columns = group * groups,
                         .group = group,
                         .type = type,
                         .gate = true,
                         .order = order});
        }
      }
      // More groups than rms_norm_any_kernel holds at a time, and rows that no block can hold.
      expect_agrees({.rows = 2, .columns = 2500, .group = 1, .type = type, .order = order});
      expect_agrees({.rows = 2, .columns = 20'480, .group = 128, .type = type, .order = order});
      expect_agrees({.rows = 2, .columns = 40'960, .group = 20'480, .type = type, .order = order});
      expect_agrees({.rows = 2, .columns = 16'384, .group = 8'192, .type = type, .order = order});
    }
  }
}

TEST_F(RmsNormOnDevice, TakesAnyStrideAndAddress) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const bool order : {false, true}) {
      for (const std::int64_t gap : {0, 1, 8}) {
        for (const std::int64_t offset_elements : {0, 1, 4}) {
          for (const std::int64_t offset_words : {0, 1}) {
            expect_agrees({.rows = 4,
                           .columns = 256,
                           .type = type,
                           .residual_type = type,
                           .gate = true,
                           .residual = true,
                           .residual_out = true,
                           .order = order,
                           .gap = gap,
                           .offset_elements = offset_elements,
                           .offset_words = offset_words});
          }
        }
      }
    }
  }
}

TEST_F(RmsNormOnDevice, FillsTheDevice) {
  expect_agrees({.rows = 2049, .columns = 1536, .type = ICD_BF16});
  expect_agrees({.rows = 517, .columns = 5120, .type = ICD_BF16, .gate = true, .order = true});
  expect_agrees({.rows = 3001,
                 .columns = 320,
                 .group = 64,
                 .type = ICD_F16,
                 .gate = true,
                 .norm_before_gate = 1,
                 .order = true});
}

TEST_F(RmsNormOnDevice, PassesOnWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int64_t columns : {64, 1536, 77}) {
      for (const std::int32_t norm_before_gate : {0, 1}) {
        expect_agrees({.rows = 6,
                       .columns = columns,
                       .type = type,
                       .gate = true,
                       .norm_before_gate = norm_before_gate},
                      [&](Arrays& arrays) {
                        arrays.x.set(5, kInfinity);
                        arrays.x.set(columns + 3, -kInfinity);
                        arrays.x.set(2 * columns + 1, kNan);
                        arrays.z.set(3 * columns + 2, kInfinity);
                        arrays.z.set(4 * columns + 2, -kInfinity);
                        arrays.z.set(5 * columns + 7, kNan);
                      });
      }
      expect_agrees({.rows = 2, .columns = columns, .type = type}, [&](Arrays& arrays) {
        for (std::int64_t c = 0; c < columns; ++c) arrays.x.set(c, 0);
      });
    }
  }
}

}  // namespace
}  // namespace icd
