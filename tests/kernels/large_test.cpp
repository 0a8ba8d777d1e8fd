#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "icd/random.h"
#include "kernels/causal_conv1d.h"
#include "kernels/mamba3.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/skip_zero_gemv.h"
#include "kernels/ssd.h"
#include "kernels/state_update.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"

// Tensors of more than 2^31 elements of bf16, which are made on the device: a few rows, repeated.
// Then a large output repeats that of a small call, which other tests hold to the reference. No
// number of rows that repeats divides 2^31 elements, so places that are off by that differ.
namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;
using testing::int_array;
using testing::normal_array;

using LargeOnDevice = testing::DeviceTest;

constexpr std::int64_t kBeyond = std::int64_t{1} << 31;
// Neighbours in bf16 are 2^-7 apart at most; a value from another place differs by about 1.
constexpr double kNeighbours = 0.01;
// The chunks of ssd round states and products to bf16, some of them several times.
constexpr double kSsdRoundings = 0.1;

/// Empty, or what is in the way of tensors of so many times 2^31 elements of bf16, and of 2 GiB of
/// smaller ones beside them.
std::string memory_missing(std::int64_t tensors) {
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  const auto needed = static_cast<std::size_t>(tensors * 2 * kBeyond) + (std::size_t{2} << 30);
  if (free >= needed) return {};
  return "needs " + std::to_string(needed >> 30) + " GiB of device memory, " +
         std::to_string(free >> 30) + " are free";
}

