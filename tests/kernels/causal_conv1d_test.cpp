#include "kernels/causal_conv1d.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
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

constexpr std::int32_t kTypes[] = {ICD_F32, ICD_F16, ICD_BF16};

enum class Layout { channel_last, channel_first, scattered };

struct Case {
  std::int64_t batch = 2;
  std::int64_t length = 20;
  std::int64_t channels = 16;
  std::int64_t width = 4;
  std::int32_t type = ICD_F32;
  std::int32_t silu = 1;
  Layout layout = Layout::channel_last;
  std::int64_t gap = 0;  // elements between rows of the fastest axis: slices of a wider tensor
  bool bias = true;
  bool initial_state = false;
  bool final_state = false;
  bool in_place = false;                  // final_state is initial_state
  std::vector<std::int32_t> starts = {};  // empty: none
  std::int64_t offset_elements = 0;       // of x and y behind an aligned address
};

std::ostream& operator<<(std::ostream& to, const Case& c) {
  to << "batch " << c.batch << ", length " << c.length << ", channels " << c.channels << ", width "
     << c.width << ", type " << c.type << ", silu " << c.silu << ", layout "
     << static_cast<int>(c.layout) << ", gap " << c.gap << ", bias " << c.bias << ", initial_state "
     << c.initial_state << ", final_state " << c.final_state << ", in_place " << c.in_place
     << ", offset_elements " << c.offset_elements << ", starts";
  for (const std::int32_t start : c.starts) to << ' ' << start;
  return to;
}

std::int64_t rows_of(const Case& c) { return c.starts.empty() ? c.batch : 1; }

Strided strides_of(const Case& c, void* data) {
  switch (c.layout) {
    case Layout::channel_last:
      return {data, c.length * (c.channels + c.gap), c.channels + c.gap, 1};
    case Layout::channel_first:
      return {data, c.channels * (c.length + c.gap), 1, c.length + c.gap};
    case Layout::scattered:
      break;
  }
  return {data, 2, 2 * rows_of(c) * c.channels, 2 * rows_of(c)};  // token, channel, batch, unused
}

std::int64_t elements_of(const Case& c) {
  switch (c.layout) {
    case Layout::channel_last:
      return rows_of(c) * c.length * (c.channels + c.gap);
    case Layout::channel_first:
      return rows_of(c) * c.channels * (c.length + c.gap);
    case Layout::scattered:
      break;
  }
  return 2 * rows_of(c) * c.channels * c.length;
}

struct Arrays {
  Arrays(const Case& c, Random& random)
      : x(testing::normal_array(c.type, elements_of(c), random)),
        y(testing::poisoned_array(c.type, x.count())),
        weight(testing::normal_array(c.type, c.channels * c.width, random, 0.5)),
        bias(testing::normal_array(c.type, c.channels, random)),
        initial_state(testing::normal_array(c.type, c.batch * c.channels * (c.width - 1), random)),
        final_state(testing::poisoned_array(c.type, initial_state.count())),
        starts(testing::int_array(c.starts)) {}

  HostArray x;
  HostArray y;
  HostArray weight;
  HostArray bias;
  HostArray initial_state;
  HostArray final_state;
  HostArray starts;
};

// `Places` has the fields of Arrays, with data().
template <typename Places>
CausalConv1d args_of(const Case& c, Places& at) {
  CausalConv1d args{};
  args.batch = c.batch;
  args.length = c.length;
  args.channels = c.channels;
  args.width = c.width;
  args.type = c.type;
  args.silu = c.silu;
  args.x = strides_of(c, at.x.data());
  args.y = strides_of(c, at.y.data());
  args.weight = at.weight.data();
  if (c.bias) args.bias = at.bias.data();
  if (c.initial_state) args.initial_state = at.initial_state.data();
  if (c.final_state) {
    args.final_state = c.in_place ? at.initial_state.data() : at.final_state.data();
  }
  if (!c.starts.empty()) args.starts = static_cast<const std::int32_t*>(at.starts.data());
  return args;
}

