#include "kernels/state_update.h"

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <ostream>
#include <vector>

#include "kernels/cuda_graph.h"
#include "kernels/reference.h"
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

// A call of either kernel; mamba-1 is heads of one channel.
struct Case {
  std::int64_t batch = 5;
  std::int64_t heads = 37;
  std::int64_t head_dim = 1;
  std::int64_t groups = 1;
  std::int64_t states = 16;
  std::int32_t type = ICD_BF16;
  std::int32_t state_type = ICD_BF16;
  std::int32_t layout = ICD_STATE_DN;
  bool is_softplus = true;
  bool has_options = true;          // z, D and dt_bias
  bool is_in_place = false;         // y is u
  std::int64_t channel_stride = 1;  // of all (batch, ...) tensors
  std::int64_t padding = 0;         // elements between their rows
  std::int64_t offset = 0;          // elements that every array is off its alignment
  std::int64_t slot_count = 0;      // 0: no slots
  std::vector<std::int32_t> slots = {};
  std::vector<std::int32_t> active = {};
  bool has_active = false;

  std::int64_t channels() const { return heads * head_dim; }
  std::int64_t row(std::int64_t elements) const { return elements * channel_stride + padding; }
  std::int64_t state_rows() const { return slot_count > 0 ? slot_count : batch; }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "batch " << c.batch << ", heads " << c.heads << ", head_dim " << c.head_dim
             << ", groups " << c.groups << ", states " << c.states << ", type " << c.type
             << ", state_type " << c.state_type << ", layout " << c.layout << ", softplus "
             << c.is_softplus << ", options " << c.has_options << ", in place " << c.is_in_place
             << ", channel stride " << c.channel_stride << ", padding " << c.padding << ", offset "
             << c.offset << ", slots " << c.slots.size() << ", active "
             << (c.has_active ? static_cast<std::int64_t>(c.active.size()) : -1);
}

enum Field { kU, kDt, kZ, kB, kC, kY, kA, kD, kBias, kState, kSlots, kActive, kFields };
using Pointers = std::array<void*, kFields>;
using Arrays = std::vector<HostArray>;  // by Field

Arrays arrays_of(const Case& c, std::uint64_t seed) {
  Random random(seed);
  const auto rows_of = [&](std::int64_t elements) { return c.batch * c.row(elements); };
  const bool by_state = c.head_dim == 1;
  Arrays all;
  all.push_back(normal_array(c.type, rows_of(c.channels()), random));
  // Without softplus steps have to be positive all the same, or states grow beyond f32.
  all.push_back(c.is_softplus ? normal_array(c.type, rows_of(c.heads), random, 0.5)
                              : normal_array(c.type, rows_of(c.heads), random, 0.02, 0.1));
  all.push_back(normal_array(c.type, rows_of(c.channels()), random));
  all.push_back(normal_array(c.type, rows_of(c.groups * c.states), random));
  all.push_back(normal_array(c.type, rows_of(c.groups * c.states), random));
  all.push_back(poisoned_array(c.type, rows_of(c.channels())));
  HostArray A(ICD_F32, c.heads * (by_state ? c.states : 1));
  for (std::int64_t i = 0; i < A.count(); ++i) {
    const auto n = static_cast<double>(by_state ? i % c.states : 4);
    A.set(i, static_cast<float>(-(n + 1) * std::exp(0.3 * random.normal())));
  }
  all.push_back(A);
  all.push_back(normal_array(ICD_F32, c.heads, random));
  all.push_back(c.is_softplus ? normal_array(ICD_F32, c.heads, random, 0.5, -2)
                              : normal_array(ICD_F32, c.heads, random, 0.05, 0.3));
  all.push_back(normal_array(c.state_type, c.state_rows() * c.channels() * c.states, random));
  all.push_back(int_array(c.slots));
  all.push_back(int_array(c.active));
  return all;
}

Pointers pointers_of(Arrays& arrays) {
  Pointers pointers = {};
  for (std::size_t i = 0; i < pointers.size(); ++i) pointers[i] = arrays[i].data();
  return pointers;
}