/// On the device, without a copy in host memory.
class Large {
 public:
  /// Poisoned.
  Large(std::int32_t type, std::int64_t count)
      : type_(type), count_(count), buffer_(count * element_bytes(type)) {
    check(cudaMemset(buffer_.data(), 0xff, static_cast<std::size_t>(buffer_.bytes())),
          "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  /// `period` again and again.
  Large(const HostArray& period, std::int64_t count) : Large(period.type(), count) {
    std::int64_t filled = std::min(buffer_.bytes(), period.size_bytes());
    check(cudaMemcpy(buffer_.data(), period.data(), static_cast<std::size_t>(filled),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
    while (filled < buffer_.bytes()) {
      const std::int64_t more = std::min(filled, buffer_.bytes() - filled);
      check(cudaMemcpy(buffer_.data() + filled, buffer_.data(), static_cast<std::size_t>(more),
                       cudaMemcpyDeviceToDevice),
            "cudaMemcpy");
      filled += more;
    }
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  }

  std::int64_t count() const { return count_; }
  void* data() { return buffer_.data(); }
  void* at(std::int64_t element) { return buffer_.data() + element * element_bytes(type_); }

  /// A copy of elements first to first + count - 1, when all work on the device is done.
  HostArray piece(std::int64_t first, std::int64_t count) {
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    HostArray piece(type_, count);
    check(cudaMemcpy(piece.data(), at(first), static_cast<std::size_t>(piece.size_bytes()),
                     cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    return piece;
  }
  HostArray back() { return piece(0, count_); }

 private:
  std::int32_t type_;
  std::int64_t count_;
  DeviceBuffer buffer_;
};

HostArray part(const HostArray& of, std::int64_t first, std::int64_t count) {
  HostArray elements(of.type(), count);
  const std::int64_t bytes = element_bytes(of.type());
  std::memcpy(elements.data(), static_cast<const std::uint8_t*>(of.data()) + first * bytes,
              static_cast<std::size_t>(count * bytes));
  return elements;
}

/// The largest |found - expected| / (|expected| + root mean square of expected); infinity where
/// anything is not finite.
double largest_difference(const HostArray& found, const HostArray& expected) {
  double squares = 0;
  for (std::int64_t i = 0; i < expected.count(); ++i) squares += std::pow(expected[i], 2);
  const double typical = std::sqrt(squares / static_cast<double>(expected.count()));
  if (!(typical > 0)) return INFINITY;
  double largest = 0;
  for (std::int64_t i = 0; i < expected.count(); ++i) {
    const double y = expected[i];
    const double difference = std::fabs(found[i] - y) / (std::fabs(y) + typical);
    if (!std::isfinite(difference)) return INFINITY;
    largest = std::max(largest, difference);
  }
  return largest;
}

/// A call whose inputs repeat by whole sequences, or by tokens of the one sequence: then its small
/// call has three periods, and of those the first two are forgotten by the third.
struct Repeats {
  std::int64_t batch;
  std::int64_t length;
  std::int64_t small_batch;
  std::int64_t small_length;
  std::int64_t unit;    // elements of what repeats
  std::int64_t period;  // units

  std::int64_t tokens_of_period() const { return batch > 1 ? period * length : period; }
};

std::ostream& operator<<(std::ostream& out, const Repeats& r) {
  return out << "batch " << r.batch << ", length " << r.length << ", " << r.unit
             << " elements repeat after " << r.period;
}

Repeats by_sequence(std::int64_t length, std::int64_t channels) {
  const std::int64_t unit = length * channels;
  return {kBeyond / unit + 3, length, 3, length, unit, 3};
}

Repeats by_token(std::int64_t channels) {
  constexpr std::int64_t kPeriod = 960;
  return {1, kBeyond / channels + kPeriod, 1, 3 * kPeriod, channels, kPeriod};
}

/// Holds parts of a large array, at its ends and around elements 2^30 and 2^31, to a small one. Its
/// units behind those of the small one repeat the last `period` of them.
void expect_repeats(Large& large, const HostArray& small, std::int64_t unit, std::int64_t period,
                    double limit = kNeighbours) {
  constexpr std::int64_t kReach = 1 << 19;
  const std::int64_t units = small.count() / unit;
  for (const std::int64_t centre : {std::int64_t{0}, kBeyond / 2, kBeyond, large.count()}) {
    const std::int64_t first = std::clamp<std::int64_t>(centre - kReach, 0, large.count());
    const std::int64_t end = std::clamp<std::int64_t>(centre + kReach, 0, large.count());
    if (first == end) continue;
    HostArray expected(small.type(), end - first);
    for (std::int64_t i = first; i < end; ++i) {
      std::int64_t at = i / unit;
      if (at >= units) at = units - period + (at - units) % period;
      expected.set(i - first, small[at * unit + i % unit]);
    }
    EXPECT_LT(largest_difference(large.piece(first, end - first), expected), limit)
        << "elements " << first << " to " << end;
  }
}

/// Steps are 0.02 and more and A is -0.3 and less: 1920 tokens leave less than e^-11 of a state,
/// and typically e^-250.
struct Rates {
  DeviceArray A, D, bias;

  static Rates make(std::int64_t rows, std::int64_t states, Random& random) {
    HostArray A(ICD_F32, rows * states);
    for (std::int64_t i = 0; i < A.count(); ++i) {
      A.set(i, -static_cast<float>(static_cast<double>(i % states + 1) *
                                   std::exp(0.3 * random.normal())));
    }
    return {DeviceArray(A), DeviceArray(normal_array(ICD_F32, rows, random)),
            DeviceArray(normal_array(ICD_F32, rows, random, 0.3, -1.5))};
  }
};

// ---- selective_scan. All its inputs are columns of one tensor.

constexpr std::int64_t kChannels = 1536;

void expect_large_scan(const Repeats& size) {
  Random random(1);
  Rates rates = Rates::make(kChannels, 16, random);
  const HostArray period = normal_array(ICD_BF16, size.tokens_of_period() * kChannels, random);
  const auto run = [&](std::int64_t batch, std::int64_t length, ScanVariant variant, Large& inputs,
                       Large& y) {
    SelectiveScan args = {};
    args.batch = batch;
    args.length = length;
    args.channels = kChannels;
    args.states = 16;
    args.type = ICD_BF16;
    args.softplus = 1;
    args.u = {inputs.data(), length * kChannels, kChannels, 1};
    args.dt = args.z = args.B = args.C = args.u;
    args.C.data = inputs.at(16);
    args.y = args.u;
    args.y.data = y.data();
    args.A = rates.A.f32();
    args.D = rates.D.f32();
    args.dt_bias = rates.bias.f32();
    DeviceBuffer workspace(selective_scan_workspace(args, variant) + 1);
    args.workspace = workspace.data();
    const cudaError_t status = selective_scan(args, variant, nullptr);
    if (status == cudaErrorNotSupported) return false;
    check(status, "selective_scan");
    check(cudaDeviceSynchronize(), "selective_scan");
    return true;
  };
  const std::int64_t small_tokens = size.small_batch * size.small_length;
  Large small_inputs(period, small_tokens * kChannels);
  Large inputs(period, size.batch * size.length * kChannels);
  for (const NamedScanVariant& named : kScanVariants) {
    SCOPED_TRACE(::testing::Message() << named.name << ", " << size);
    Large small(ICD_BF16, small_tokens * kChannels);
    Large y(ICD_BF16, inputs.count());
    if (!run(size.small_batch, size.small_length, named.variant, small_inputs, small)) continue;
    ASSERT_TRUE(run(size.batch, size.length, named.variant, inputs, y));
    expect_repeats(y, small.back(), size.unit, size.period);
  }
}

TEST_F(LargeOnDevice, SelectiveScanOfManySequencesBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  expect_large_scan(by_sequence(512, kChannels));
}

TEST_F(LargeOnDevice, SelectiveScanOfALongSequenceBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  expect_large_scan(by_token(kChannels));
}

// f32, and so many of them that it is their bytes that are beyond 2^33.
TEST_F(LargeOnDevice, SelectiveScanOfManyStatesBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  constexpr std::int64_t kUnit = kChannels * 16;
  constexpr std::int64_t kBatch = kBeyond / kUnit + 3;
  Random random(2);
  Rates rates = Rates::make(kChannels, 16, random);
  const HostArray period = normal_array(ICD_BF16, 3 * kChannels, random);
  const HostArray states = normal_array(ICD_F32, 3 * kUnit, random);
  const auto run = [&](std::int64_t batch, Large& inputs, Large& state, Large& y) {
    SelectiveScan args = {};
    args.batch = batch;
    args.length = 1;
    args.channels = kChannels;
    args.states = 16;
    args.type = ICD_BF16;
    args.softplus = 1;
    args.u = {inputs.data(), kChannels, kChannels, 1};
    args.dt = args.B = args.C = args.u;
    args.y = args.u;
    args.y.data = y.data();
    args.A = rates.A.f32();
    args.dt_bias = rates.bias.f32();
    args.final_state = static_cast<float*>(state.data());
    args.initial_state = args.final_state;
    DeviceBuffer workspace(selective_scan_workspace(args) + 1);
    args.workspace = workspace.data();
    check(selective_scan(args, nullptr), "selective_scan");
    check(cudaDeviceSynchronize(), "selective_scan");
  };
  Large small_inputs(period, period.count());
  Large small_state(states, states.count());
  Large small_y(ICD_BF16, period.count());
  run(3, small_inputs, small_state, small_y);
  Large inputs(period, kBatch * kChannels);
  Large state(states, kBatch * kUnit);
  Large y(ICD_BF16, inputs.count());
  run(kBatch, inputs, state, y);
  expect_repeats(y, small_y.back(), kChannels, 3);
  expect_repeats(state, small_state.back(), kUnit, 3);
}

// ---- causal_conv1d

enum class Innermost { channel, token };

void expect_large_convolution(const Repeats& size, std::int64_t channels, Innermost innermost) {
  SCOPED_TRACE(::testing::Message()
               << size << ", channels " << channels
               << (innermost == Innermost::token ? ", tokens" : ", channels") << " innermost");
  Random random(3);
  DeviceArray weight(normal_array(ICD_BF16, channels * 4, random, 0.5));
  DeviceArray bias(normal_array(ICD_BF16, channels, random));
  const HostArray period = normal_array(ICD_BF16, size.tokens_of_period() * channels, random);
  const auto run = [&](std::int64_t batch, std::int64_t length, Large& x, Large& y) {
    CausalConv1d args = {};
    args.batch = batch;
    args.length = length;
    args.channels = channels;
    args.width = 4;
    args.type = ICD_BF16;
    args.silu = 1;
    args.x = innermost == Innermost::token ? Strided{x.data(), length * channels, 1, length}
                                           : Strided{x.data(), length * channels, channels, 1};
    args.y = args.x;
    args.y.data = y.data();
    args.weight = weight.data();
    args.bias = bias.data();
    check(causal_conv1d(args, nullptr), "causal_conv1d");
    check(cudaDeviceSynchronize(), "causal_conv1d");
  };
  const std::int64_t small_count = size.small_batch * size.small_length * channels;
  Large small_x(period, small_count);
  Large small_y(ICD_BF16, small_count);
  run(size.small_batch, size.small_length, small_x, small_y);
  Large x(period, size.batch * size.length * channels);
  Large y(ICD_BF16, x.count());
  run(size.batch, size.length, x, y);
  expect_repeats(y, small_y.back(), size.unit, size.period);
}

TEST_F(LargeOnDevice, CausalConv1dBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  // Rows of 16 bytes, and others.
  for (const std::int64_t channels : {kChannels, kChannels + 1}) {
    expect_large_convolution(by_sequence(512, channels), channels, Innermost::channel);
    expect_large_convolution(by_token(channels), channels, Innermost::channel);
  }
  expect_large_convolution(by_sequence(512, kChannels), kChannels, Innermost::token);
  expect_large_convolution(by_sequence(511, kChannels), kChannels, Innermost::token);
  expect_large_convolution(by_token(1), 1, Innermost::token);
}

// ---- ssd. All its inputs are columns of one tensor, mamba3's too.

constexpr std::int64_t kHeads = 8;
constexpr std::int64_t kHeadDim = 64;
constexpr std::int64_t kHeadChannels = kHeads * kHeadDim;

void expect_large_ssd(const Repeats& size, const std::vector<SsdVariant>& variants) {
  constexpr std::int64_t kStates = 128;
  Random random(4);
  Rates rates = Rates::make(kHeads, 1, random);
  const HostArray period = normal_array(ICD_BF16, size.tokens_of_period() * kHeadChannels, random);
  const auto run = [&](std::int64_t batch, std::int64_t length, SsdVariant variant, Large& inputs,
                       Large& y) {
    Ssd args = {};
    args.batch = batch;
    args.length = length;
    args.heads = kHeads;
    args.head_dim = kHeadDim;
    args.groups = 1;
    args.states = kStates;
    args.type = ICD_BF16;
    args.softplus = 1;
    args.x = {inputs.data(), length * kHeadChannels, kHeadChannels, 1};
    args.dt = args.z = args.B = args.C = args.y = args.x;
    args.B.data = inputs.at(kStates);
    args.C.data = inputs.at(2 * kStates);
    args.dt.data = inputs.at(3 * kStates);
    args.y.data = y.data();
    args.A = rates.A.f32();
    args.D = rates.D.f32();
    args.dt_bias = rates.bias.f32();
    if (!ssd_supports(args, variant)) return false;
    DeviceBuffer workspace(ssd_workspace(args, variant) + 1);
    args.workspace = workspace.data();
    check(ssd(args, nullptr, variant), "ssd");
    check(cudaDeviceSynchronize(), "ssd");
    return true;
  };
  const std::int64_t small_tokens = size.small_batch * size.small_length;
  Large small_inputs(period, small_tokens * kHeadChannels);
  Large inputs(period, size.batch * size.length * kHeadChannels);
  for (const SsdVariant variant : variants) {
    SCOPED_TRACE(::testing::Message() << "variant " << static_cast<int>(variant) << ", " << size);
    Large small(ICD_BF16, small_tokens * kHeadChannels);
    Large y(ICD_BF16, inputs.count());
    if (!run(size.small_batch, size.small_length, variant, small_inputs, small)) continue;
    ASSERT_TRUE(run(size.batch, size.length, variant, inputs, y));
    expect_repeats(y, small.back(), size.unit, size.period, kSsdRoundings);
  }
}

TEST_F(LargeOnDevice, SsdOfManySequencesBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  expect_large_ssd(by_sequence(1024, kHeadChannels),
                   {SsdVariant::automatic, SsdVariant::chunked, SsdVariant::plain});
}

// Token by token, so few heads would take seconds.
TEST_F(LargeOnDevice, SsdOfALongSequenceBeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  expect_large_ssd(by_token(kHeadChannels), {SsdVariant::chunked, SsdVariant::split});
}

// ---- mamba3

TEST_F(LargeOnDevice, Mamba3BeyondFourGigabytes) {
  if (const std::string why = memory_missing(2); !why.empty()) GTEST_SKIP() << why;
  constexpr std::int64_t kStates = 64;
  constexpr std::int64_t kAngles = 16;
  const Repeats size = by_sequence(256, kHeadChannels);
  SCOPED_TRACE(::testing::Message() << size);
  const std::int64_t tokens = size.tokens_of_period();
  Random random(5);
  DeviceArray bias(normal_array(ICD_F32, kHeads * kStates, random));
  DeviceArray D(normal_array(ICD_F32, kHeads, random));
  const HostArray period = normal_array(ICD_BF16, tokens * kHeadChannels, random);
  HostArray parts(ICD_F32, tokens * kHeads);  // from 0 to 1: steps, and of trapezoids
  HostArray decays(ICD_F32, tokens * kHeads);
  HostArray turns(ICD_F32, tokens * kAngles);
  for (std::int64_t i = 0; i < parts.count(); ++i) {
    parts.set(i, static_cast<float>(random.uniform()));
    decays.set(i, -static_cast<float>(random.uniform()));
  }
  for (std::int64_t i = 0; i < turns.count(); ++i) {
    turns.set(i, static_cast<float>(random.uniform() - 0.5));
  }
  const auto run = [&](std::int64_t batch, Large& y) {
    const std::int64_t all = batch * size.length;
    Large inputs(period, all * kHeadChannels);
    Large part_of(parts, all * kHeads);
    Large decay(decays, all * kHeads);
    Large turn(turns, all * kAngles);
    const auto strided = [&](void* data, std::int64_t channels) {
      return Strided{data, size.length * channels, channels, 1};
    };
    Mamba3Scan args = {};
    args.batch = batch;
    args.length = size.length;
    args.heads = kHeads;
    args.head_dim = kHeadDim;
    args.groups = 1;
    args.states = kStates;
    args.rank = 1;
    args.angles = kAngles;
    args.type = ICD_BF16;
    args.x = strided(inputs.data(), kHeadChannels);
    args.z = args.x;
    args.B = strided(inputs.at(kStates), kHeadChannels);
    args.C = strided(inputs.at(2 * kStates), kHeadChannels);
    args.y = strided(y.data(), kHeadChannels);
    args.dt = strided(part_of.data(), kHeads);
    args.decay = strided(decay.data(), kHeads);
    args.trap = args.dt;
    args.turn = strided(turn.data(), kAngles);
    args.B_bias = bias.f32();
    args.C_bias = bias.f32();
    args.D = D.f32();
    check(mamba3(args, nullptr), "mamba3");
    check(cudaDeviceSynchronize(), "mamba3");
  };
  Large small(ICD_BF16, size.small_batch * size.unit);
  Large y(ICD_BF16, size.batch * size.unit);
  run(size.small_batch, small);
  run(size.batch, y);
  expect_repeats(y, small.back(), size.unit, size.period);
}

// ---- state_update and head_state_update: few sequences, whose states are anywhere.

/// States of more than 2^31 elements in all: three slots, repeated; and which of them a batch has.
struct Slots {
  explicit Slots(std::int64_t the_unit)
      : unit(the_unit),
        count(kBeyond / unit + 20),
        beyond(kBeyond / unit),
        chosen({0, 3, static_cast<std::int32_t>(beyond / 2), static_cast<std::int32_t>(beyond - 1),
                static_cast<std::int32_t>(beyond), static_cast<std::int32_t>(beyond + 1),
                static_cast<std::int32_t>(count - 1)}) {}

  std::int64_t batch() const { return static_cast<std::int64_t>(chosen.size()); }

  /// The states of the batch alone, in its order.
  HostArray of_batch(const HostArray& period) const {
    HostArray states(period.type(), batch() * unit);
    const std::int64_t bytes = unit * element_bytes(period.type());
    auto* to = static_cast<std::uint8_t*>(states.data());
    for (const std::int32_t slot : chosen) {
      std::memcpy(to, static_cast<const std::uint8_t*>(period.data()) + slot % 3 * bytes,
                  static_cast<std::size_t>(bytes));
      to += bytes;
    }
    return states;
  }

  std::int64_t unit;
  std::int64_t count;
  std::int64_t beyond;  // the slot of element 2^31
  std::vector<std::int32_t> chosen;
};

/// Runs `call(state, slots, y)` on states anywhere and on those of the batch alone.
template <typename Call>
void expect_large_states(const Slots& slots, std::int64_t channels, Random& random,
                         const Call& call) {
  const HostArray period = normal_array(ICD_BF16, 3 * slots.unit, random);
  Large small_state(slots.of_batch(period), slots.batch() * slots.unit);
  Large small_y(ICD_BF16, slots.batch() * channels);
  call(small_state, nullptr, small_y);
  Large state(period, slots.count * slots.unit);
  Large y(ICD_BF16, slots.batch() * channels);
  DeviceArray chosen(int_array(slots.chosen));
  call(state, chosen.i32(), y);

  EXPECT_LT(largest_difference(y.back(), small_y.back()), kNeighbours) << "y";
  for (std::int64_t b = 0; b < slots.batch(); ++b) {
    const std::int32_t slot = slots.chosen[static_cast<std::size_t>(b)];
    EXPECT_LT(largest_difference(state.piece(slot * slots.unit, slots.unit),
                                 small_state.piece(b * slots.unit, slots.unit)),
              kNeighbours)
        << "slot " << slot;
  }
  for (const std::int64_t slot : {std::int64_t{1}, slots.beyond / 2 + 1, slots.beyond - 2,
                                  slots.beyond + 2, slots.count - 2}) {
    EXPECT_EQ(state.piece(slot * slots.unit, slots.unit),
              part(period, slot % 3 * slots.unit, slots.unit))
        << "slot " << slot << ", of no sequence, was written";
  }
}

TEST_F(LargeOnDevice, StateUpdateBeyondFourGigabytes) {
  if (const std::string why = memory_missing(1); !why.empty()) GTEST_SKIP() << why;
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int64_t states : {16, 12}) {
      SCOPED_TRACE(::testing::Message() << "layout " << layout << ", states " << states);
      const Slots slots(kChannels * states);
      Random random(6);
      Rates rates = Rates::make(kChannels, states, random);
      DeviceArray inputs(normal_array(ICD_BF16, slots.batch() * kChannels, random));
      expect_large_states(slots, kChannels, random,
                          [&](Large& state, const std::int32_t* chosen, Large& y) {
                            StateUpdate args = {};
                            args.batch = slots.batch();
                            args.channels = kChannels;
                            args.states = states;
                            args.type = ICD_BF16;
                            args.softplus = 1;
                            args.state_type = ICD_BF16;
                            args.state_layout = layout;
                            args.u = testing::packed(inputs.data(), 1, kChannels);
                            args.dt = args.z = args.B = args.C = args.u;
                            args.y = testing::packed(y.data(), 1, kChannels);
                            args.A = rates.A.f32();
                            args.D = rates.D.f32();
                            args.dt_bias = rates.bias.f32();
                            args.state = state.data();
                            args.slots = chosen;
                            check(state_update(args, nullptr), "state_update");
                          });
    }
  }
}

TEST_F(LargeOnDevice, HeadStateUpdateBeyondFourGigabytes) {
  if (const std::string why = memory_missing(1); !why.empty()) GTEST_SKIP() << why;
  for (const std::int64_t states : {128, 126}) {
    SCOPED_TRACE(::testing::Message() << "states " << states);
    const Slots slots(kHeadChannels * states);
    Random random(7);
    Rates rates = Rates::make(kHeads, 1, random);
    DeviceArray inputs(normal_array(ICD_BF16, slots.batch() * kHeadChannels, random));
    expect_large_states(slots, kHeadChannels, random,
                        [&](Large& state, const std::int32_t* chosen, Large& y) {
                          HeadStateUpdate args = {};
                          args.batch = slots.batch();
                          args.heads = kHeads;
                          args.head_dim = kHeadDim;
                          args.groups = 1;
                          args.states = states;
                          args.type = ICD_BF16;
                          args.softplus = 1;
                          args.state_type = ICD_BF16;
                          args.x = testing::packed(inputs.data(), 1, kHeadChannels);
                          args.dt = args.z = args.B = args.C = args.x;
                          args.y = testing::packed(y.data(), 1, kHeadChannels);
                          args.A = rates.A.f32();
                          args.D = rates.D.f32();
                          args.dt_bias = rates.bias.f32();
                          args.state = state.data();
                          args.slots = chosen;
                          check(head_state_update(args, nullptr), "head_state_update");
                        });
  }
}

// ---- rms_norm

TEST_F(LargeOnDevice, RmsNormBeyondFourGigabytes) {
  if (const std::string why = memory_missing(3); !why.empty()) GTEST_SKIP() << why;
  enum class Extra { gate, residual, order };
  struct Case {
    std::int64_t columns;
    std::int64_t group;
    Extra extra;
  };
  // Rows of 16 bytes, and others.
  for (const auto& [columns, group, extra] : {Case{1536, 0, Extra::gate},
                                              {1536, 128, Extra::residual},
                                              {1536, 0, Extra::order},
                                              {1537, 0, Extra::residual}}) {
    SCOPED_TRACE(::testing::Message() << "columns " << columns << ", group " << group << ", extra "
                                      << static_cast<int>(extra));
    constexpr std::int64_t kPeriod = 7;
    Random random(8);
    DeviceArray weight(normal_array(ICD_F32, columns, random));
    std::vector<std::int32_t> reversed;
    for (std::int64_t c = columns; c-- > 0;) reversed.push_back(static_cast<std::int32_t>(c));
    DeviceArray order(int_array(reversed));
    const HostArray period = normal_array(ICD_BF16, kPeriod * columns, random);
    const auto run = [&](std::int64_t rows, Large& x, Large& sum, Large& y) {
      RmsNorm args = {};
      args.rows = rows;
      args.columns = columns;
      args.group = group;
      args.type = ICD_BF16;
      args.residual_type = ICD_BF16;
      args.eps = 1e-5F;
      args.x = x.data();
      args.x_row = columns;
      if (extra == Extra::gate) {
        args.z = x.data();
        args.z_row = columns;
      }
      if (extra == Extra::residual) {
        args.residual = x.data();
        args.residual_out = sum.data();
      }
      args.y = y.data();
      args.y_row = columns;
      args.weight = weight.f32();
      if (extra == Extra::order) args.order = order.i32();
      check(rms_norm(args, nullptr), "rms_norm");
      check(cudaDeviceSynchronize(), "rms_norm");
    };
    Large small_x(period, period.count());
    Large small_sum(ICD_BF16, period.count());
    Large small_y(ICD_BF16, period.count());
    run(kPeriod, small_x, small_sum, small_y);
    const std::int64_t rows = kBeyond / columns + kPeriod;
    Large x(period, rows * columns);
    Large sum(ICD_BF16, rows * columns);
    Large y(ICD_BF16, rows * columns);
    run(rows, x, sum, y);
    expect_repeats(y, small_y.back(), columns, kPeriod);
    if (extra == Extra::residual) expect_repeats(sum, small_sum.back(), columns, kPeriod);
  }
}

// ---- skip_zero_gemv

HostArray product(std::int64_t rows, std::int64_t columns, std::int32_t input_major, Large& W,
                  const HostArray& x) {
  DeviceArray values(x);
  Large y(ICD_BF16, rows);
  SkipZeroGemv args = {};
  args.rows = rows;
  args.columns = columns;
  args.type = ICD_BF16;
  args.input_major = input_major;
  args.W = W.data();
  args.x = values.data();
  args.y = y.data();
  DeviceBuffer workspace(skip_zero_gemv_workspace(args) + 1);
  args.workspace = workspace.data();
  check(skip_zero_gemv(args, nullptr), "skip_zero_gemv");
  check(cudaDeviceSynchronize(), "skip_zero_gemv");
  return y.back();
}

TEST_F(LargeOnDevice, SkipZeroGemvBeyondFourGigabytes) {
  if (const std::string why = memory_missing(1); !why.empty()) GTEST_SKIP() << why;
  constexpr std::int64_t kPeriod = 7;
  for (const std::int64_t width : {1536, 1537}) {  // rows of 16 bytes, and others
    SCOPED_TRACE(::testing::Message() << "width " << width);
    Random random(9);
    const HostArray period = normal_array(ICD_BF16, kPeriod * width, random);
    const std::int64_t many = kBeyond / width + 3;
    Large W(period, many * width);
    {
      HostArray x = normal_array(ICD_BF16, width, random);
      for (std::int64_t c = 0; c < width; c += 3) x.set(c, 0);
      Large small(period, period.count());
      const HostArray expected = product(kPeriod, width, 0, small, x);
      const HostArray found = product(many, width, 0, W, x);
      HostArray repeated(ICD_BF16, many);
      for (std::int64_t r = 0; r < many; ++r) repeated.set(r, expected[r % kPeriod]);
      EXPECT_LT(largest_difference(found, repeated), kNeighbours) << "row-major";
    }
    // Of many columns, the first, the last and some between are not 0.
    HostArray x(ICD_BF16, many);
    std::vector<std::int64_t> active;
    for (const std::int64_t first : {std::int64_t{0}, many / 2, many - 20}) {
      for (std::int64_t c = first; c < first + 20; ++c) {
        x.set(c, static_cast<float>(random.normal()));
        active.push_back(c);
      }
    }
    const auto few = static_cast<std::int64_t>(active.size());
    HostArray rows_of_few(ICD_BF16, few * width);
    HostArray few_x(ICD_BF16, few);
    for (std::int64_t i = 0; i < few; ++i) {
      const std::int64_t column = active[static_cast<std::size_t>(i)];
      few_x.set(i, x[column]);
      for (std::int64_t r = 0; r < width; ++r) {
        rows_of_few.set(i * width + r, period[column % kPeriod * width + r]);
      }
    }
    Large small(rows_of_few, rows_of_few.count());
    const HostArray expected = product(width, few, 1, small, few_x);
    EXPECT_LT(largest_difference(product(width, many, 1, W, x), expected), kNeighbours)
        << "input-major";
  }
}

}  // namespace
}  // namespace icd