struct OnDevice {
  OnDevice(const Case& c, const Arrays& from)
      : x(from.x, c.offset_elements * element_bytes(c.type)),
        y(from.y, c.offset_elements * element_bytes(c.type)),
        weight(from.weight, c.offset_elements * element_bytes(c.type)),
        bias(from.bias, c.offset_elements * element_bytes(c.type)),
        initial_state(from.initial_state, c.offset_elements * element_bytes(c.type)),
        final_state(from.final_state, c.offset_elements * element_bytes(c.type)),
        starts(from.starts) {}

  DeviceArray x;
  DeviceArray y;
  DeviceArray weight;
  DeviceArray bias;
  DeviceArray initial_state;
  DeviceArray final_state;
  DeviceArray starts;
};

// One call on the device, compared with the reference. `spoil` changes the inputs first.
template <typename Spoil>
void expect_agrees(const Case& c, const Spoil& spoil) {
  SCOPED_TRACE(::testing::Message() << c);
  Random random(23);
  Arrays host(c, random);
  spoil(host);
  OnDevice device(c, host);
  OnDevice again(c, host);
  check(causal_conv1d(args_of(c, device), nullptr), "causal_conv1d");
  check(causal_conv1d(args_of(c, again), nullptr), "causal_conv1d");
  reference::causal_conv1d(args_of(c, host));

  const HostArray y = device.y.back();
  EXPECT_LE(testing::relative_l2(y, host.y), testing::tolerance(c.type)) << "y";
  EXPECT_TRUE(y == again.y.back()) << "the same call gave other bits";
  // States are copied, never computed.
  EXPECT_EQ(testing::relative_l2(device.initial_state.back(), host.initial_state), 0)
      << "initial_state";
  EXPECT_EQ(testing::relative_l2(device.final_state.back(), host.final_state), 0) << "final_state";
}

void expect_agrees(const Case& c) {
  expect_agrees(c, [](Arrays&) {});
}

float f(double x) { return static_cast<float>(x); }

TEST(CausalConv1dReference, WeighsATokenAndThoseAheadOfIt) {
  // One channel, width 3, weights 1, 10, 100 from the oldest to the newest.
  HostArray x(ICD_F32, 4);
  HostArray y(ICD_F32, 4);
  HostArray weight(ICD_F32, 3);
  HostArray bias(ICD_F32, 1);
  HostArray state(ICD_F32, 2);
  for (int t = 0; t < 4; ++t) x.set(t, static_cast<float>(t + 1));
  weight.set(0, 1);
  weight.set(1, 10);
  weight.set(2, 100);
  bias.set(0, 0.5F);
  state.set(0, 7);
  state.set(1, 8);
  CausalConv1d args{};
  args.batch = 1;
  args.length = 4;
  args.channels = 1;
  args.width = 3;
  args.x = testing::packed(x.data(), 4, 1);
  args.y = testing::packed(y.data(), 4, 1);
  args.weight = weight.data();
  args.bias = bias.data();
  reference::causal_conv1d(args);
  EXPECT_EQ(y[0], 100.5F);
  EXPECT_EQ(y[1], 210.5F);
  EXPECT_EQ(y[2], 321.5F);
  EXPECT_EQ(y[3], 432.5F);
  args.bias = nullptr;
  args.initial_state = state.data();
  args.final_state = state.data();
  reference::causal_conv1d(args);
  EXPECT_EQ(y[0], 187.0F);
  EXPECT_EQ(y[1], 218.0F);
  EXPECT_EQ(y[2], 321.0F);
  EXPECT_EQ(state[0], 3.0F);
  EXPECT_EQ(state[1], 4.0F);
  args.silu = 1;
  args.length = 1;  // shifts what it was given
  args.x.data = y.data();
  args.y.data = x.data();
  y.set(0, -1);
  reference::causal_conv1d(args);
  const double sum = 3 + 40 - 100;
  EXPECT_FLOAT_EQ(x[0], f(sum / (1 + std::exp(-sum))));
  EXPECT_EQ(state[0], 4.0F);
  EXPECT_EQ(state[1], -1.0F);
}