Pointers with_options(const Case& c, Pointers p) {
  if (!c.has_options) p[kZ] = p[kD] = p[kBias] = nullptr;
  if (c.is_in_place) p[kY] = p[kU];
  if (c.slot_count == 0) p[kSlots] = nullptr;
  // A list of none has no address in host memory, and without one all channels are meant.
  static std::int32_t none = 0;
  if (c.has_active && p[kActive] == nullptr) p[kActive] = &none;
  if (!c.has_active) p[kActive] = nullptr;
  return p;
}

Strided rows(const Case& c, void* data, std::int64_t elements) {
  return {data, c.row(elements), 0, c.channel_stride};
}

StateUpdate state_args(const Case& c, const Pointers& pointers) {
  const Pointers p = with_options(c, pointers);
  StateUpdate args = {};
  args.batch = c.batch;
  args.channels = c.heads;
  args.states = c.states;
  args.type = c.type;
  args.softplus = c.is_softplus;
  args.state_type = c.state_type;
  args.state_layout = c.layout;
  args.u = rows(c, p[kU], c.heads);
  args.dt = rows(c, p[kDt], c.heads);
  args.z = rows(c, p[kZ], c.heads);
  args.B = rows(c, p[kB], c.states);
  args.C = rows(c, p[kC], c.states);
  args.y = rows(c, p[kY], c.heads);
  args.A = static_cast<const float*>(p[kA]);
  args.D = static_cast<const float*>(p[kD]);
  args.dt_bias = static_cast<const float*>(p[kBias]);
  args.state = p[kState];
  args.slots = static_cast<const std::int32_t*>(p[kSlots]);
  args.active = static_cast<const std::int32_t*>(p[kActive]);
  args.active_count = static_cast<std::int64_t>(c.active.size());
  return args;
}

HeadStateUpdate head_args(const Case& c, const Pointers& pointers) {
  const Pointers p = with_options(c, pointers);
  HeadStateUpdate args = {};
  args.batch = c.batch;
  args.heads = c.heads;
  args.head_dim = c.head_dim;
  args.groups = c.groups;
  args.states = c.states;
  args.type = c.type;
  args.softplus = c.is_softplus;
  args.state_type = c.state_type;
  args.x = rows(c, p[kU], c.channels());
  args.dt = rows(c, p[kDt], c.heads);
  args.z = rows(c, p[kZ], c.channels());
  args.B = rows(c, p[kB], c.groups * c.states);
  args.C = rows(c, p[kC], c.groups * c.states);
  args.y = rows(c, p[kY], c.channels());
  args.A = static_cast<const float*>(p[kA]);
  args.D = static_cast<const float*>(p[kD]);
  args.dt_bias = static_cast<const float*>(p[kBias]);
  args.state = p[kState];
  args.slots = static_cast<const std::int32_t*>(p[kSlots]);
  return args;
}

struct Result {
  HostArray y;
  HostArray state;
};

Result by_reference(const Case& c, Arrays arrays) {
  const Pointers pointers = pointers_of(arrays);
  if (c.head_dim == 1) {
    reference::state_update(state_args(c, pointers));
  } else {
    reference::head_state_update(head_args(c, pointers));
  }
  return {arrays[c.is_in_place ? kU : kY], arrays[kState]};
}

Result on_device(const Case& c, const Arrays& arrays) {
  std::vector<std::unique_ptr<DeviceArray>> device;
  Pointers pointers = {};
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    const std::int64_t offset = c.offset * element_bytes(arrays[i].type());
    device.push_back(std::make_unique<DeviceArray>(arrays[i], offset));
    pointers[i] = device[i]->data();
  }
  if (c.head_dim == 1) {
    const StateUpdate args = state_args(c, pointers);
    EXPECT_EQ(why_not(args), "");
    check(state_update(args, nullptr), "state_update");
  } else {
    const HeadStateUpdate args = head_args(c, pointers);
    EXPECT_EQ(why_not(args), "");
    check(head_state_update(args, nullptr), "head_state_update");
  }
  return {device[c.is_in_place ? kU : kY]->back(), device[kState]->back()};
}

void expect_agrees(const Case& c, const Arrays& arrays) {
  SCOPED_TRACE(::testing::Message() << c);
  const Result expected = by_reference(c, arrays);
  const Result found = on_device(c, arrays);
  EXPECT_LT(relative_l2(found.y, expected.y), tolerance(c.type)) << "y";
  EXPECT_LT(relative_l2(found.state, expected.state), tolerance(c.state_type)) << "state";
  const Result again = on_device(c, arrays);
  EXPECT_TRUE(again.y == found.y) << "y differs from run to run";
  EXPECT_TRUE(again.state == found.state) << "the state differs from run to run";
}

void expect_agrees(const Case& c) { expect_agrees(c, arrays_of(c, 11)); }

std::vector<std::int32_t> every(std::int32_t step, std::int32_t end) {
  std::vector<std::int32_t> values;
  for (std::int32_t i = 0; i < end; i += step) values.push_back(i);
  return values;
}

TEST(StateUpdateReference, IsTheEquationOfOneToken) {
  // h = exp(0.5 * -2) * 4 + 0.5 * 3 * 7 and exp(0.5 * -1) * 6 + 0.5 * 3 * 8; y = (C h + D u)
  // silu(z)
  const float u = 3;
  const float dt = 0.25F;
  const float bias = 0.25F;
  const float z = 2;
  const float B[] = {7, 8};
  const float C[] = {1, -1};
  const float A[] = {-2, -1};
  const float D = 5;
  float state[] = {4, 6};
  float y = 0;
  StateUpdate args = {};
  args.batch = args.channels = 1;
  args.states = 2;
  args.u = testing::packed(&u, 1, 1);
  args.dt = testing::packed(&dt, 1, 1);
  args.z = testing::packed(&z, 1, 1);
  args.B = testing::packed(B, 1, 2);
  args.C = testing::packed(C, 1, 2);
  args.y = testing::packed(&y, 1, 1);
  args.A = A;
  args.D = &D;
  args.dt_bias = &bias;
  args.state = state;
  reference::state_update(args);
  const double h0 = std::exp(-1.0) * 4 + 10.5;
  const double h1 = std::exp(-0.5) * 6 + 12;
  EXPECT_FLOAT_EQ(state[0], static_cast<float>(h0));
  EXPECT_FLOAT_EQ(state[1], static_cast<float>(h1));
  EXPECT_FLOAT_EQ(y, static_cast<float>((h0 - h1 + 15) * 2 / (1 + std::exp(-2.0))));
}

TEST(StateUpdateReference, IsTheSameInBothLayouts) {
  Case c = {.type = ICD_F32, .state_type = ICD_F32};
  const Arrays arrays = arrays_of(c, 1);
  const Result expected = by_reference(c, arrays);
  Arrays turned = arrays;
  const auto to_nd = [&](const HostArray& from) {
    HostArray to(from.type(), from.count());
    for (std::int64_t b = 0; b < c.batch; ++b) {
      for (std::int64_t d = 0; d < c.heads; ++d) {
        for (std::int64_t n = 0; n < c.states; ++n) {
          to.set((b * c.states + n) * c.heads + d, from[(b * c.heads + d) * c.states + n]);
        }
      }
    }
    return to;
  };
  turned[kState] = to_nd(arrays[kState]);
  c.layout = ICD_STATE_ND;
  const Result found = by_reference(c, turned);
  EXPECT_TRUE(found.y == expected.y);
  EXPECT_TRUE(found.state == to_nd(expected.state));
}