TEST(CausalConv1dReference, TwoHalvesAreTheWhole) {
  for (const std::int64_t width : {1, 2, 4, 8}) {
    for (const std::int64_t first : {0, 1, 2, 5, 9}) {
      Random random(1);
      const Case c{.batch = 1,
                   .length = 9,
                   .channels = 3,
                   .width = width,
                   .initial_state = true,
                   .final_state = true};
      Arrays whole(c, random);
      Arrays halves = whole;
      reference::causal_conv1d(args_of(c, whole));
      CausalConv1d args = args_of(c, halves);
      args.length = first;
      args.final_state = halves.initial_state.data();
      reference::causal_conv1d(args);
      args.length = c.length - first;
      args.x.data = halves.x.f32() + first * c.channels;
      args.y.data = halves.y.f32() + first * c.channels;
      reference::causal_conv1d(args);
      EXPECT_TRUE(halves.y == whole.y) << "width " << width << ", first " << first;
      EXPECT_TRUE(halves.initial_state == whole.final_state);
    }
  }
}

TEST(CausalConv1dReference, StartsAreSeparateCalls) {
  Random random(2);
  const Case c{.batch = 4,
               .length = 11,
               .channels = 3,
               .initial_state = true,
               .final_state = true,
               .starts = {0, 2, 2, 9, 11}};
  Arrays together(c, random);
  Arrays apart = together;
  reference::causal_conv1d(args_of(c, together));
  const std::int64_t past = c.channels * (c.width - 1);
  for (std::size_t b = 0; b < 4; ++b) {
    CausalConv1d args = args_of(c, apart);
    args.starts = nullptr;
    args.batch = 1;
    args.length = c.starts[b + 1] - c.starts[b];
    args.x.data = apart.x.f32() + c.starts[b] * c.channels;
    args.y.data = apart.y.f32() + c.starts[b] * c.channels;
    args.initial_state = apart.initial_state.f32() + static_cast<std::int64_t>(b) * past;
    args.final_state = apart.final_state.f32() + static_cast<std::int64_t>(b) * past;
    reference::causal_conv1d(args);
  }
  EXPECT_TRUE(apart.y == together.y);
  EXPECT_TRUE(apart.final_state == together.final_state);
}

struct Update {
  std::int64_t batch = 3;
  std::int64_t channels = 16;
  std::int64_t width = 4;
  std::int64_t kept = 4;
  std::int32_t type = ICD_F32;
  std::int32_t silu = 1;
  bool bias = true;
  bool in_place = false;                 // y is x
  std::int64_t gap = 0;                  // elements between the rows of x, y and slots
  std::int64_t channel_stride = 1;       // of x and y
  std::vector<std::int32_t> slots = {};  // empty: none
  std::int64_t offset_elements = 0;
};

std::ostream& operator<<(std::ostream& to, const Update& u) {
  to << "batch " << u.batch << ", channels " << u.channels << ", width " << u.width << ", kept "
     << u.kept << ", type " << u.type << ", silu " << u.silu << ", bias " << u.bias << ", in_place "
     << u.in_place << ", gap " << u.gap << ", channel_stride " << u.channel_stride
     << ", offset_elements " << u.offset_elements << ", slots";
  for (const std::int32_t slot : u.slots) to << ' ' << slot;
  return to;
}

struct UpdateArrays {
  UpdateArrays(const Update& u, Random& random)
      : x(testing::normal_array(u.type, u.batch * (u.channels * u.channel_stride + u.gap), random)),
        y(testing::poisoned_array(u.type, x.count())),
        weight(testing::normal_array(u.type, u.channels * u.width, random, 0.5)),
        bias(testing::normal_array(u.type, u.channels, random)),
        state(testing::normal_array(u.type, slots_of(u) * (u.channels * u.kept + u.gap), random)),
        slots(testing::int_array(u.slots)) {}

  static std::int64_t slots_of(const Update& u) {
    return u.slots.empty() ? u.batch
                           : std::int64_t{1} + *std::max_element(u.slots.begin(), u.slots.end());
  }

  HostArray x;
  HostArray y;
  HostArray weight;
  HostArray bias;
  HostArray state;
  HostArray slots;
};