TEST(StateUpdateReference, LeavesPaddingAndInactiveChannelsAlone) {
  const Case c = {.batch = 3,
                  .heads = 4,
                  .states = 2,
                  .type = ICD_F32,
                  .state_type = ICD_F32,
                  .slot_count = 6,
                  .slots = {5, -1, 0},
                  .active = {3, 1},
                  .has_active = true};
  const Arrays arrays = arrays_of(c, 2);
  const Result found = by_reference(c, arrays);
  for (std::int64_t b = 0; b < 3; ++b) {
    for (std::int64_t d = 0; d < 4; ++d) {
      EXPECT_EQ(std::isnan(found.y[b * 4 + d]), b == 1 || d % 2 == 0) << "b " << b << ", d " << d;
    }
  }
  for (std::int64_t slot = 0; slot < 6; ++slot) {
    for (std::int64_t i = 0; i < 8; ++i) {
      const bool is_updated = (slot == 0 || slot == 5) && i / 2 % 2 == 1;
      EXPECT_EQ(found.state[slot * 8 + i] != arrays[kState][slot * 8 + i], is_updated)
          << "slot " << slot << ", element " << i;
    }
  }
}

TEST(HeadStateUpdateReference, IsTheUpdateOfChannelsThatShareAHead) {
  // Every channel of its own, with what its head and group share written out for it.
  const Case c = {.batch = 2,
                  .heads = 6,
                  .head_dim = 4,
                  .groups = 1,
                  .states = 5,
                  .type = ICD_F32,
                  .state_type = ICD_F32};
  const Arrays arrays = arrays_of(c, 3);
  const Result expected = by_reference(c, arrays);
  Case wide = c;
  wide.heads = c.channels();
  wide.head_dim = 1;
  Arrays spread = arrays;
  spread[kDt] = HostArray(ICD_F32, c.batch * wide.heads);
  spread[kA] = HostArray(ICD_F32, wide.heads * c.states);
  spread[kD] = spread[kBias] = HostArray(ICD_F32, wide.heads);
  for (std::int64_t d = 0; d < wide.heads; ++d) {
    for (std::int64_t b = 0; b < c.batch; ++b) {
      spread[kDt].set(b * wide.heads + d, arrays[kDt][b * c.heads + d / 4]);
    }
    for (std::int64_t n = 0; n < c.states; ++n) spread[kA].set(d * c.states + n, arrays[kA][d / 4]);
    spread[kD].set(d, arrays[kD][d / 4]);
    spread[kBias].set(d, arrays[kBias][d / 4]);
  }
  const Result found = by_reference(wide, spread);
  EXPECT_LT(relative_l2(found.y, expected.y), 1e-6);
  EXPECT_LT(relative_l2(found.state, expected.state), 1e-6);
}

TEST(HeadStateUpdateReference, ReadsTheGroupOfAHead) {
  const Case c = {.batch = 1,
                  .heads = 4,
                  .head_dim = 2,
                  .groups = 2,
                  .states = 3,
                  .type = ICD_F32,
                  .state_type = ICD_F32};
  Arrays arrays = arrays_of(c, 4);
  const Result before = by_reference(c, arrays);
  for (std::int64_t n = 3; n < 6; ++n) arrays[kB].set(n, arrays[kB][n] + 1);
  const Result after = by_reference(c, arrays);
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(after.y[i] != before.y[i], i >= 4) << "channel " << i;
  }
}

TEST(StateUpdate, SucceedsOnNothing) {
  StateUpdate args = {};
  args.states = 16;
  EXPECT_EQ(state_update(args, nullptr), cudaSuccess);
  HeadStateUpdate heads = {};
  heads.states = 16;
  heads.groups = 1;
  EXPECT_EQ(head_state_update(heads, nullptr), cudaSuccess);
}

TEST(StateUpdate, RefusesStatesOutOfRange) {
  StateUpdate args = {};
  for (const std::int64_t states : {-1, 0, 257}) {
    args.states = states;
    EXPECT_EQ(state_update(args, nullptr), cudaErrorInvalidValue) << states;
  }
}

class StateUpdateOnDevice : public testing::DeviceTest {};
class HeadStateUpdateOnDevice : public testing::DeviceTest {};

TEST_F(StateUpdateOnDevice, TakesEveryTypeLayoutAndNumberOfStates) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t state_type : kTypes) {
      for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
        for (const std::int64_t states : {1, 3, 4, 8, 16, 24, 64, 256}) {
          expect_agrees(
              {.states = states, .type = type, .state_type = state_type, .layout = layout});
        }
      }
    }
  }
}

TEST_F(StateUpdateOnDevice, TakesEveryNumberOfStates) {
  for (std::int64_t states = 1; states <= 256; states += states < 40 ? 1 : 27) {
    expect_agrees(
        {.batch = 2, .heads = 5, .states = states, .type = ICD_F32, .state_type = ICD_F32});
  }
}

TEST_F(StateUpdateOnDevice, TakesAnySize) {
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int64_t batch : {1, 2, 3, 4, 9, 64}) {
      for (const std::int64_t channels : {1, 2, 31, 33, 129, 1536}) {
        expect_agrees({.batch = batch, .heads = channels, .layout = layout});
      }
    }
    // Several rows a block: more of them than one pass has under way.
    expect_agrees({.batch = 203, .heads = 2049, .layout = layout});
    expect_agrees({.batch = 77, .heads = 5120, .state_type = ICD_F32, .layout = layout});
  }
}

TEST_F(StateUpdateOnDevice, TakesAnyStrideAndAddress) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
      for (const std::int64_t offset : {0, 1, 2, 4, 8}) {
        expect_agrees({.type = type, .layout = layout, .offset = offset});
      }
      for (const std::int64_t padding : {1, 2, 4, 8}) {
        expect_agrees({.type = type, .state_type = ICD_F32, .layout = layout, .padding = padding});
      }
      expect_agrees({.type = type, .layout = layout, .channel_stride = 3, .padding = 5});
    }
  }
}

TEST_F(StateUpdateOnDevice, DoesWithoutOptions) {
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int64_t states : {15, 16}) {
      expect_agrees({.states = states, .layout = layout, .has_options = false});
      expect_agrees({.states = states, .layout = layout, .is_softplus = false});
      expect_agrees(
          {.states = states, .layout = layout, .is_softplus = false, .has_options = false});
    }
  }
}

TEST_F(StateUpdateOnDevice, MayWriteOverItsInput) {
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int64_t states : {15, 16, 64}) {
      expect_agrees(
          {.batch = 9, .heads = 130, .states = states, .layout = layout, .is_in_place = true});
    }
  }
}

TEST_F(StateUpdateOnDevice, FindsSlotsAndActiveChannels) {
  for (const std::int32_t state_type : kTypes) {
    for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
      for (const std::int64_t states : {5, 16, 48}) {
        Case c = {.batch = 7,
                  .heads = 100,
                  .states = states,
                  .state_type = state_type,
                  .layout = layout,
                  .slot_count = 12,
                  .slots = {11, -1, 3, 0, -7, 5, 4}};
        expect_agrees(c);
        c.has_active = true;
        for (const std::int32_t step : {1, 3, 99, 100}) {
          c.active = every(step, 100);
          expect_agrees(c);
        }
        c.slots = {};
        c.slot_count = 0;
        c.active = {99, 0, 50, 51, 7};  // any order
        expect_agrees(c);
        c.active = {};
        expect_agrees(c);
      }
    }
  }
}

TEST_F(StateUpdateOnDevice, PassesOnWhatIsNotFinite) {
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int64_t states : {7, 16}) {
      for (const Field field : {kU, kDt, kZ, kB, kC, kState}) {
        Case c = {.batch = 3, .heads = 40, .states = states, .layout = layout};
        Arrays arrays = arrays_of(c, 5);
        HostArray& array = arrays[field];
        array.set(0, NAN);
        array.set(array.count() / 2, INFINITY);
        array.set(array.count() - 1, -INFINITY);
        SCOPED_TRACE(::testing::Message() << "field " << field);
        expect_agrees(c, arrays);
        c.has_options = false;
        expect_agrees(c, arrays);
      }
    }
  }
}