template <typename Places>
CausalConv1dUpdate args_of(const Update& u, Places& at) {
  CausalConv1dUpdate args{};
  args.batch = u.batch;
  args.channels = u.channels;
  args.width = u.width;
  args.type = u.type;
  args.silu = u.silu;
  const std::int64_t row = u.channels * u.channel_stride + u.gap;
  args.x = {at.x.data(), row, 0, u.channel_stride};
  args.y = {u.in_place ? at.x.data() : at.y.data(), row, 0, u.channel_stride};
  args.weight = at.weight.data();
  if (u.bias) args.bias = at.bias.data();
  args.state = at.state.data();
  args.state_slot = u.channels * u.kept + u.gap;
  args.state_channel = u.kept;
  args.kept = u.kept;
  if (!u.slots.empty()) args.slots = static_cast<const std::int32_t*>(at.slots.data());
  return args;
}

struct UpdateOnDevice {
  UpdateOnDevice(const Update& u, const UpdateArrays& from)
      : x(from.x, u.offset_elements * element_bytes(u.type)),
        y(from.y, u.offset_elements * element_bytes(u.type)),
        weight(from.weight, u.offset_elements * element_bytes(u.type)),
        bias(from.bias, u.offset_elements * element_bytes(u.type)),
        state(from.state, u.offset_elements * element_bytes(u.type)),
        slots(from.slots) {}

  DeviceArray x;
  DeviceArray y;
  DeviceArray weight;
  DeviceArray bias;
  DeviceArray state;
  DeviceArray slots;
};

void expect_update_agrees(const Update& u) {
  SCOPED_TRACE(::testing::Message() << u);
  Random random(29);
  UpdateArrays host(u, random);
  UpdateOnDevice device(u, host);
  UpdateOnDevice again(u, host);
  check(causal_conv1d_update(args_of(u, device), nullptr), "causal_conv1d_update");
  check(causal_conv1d_update(args_of(u, again), nullptr), "causal_conv1d_update");
  reference::causal_conv1d_update(args_of(u, host));
  const HostArray x = device.x.back();
  const HostArray y = device.y.back();
  EXPECT_LE(testing::relative_l2(x, host.x), testing::tolerance(u.type)) << "x";
  EXPECT_LE(testing::relative_l2(y, host.y), testing::tolerance(u.type)) << "y";
  EXPECT_TRUE(x == again.x.back() && y == again.y.back()) << "the same call gave other bits";
  EXPECT_EQ(testing::relative_l2(device.state.back(), host.state), 0) << "state";
}

TEST(CausalConv1dReference, OneTokenIsAnUpdate) {
  for (const std::int64_t width : {1, 2, 3, 4, 8}) {
    for (const std::int64_t more : {0, 1, 3}) {  // kept beyond what is used
      Random random(3);
      const Update u{.width = width, .kept = width - 1 + more};
      UpdateArrays updated(u, random);
      const UpdateArrays before = updated;
      reference::causal_conv1d_update(args_of(u, updated));

      const Case c{.batch = u.batch,
                   .length = 1,
                   .channels = u.channels,
                   .width = width,
                   .initial_state = true,
                   .final_state = true};
      Arrays run(c, random);
      run.x = before.x;
      run.weight = before.weight;
      run.bias = before.bias;
      for (std::int64_t r = 0; r < u.batch * u.channels; ++r) {
        for (std::int64_t k = 0; k < width - 1; ++k) {
          run.initial_state.set(r * (width - 1) + k, before.state[r * u.kept + more + k]);
        }
      }
      reference::causal_conv1d(args_of(c, run));
      EXPECT_TRUE(run.y == updated.y) << u;
      for (std::int64_t r = 0; r < u.batch * u.channels; ++r) {
        for (std::int64_t k = 0; k < u.kept; ++k) {
          const float expected = k + 1 < u.kept ? before.state[r * u.kept + k + 1] : before.x[r];
          EXPECT_EQ(updated.state[r * u.kept + k], expected) << u;
        }
      }
    }
  }
}