TEST_F(StateUpdateOnDevice, CanBeCaptured) {
  const Case c = {.batch = 8, .heads = 256};
  const Arrays arrays = arrays_of(c, 6);
  const Result expected = by_reference(c, arrays);
  std::vector<std::unique_ptr<DeviceArray>> device;
  Pointers pointers = {};
  for (std::size_t i = 0; i < arrays.size(); ++i) {
    device.push_back(std::make_unique<DeviceArray>(arrays[i]));
    pointers[i] = device[i]->data();
  }
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  CudaGraph graph(stream, "state_update",
                  [&] { check(state_update(state_args(c, pointers), stream), "state_update"); });
  graph.replay(stream);
  EXPECT_LT(relative_l2(device[kY]->back(), expected.y), tolerance(c.type));
  cudaStreamDestroy(stream);
}

TEST_F(HeadStateUpdateOnDevice, TakesEveryTypeAndNumberOfStates) {
  for (const std::int32_t type : kTypes) {
    for (const std::int32_t state_type : kTypes) {
      for (const std::int64_t states : {1, 7, 8, 24, 64, 128, 136, 256}) {
        expect_agrees({.batch = 3,
                       .heads = 6,
                       .head_dim = 13,
                       .groups = 2,
                       .states = states,
                       .type = type,
                       .state_type = state_type});
      }
    }
  }
}

TEST_F(HeadStateUpdateOnDevice, TakesAnySize) {
  for (const std::int64_t batch : {1, 2, 9}) {
    for (const std::int64_t heads : {1, 5, 80}) {
      for (const std::int64_t head_dim : {2, 31, 64, 129}) {
        expect_agrees({.batch = batch, .heads = heads, .head_dim = head_dim, .states = 128});
      }
    }
  }
  expect_agrees({.batch = 40,
                 .heads = 24,
                 .head_dim = 64,
                 .groups = 8,
                 .states = 128,
                 .state_type = ICD_F32});
}

TEST_F(HeadStateUpdateOnDevice, TakesAnyStrideAndAddress) {
  for (const std::int32_t type : kTypes) {
    for (const std::int64_t offset : {0, 1, 2, 4, 8}) {
      expect_agrees(
          {.heads = 4, .head_dim = 16, .groups = 4, .states = 32, .type = type, .offset = offset});
    }
    for (const std::int64_t padding : {1, 4, 8}) {
      expect_agrees({.heads = 4,
                     .head_dim = 16,
                     .groups = 2,
                     .states = 32,
                     .type = type,
                     .padding = padding});
    }
    expect_agrees({.heads = 4,
                   .head_dim = 16,
                   .groups = 2,
                   .states = 32,
                   .type = type,
                   .channel_stride = 2,
                   .padding = 3});
  }
}

TEST_F(HeadStateUpdateOnDevice, TakesOptionsSlotsAndItsInput) {
  for (const std::int64_t states : {30, 128}) {
    Case c = {.batch = 4, .heads = 6, .head_dim = 20, .groups = 3, .states = states};
    c.has_options = false;
    expect_agrees(c);
    c.is_softplus = false;
    expect_agrees(c);
    c.has_options = true;
    c.is_in_place = true;
    expect_agrees(c);
    c.slot_count = 9;
    c.slots = {8, -1, 0, 3};
    expect_agrees(c);
  }
}

TEST_F(HeadStateUpdateOnDevice, PassesOnWhatIsNotFinite) {
  for (const std::int64_t states : {7, 128}) {
    for (const Field field : {kU, kDt, kZ, kB, kC, kState}) {
      Case c = {.batch = 3, .heads = 4, .head_dim = 8, .groups = 2, .states = states};
      Arrays arrays = arrays_of(c, 7);
      HostArray& array = arrays[field];
      array.set(0, NAN);
      array.set(array.count() / 2, INFINITY);
      array.set(array.count() - 1, -INFINITY);
      SCOPED_TRACE(::testing::Message() << "field " << field);
      expect_agrees(c, arrays);
      c.has_options = false;
      expect_agrees(c, arrays);
    }
  }
}

}  // namespace
}  // namespace icd