TEST(CausalConv1dReference, ANegativeSlotIsPadding) {
  Random random(4);
  const Update u{.batch = 3, .slots = {2, -1, 0}};
  UpdateArrays arrays(u, random);
  const UpdateArrays before = arrays;
  reference::causal_conv1d_update(args_of(u, arrays));
  for (std::int64_t c = 0; c < u.channels; ++c) {
    EXPECT_TRUE(std::isnan(arrays.y[u.channels + c]));  // as poisoned
    EXPECT_FALSE(std::isnan(arrays.y[2 * u.channels + c]));
    for (std::int64_t k = 0; k < u.kept; ++k) {
      const std::int64_t i = (u.channels + c) * u.kept + k;
      EXPECT_EQ(arrays.state[i], before.state[i]);  // slot 1 is nobody's
    }
    EXPECT_EQ(arrays.state[c * u.kept + u.kept - 1], before.x[2 * u.channels + c]);
  }
}

// No data is touched by a call that has nothing to do, so this needs no device.
TEST(CausalConv1d, SucceedsOnNothing) {
  for (const auto& [batch, length, channels] :
       {std::tuple{0, 4, 8}, {2, 0, 8}, {2, 4, 0}, {0, 0, 0}}) {
    Random random(5);
    const Case c{.batch = batch, .length = length, .channels = channels};
    Arrays host(c, random);
    reference::causal_conv1d(args_of(c, host));
    EXPECT_EQ(causal_conv1d(args_of(c, host), nullptr), cudaSuccess) << c;
    const Update u{.batch = length == 0 ? 0 : batch, .channels = channels};
    UpdateArrays arrays(u, random);
    reference::causal_conv1d_update(args_of(u, arrays));
    EXPECT_EQ(causal_conv1d_update(args_of(u, arrays), nullptr), cudaSuccess) << u;
  }
}

using CausalConv1dOnDevice = testing::DeviceTest;

constexpr Layout kLayouts[] = {Layout::channel_last, Layout::channel_first, Layout::scattered};

TEST_F(CausalConv1dOnDevice, AgreesForEveryTypeLayoutAndWidth) {
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (std::int64_t width = 1; width <= 8; ++width) {
        for (const bool states : {false, true}) {
          expect_agrees({.length = 72,
                         .channels = 24,
                         .width = width,
                         .type = type,
                         .silu = static_cast<std::int32_t>(width % 2),
                         .layout = layout,
                         .bias = width != 3,
                         .initial_state = states,
                         .final_state = states});
        }
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, AgreesForEveryLength) {
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const std::int64_t length :
           {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 64, 65, 200, 1056}) {
        for (const bool in_place : {false, true}) {
          expect_agrees({.batch = 3,
                         .length = length,
                         .channels = 16,
                         .type = type,
                         .layout = layout,
                         .initial_state = true,
                         .final_state = true,
                         .in_place = in_place});
        }
      }
      expect_agrees({.length = 0,
                     .type = type,
                     .layout = layout,
                     .initial_state = true,
                     .final_state = true});
      expect_agrees({.length = 0, .type = type, .layout = layout, .final_state = true});
      expect_agrees({.length = 2, .type = type, .layout = layout, .final_state = true});
    }
  }
}

TEST_F(CausalConv1dOnDevice, AgreesForEveryCountOfChannels) {
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const std::int64_t channels : {1, 2, 3, 7, 8, 9, 12, 31, 33, 127, 129, 1000}) {
        for (const std::int64_t gap : {0, 8, 3}) {
          expect_agrees({.batch = 2,
                         .length = 19,
                         .channels = channels,
                         .type = type,
                         .layout = layout,
                         .gap = gap,
                         .initial_state = true,
                         .final_state = true});
          // A row whose stride suits vectors, and whose channels do not.
          expect_agrees(
              {.batch = 2,
               .length = 21,
               .channels = channels,
               .width = 3,
               .type = type,
               .layout = layout,
               .gap = (8 - (layout == Layout::channel_last ? channels : 21) % 8) % 8 + 8});
        }
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, StartsAtAnyAddress) {
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const std::int64_t offset_elements : {1, 2, 4, 8}) {
        expect_agrees({.length = 40,
                       .channels = 32,
                       .type = type,
                       .layout = layout,
                       .initial_state = true,
                       .final_state = true,
                       .offset_elements = offset_elements});
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, KeepsSequencesApart) {
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const std::int64_t width : {1, 2, 3, 4, 6}) {
        for (const std::vector<std::int32_t>& starts :
             {std::vector<std::int32_t>{0, 100},
              {0, 0, 0, 1, 2, 4, 7, 11, 30, 31, 99, 100, 100},
              {0, 8, 16, 64, 72, 100},
              {0, 0, 0, 0}}) {
          for (const bool in_place : {false, true}) {
            expect_agrees({.batch = static_cast<std::int64_t>(starts.size()) - 1,
                           .length = starts.back(),
                           .channels = 24,
                           .width = width,
                           .type = type,
                           .layout = layout,
                           .initial_state = true,
                           .final_state = true,
                           .in_place = in_place,
                           .starts = starts});
          }
        }
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, FillsTheDevice) {
  for (const Layout layout : {Layout::channel_last, Layout::channel_first}) {
    expect_agrees({.batch = 3,
                   .length = 1031,
                   .channels = 1536,
                   .type = ICD_BF16,
                   .layout = layout,
                   .gap = layout == Layout::channel_last ? 1536 : 1,
                   .initial_state = true,
                   .final_state = true,
                   .in_place = true});
    expect_agrees({.batch = 1,
                   .length = 2048,
                   .channels = 1537,
                   .type = ICD_F16,
                   .layout = layout,
                   .final_state = true});
  }
}

// Enough of it that an H200's threads walk along more than the shortest stretch.
TEST_F(CausalConv1dOnDevice, WalksAlongLongStretches) {
  expect_agrees({.batch = 1, .length = 4100, .channels = 2400, .final_state = true});
  expect_agrees({.batch = 1, .length = 2100, .channels = 1201, .type = ICD_BF16});
}

TEST_F(CausalConv1dOnDevice, PassesOnWhatIsNotFinite) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const std::int32_t type : kTypes) {
    for (const Layout layout : kLayouts) {
      for (const std::int64_t width : {2, 4, 5}) {
        expect_agrees({.length = 40,
                       .width = width,
                       .type = type,
                       .layout = layout,
                       .initial_state = true,
                       .final_state = true},
                      [&](Arrays& arrays) {
                        arrays.x.set(arrays.x.count() / 2, kInfinity);
                        arrays.x.set(arrays.x.count() / 3, -kInfinity);
                        arrays.x.set(arrays.x.count() - 2, NAN);
                        arrays.weight.set(1, kInfinity);
                        arrays.initial_state.set(3, NAN);
                      });
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, UpdatesForEveryTypeWidthAndLengthKept) {
  for (const std::int32_t type : kTypes) {
    for (std::int64_t width = 1; width <= 8; ++width) {
      for (const std::int64_t more : {0, 1, 2, 7}) {
        for (const std::int64_t offset_elements : {0, 1}) {
          expect_update_agrees({.width = width,
                                .kept = width - 1 + more,
                                .type = type,
                                .silu = static_cast<std::int32_t>(width % 2),
                                .bias = more != 2,
                                .offset_elements = offset_elements});
        }
      }
    }
  }
}

TEST_F(CausalConv1dOnDevice, UpdatesAnyCountOfChannelsInPlaceOrNot) {
  for (const std::int32_t type : kTypes) {
    for (const std::int64_t channels : {1, 2, 3, 8, 31, 129, 5120}) {
      for (const std::int64_t batch : {1, 3, 64}) {
        for (const std::int64_t gap : {0, 1, 8}) {
          for (const bool in_place : {false, true}) {
            expect_update_agrees({.batch = batch,
                                  .channels = channels,
                                  .type = type,
                                  .in_place = in_place,
                                  .gap = gap});
          }
        }
      }
      expect_update_agrees({.channels = channels, .type = type, .channel_stride = 3});
    }
  }
}

TEST_F(CausalConv1dOnDevice, UpdatesTheSlotsItIsGiven) {
  for (const std::int32_t type : kTypes) {
    for (const std::int64_t kept : {3, 4, 5}) {
      for (const bool in_place : {false, true}) {
        expect_update_agrees({.batch = 5,
                              .channels = 40,
                              .kept = kept,
                              .type = type,
                              .in_place = in_place,
                              .slots = {6, -1, 0, 3, -7}});
      }
    }
  }
}

}  // namespace
}  // namespace icd
