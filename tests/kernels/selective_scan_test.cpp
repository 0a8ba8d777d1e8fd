#include "kernels/selective_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "kernels/reference.h"
#include "kernels/reference_math.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;

// Which optional fields are given, as a set of bits.
enum Given : unsigned {
  kZ = 1,
  kD = 2,
  kBias = 4,
  kSoftplus = 8,
  kInitial = 16,
  kFinal = 32,
  kAll = 63,
};

struct Sizes {
  std::int64_t batch = 1;
  std::int64_t length = 1;
  std::int64_t channels = 1;
  std::int64_t states = 16;
  std::int32_t type = ICD_BF16;
  unsigned given = kAll;
  std::int64_t row_multiple = 1;    // rows are padded to a multiple of so many elements ...
  std::int64_t channel_stride = 1;  // ... and channels lie so far apart
  std::int64_t offset = 0;          // bytes of every array behind a multiple of 256
  bool is_in_place = false;         // y is u
  std::vector<std::int32_t> starts = {};
};

std::ostream& operator<<(std::ostream& to, const Sizes& s) {
  to << "batch " << s.batch << ", length " << s.length << ", channels " << s.channels << ", states "
     << s.states << ", type " << s.type << ", given " << s.given << ", row_multiple "
     << s.row_multiple << ", channel_stride " << s.channel_stride << ", offset " << s.offset
     << ", in place " << s.is_in_place << ", starts";
  for (const std::int32_t start : s.starts) to << ' ' << start;
  return to;
}

// The arrays of a call, in host memory. Strides differ from tensor to tensor.
struct Problem {
  explicit Problem(const Sizes& of, std::uint64_t seed = 1)
      : sizes(of),
        random(seed),
        u(tensor(sizes.channels, 0, 1, 0)),
        dt(tensor(sizes.channels, 1, 0.5, 0)),
        z(tensor(sizes.channels, 2, 1, 0)),
        B(tensor(sizes.states, 3, 1, 0)),
        C(tensor(sizes.states, 1, 1, 0)),
        y(testing::poisoned_array(sizes.type, tensor_size(sizes.channels, 3))),
        A(testing::normal_array(ICD_F32, sizes.channels * sizes.states, random, 0.3)),
        D(testing::normal_array(ICD_F32, sizes.channels, random)),
        bias(testing::normal_array(ICD_F32, sizes.channels, random, 0.5, -3)),
        initial(
            testing::normal_array(ICD_F32, sizes.batch * sizes.channels * sizes.states, random)),
        final_state(testing::poisoned_array(ICD_F32, initial.count())),
        starts(testing::int_array(sizes.starts)) {
    for (std::int64_t i = 0; i < A.count(); ++i) {
      A.set(i, -static_cast<float>((i % sizes.states) % 16 + 1) * std::exp(A[i]));
    }
    if ((sizes.given & kSoftplus) == 0) {  // steps have to be positive without it
      for (std::int64_t i = 0; i < dt.count(); ++i) dt.set(i, 0.1F * std::fabs(dt[i]));
      for (std::int64_t i = 0; i < bias.count(); ++i) bias.set(i, 0.01F * std::fabs(bias[i]));
    }
  }

  bool is_packed_in_starts() const { return !sizes.starts.empty(); }
  std::int64_t rows() const { return is_packed_in_starts() ? 1 : sizes.batch; }
  std::int64_t token_stride(std::int64_t channels, std::int64_t padding) const {
    const std::int64_t row = channels * sizes.channel_stride;
    const std::int64_t multiple = sizes.row_multiple;
    return (row + multiple - 1) / multiple * multiple + padding * multiple;
  }
  std::int64_t tensor_size(std::int64_t channels, std::int64_t padding) const {
    return rows() * sizes.length * token_stride(channels, padding);
  }
  HostArray tensor(std::int64_t channels, std::int64_t padding, double deviation, double mean) {
    return testing::normal_array(sizes.type, tensor_size(channels, padding), random, deviation,
                                 mean);
  }
  Strided strided(void* data, std::int64_t channels, std::int64_t padding) const {
    const std::int64_t token = token_stride(channels, padding);
    return {data, sizes.length * token, token, sizes.channel_stride};
  }

  // The arguments, with arrays at the places that `at` says.
  template <typename At>
  SelectiveScan args(const At& at) {
    SelectiveScan args = {};
    args.batch = sizes.batch;
    args.length = sizes.length;
    args.channels = sizes.channels;
    args.states = sizes.states;
    args.type = sizes.type;
    args.softplus = (sizes.given & kSoftplus) != 0;
    args.u = strided(at(u), sizes.channels, 0);
    args.dt = strided(at(dt), sizes.channels, 1);
    args.z = strided((sizes.given & kZ) != 0 ? at(z) : nullptr, sizes.channels, 2);
    args.B = strided(at(B), sizes.states, 3);
    args.C = strided(at(C), sizes.states, 1);
    args.y = sizes.is_in_place ? args.u : strided(at(y), sizes.channels, 3);
    const auto optional = [&](HostArray& array, unsigned bit) -> float* {
      return (sizes.given & bit) != 0 ? static_cast<float*>(at(array)) : nullptr;
    };
    args.A = static_cast<float*>(at(A));
    args.D = optional(D, kD);
    args.dt_bias = optional(bias, kBias);
    args.initial_state = optional(initial, kInitial);
    args.final_state = optional(final_state, kFinal);
    if (is_packed_in_starts()) args.starts = static_cast<const std::int32_t*>(at(starts));
    return args;
  }
  SelectiveScan host_args() {
    return args([](HostArray& array) { return array.data(); });
  }

  Sizes sizes;
  Random random;
  HostArray u, dt, z, B, C, y, A, D, bias, initial, final_state, starts;
};

// What a call leaves in y (padding included) and in the final state.
struct Outcome {
  HostArray y;
  HostArray final_state;
};

Outcome on_host(Problem problem) {
  reference::selective_scan(problem.host_args());
  return {problem.sizes.is_in_place ? problem.u : problem.y, problem.final_state};
}

struct DeviceOutcome {
  cudaError_t status;
  Outcome found;
};

DeviceOutcome on_device(Problem problem, ScanVariant variant) {
  std::vector<std::pair<const HostArray*, std::unique_ptr<DeviceArray>>> arrays;
  const auto at = [&](HostArray& array) -> void* {
    const bool is_tensor = &array != &problem.A && &array != &problem.D &&
                           &array != &problem.bias && &array != &problem.initial &&
                           &array != &problem.final_state && &array != &problem.starts;
    arrays.emplace_back(&array,
                        std::make_unique<DeviceArray>(array, is_tensor ? problem.sizes.offset : 0));
    return arrays.back().second->data();
  };
  SelectiveScan args = problem.args(at);
  DeviceBuffer workspace(selective_scan_workspace(args, variant) + 1);
  check(cudaMemset(workspace.data(), 0xff, static_cast<std::size_t>(workspace.bytes())),
        "cudaMemset");
  args.workspace = workspace.data();
  const cudaError_t status = selective_scan(args, variant, nullptr);
  Outcome found = {problem.y, problem.final_state};
  for (const auto& [host, device] : arrays) {
    const HostArray now = device->back();
    if (host == (problem.sizes.is_in_place ? &problem.u : &problem.y)) {
      found.y = now;
    } else if (host == &problem.final_state) {
      found.final_state = now;
    } else {
      EXPECT_TRUE(now == *host) << "an input was changed";
    }
  }
  return {status, found};
}

bool is_fast(ScanVariant variant) {
  return variant != ScanVariant::automatic && variant != ScanVariant::plain;
}

// Whether designs beside plain have to take the call, where the device has room for them.
bool is_for_fast_designs(const Sizes& sizes) {
  return sizes.states == 16 && sizes.type != ICD_F32 && sizes.channel_stride == 1 &&
         sizes.row_multiple % 8 == 0 && sizes.offset % 16 == 0;
}

// Less than the largest design takes, as on all but the large GPUs.
bool has_little_shared_memory() {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0),
        "cudaDeviceGetAttribute");
  return bytes < (227 << 10);
}

// Every design that takes the call.
void expect_all_agree(const Problem& problem) {
  const Outcome expected = on_host(problem);
  for (const NamedScanVariant& named : kScanVariants) {
    SCOPED_TRACE(::testing::Message() << named.name << ": " << problem.sizes);
    const DeviceOutcome outcome = on_device(problem, named.variant);
    if (is_fast(named.variant) && !is_for_fast_designs(problem.sizes)) {
      ASSERT_EQ(outcome.status, cudaErrorNotSupported);
      continue;
    }
    if (outcome.status == cudaErrorNotSupported && has_little_shared_memory()) continue;
    ASSERT_EQ(outcome.status, cudaSuccess) << cudaGetErrorName(outcome.status);
    EXPECT_LE(relative_l2(outcome.found.y, expected.y), testing::tolerance(problem.sizes.type))
        << "y";
    EXPECT_LE(relative_l2(outcome.found.final_state, expected.final_state),
              testing::tolerance(ICD_F32))
        << "final state";
    if (::testing::Test::HasFailure()) return;  // the first tells enough
  }
}

// ---- The reference

TEST(SelectiveScanReference, DoesWhatTheEquationsSay) {
  // One channel, two states, two tokens, by hand.
  HostArray u(ICD_F32, 2), dt(ICD_F32, 2), z(ICD_F32, 2), B(ICD_F32, 4), C(ICD_F32, 4),
      y(ICD_F32, 2), A(ICD_F32, 2), D(ICD_F32, 1), bias(ICD_F32, 1), h(ICD_F32, 2);
  const auto fill = [](HostArray& array, const std::vector<float>& values) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      array.set(static_cast<std::int64_t>(i), values[i]);
    }
  };
  fill(u, {1, 2});
  fill(dt, {0.25F, 0.5F});
  fill(z, {0, 3});
  fill(B, {1, 2, -1, 0.5F});
  fill(C, {1, 1, 2, -2});
  fill(A, {-1, -2});
  fill(D, {3});
  fill(bias, {0.25F});
  SelectiveScan args = {};
  args.batch = args.channels = 1;
  args.length = args.states = 2;
  args.u = testing::packed(u.data(), 2, 1);
  args.dt = testing::packed(dt.data(), 2, 1);
  args.z = testing::packed(z.data(), 2, 1);
  args.B = testing::packed(B.data(), 2, 2);
  args.C = testing::packed(C.data(), 2, 2);
  args.y = testing::packed(y.data(), 2, 1);
  args.A = A.f32();
  args.D = D.f32();
  args.dt_bias = bias.f32();
  args.final_state = h.f32();
  reference::selective_scan(args);
  const double h0 = 0.5 * 1 * 1, h1 = 0.5 * 2 * 1;
  const double g0 = std::exp(-0.75) * h0 + 0.75 * -1 * 2;
  const double g1 = std::exp(-1.5) * h1 + 0.75 * 0.5 * 2;
  EXPECT_EQ(y[0], 0);  // silu(0)
  EXPECT_NEAR(y[1], (2 * g0 - 2 * g1 + 3 * 2) * 3 / (1 + std::exp(-3.0)), 1e-6);
  EXPECT_NEAR(h[0], g0, 1e-7);
  EXPECT_NEAR(h[1], g1, 1e-7);

  args.softplus = 1;
  args.z.data = nullptr;
  args.length = 1;
  reference::selective_scan(args);
  EXPECT_NEAR(y[0], 3 * std::log1p(std::exp(0.5)) + 3, 1e-6);
}

TEST(SelectiveScanReference, ContinuesFromAState) {
  Problem whole({.batch = 2, .length = 9, .channels = 5, .type = ICD_F32});
  const Outcome expected = on_host(whole);
  Problem halves = whole;
  SelectiveScan args = halves.host_args();
  const auto advance = [](Strided& tensor, std::int64_t tokens) {
    tensor.data = static_cast<float*>(tensor.data) + tokens * tensor.token;
  };
  args.length = 4;
  reference::selective_scan(args);
  args.length = 5;
  args.initial_state = args.final_state;
  for (Strided* tensor : {&args.u, &args.dt, &args.z, &args.B, &args.C, &args.y}) {
    advance(*tensor, 4);
  }
  reference::selective_scan(args);
  EXPECT_LE(relative_l2(halves.y, expected.y), 1e-6);
  EXPECT_LE(relative_l2(halves.final_state, expected.final_state), 1e-6);
}

TEST(SelectiveScanReference, TakesSequencesBehindEachOther) {
  Problem packed(
      {.batch = 3, .length = 12, .channels = 3, .type = ICD_F32, .starts = {0, 5, 5, 12}});
  const Outcome expected = on_host(packed);
  Problem apart = packed;
  const SelectiveScan all = apart.host_args();
  for (std::int64_t b = 0; b < 3; ++b) {
    SelectiveScan one = all;
    const std::int64_t first = packed.sizes.starts[static_cast<std::size_t>(b)];
    one.starts = nullptr;
    one.batch = 1;
    one.length = packed.sizes.starts[static_cast<std::size_t>(b + 1)] - first;
    for (Strided* tensor : {&one.u, &one.dt, &one.z, &one.B, &one.C, &one.y}) {
      tensor->data = static_cast<float*>(tensor->data) + first * tensor->token;
    }
    one.initial_state += b * 3 * 16;
    one.final_state += b * 3 * 16;
    reference::selective_scan(one);
  }
  EXPECT_TRUE(apart.y == expected.y);
  EXPECT_TRUE(apart.final_state == expected.final_state);
}

TEST(SelectiveScanReference, DoesNotDependOnStrides) {
  Problem packed({.batch = 2, .length = 6, .channels = 4, .type = ICD_F32});
  Problem strided({.batch = 2,
                   .length = 6,
                   .channels = 4,
                   .type = ICD_F32,
                   .row_multiple = 8,
                   .channel_stride = 3});
  const SelectiveScan from = packed.host_args();
  const SelectiveScan to = strided.host_args();
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t t = 0; t < 6; ++t) {
      const auto copy = [&](const Strided& x, const Strided& y, std::int64_t channels) {
        for (std::int64_t c = 0; c < channels; ++c) {
          store(ICD_F32, y.data, place(y, b, t, c), load(ICD_F32, x.data, place(x, b, t, c)));
        }
      };
      copy(from.u, to.u, 4);
      copy(from.dt, to.dt, 4);
      copy(from.z, to.z, 4);
      copy(from.B, to.B, 16);
      copy(from.C, to.C, 16);
    }
  }
  for (HostArray Problem::*array : {&Problem::A, &Problem::D, &Problem::bias, &Problem::initial}) {
    strided.*array = packed.*array;
  }
  reference::selective_scan(packed.host_args());
  reference::selective_scan(strided.host_args());
  EXPECT_TRUE(packed.final_state == strided.final_state);
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t t = 0; t < 6; ++t) {
      for (std::int64_t c = 0; c < 4; ++c) {
        EXPECT_EQ(packed.y[place(from.y, b, t, c)], strided.y[place(to.y, b, t, c)]);
      }
    }
  }
}

TEST(SelectiveScanVariants, HaveNamesInTheOrderOfTheirValues) {
  for (std::size_t i = 0; i < kScanVariants.size(); ++i) {
    EXPECT_EQ(static_cast<std::size_t>(kScanVariants[i].variant), i);
  }
}

// ---- The device

using SelectiveScanOnDevice = testing::DeviceTest;

TEST_F(SelectiveScanOnDevice, TakesAnyNumberOfStates) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int64_t states :
         {1, 2, 3, 4, 5, 8, 15, 16, 17, 31, 32, 48, 64, 65, 100, 128, 200, 255, 256}) {
      expect_all_agree(
          Problem({.batch = 2, .length = 13, .channels = 9, .states = states, .type = type}));
      if (HasFailure()) return;
    }
  }
}

TEST_F(SelectiveScanOnDevice, TakesAnyStrideAndAlignment) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int64_t stride : {1, 2, 3, 40}) {
      for (const std::int64_t offset : {0, 4, 8, 12, 16}) {
        for (const std::int64_t multiple : {1, 8, 32}) {
          expect_all_agree(Problem({.batch = 2,
                                    .length = 21,
                                    .channels = 35,
                                    .type = type,
                                    .row_multiple = multiple,
                                    .channel_stride = stride,
                                    .offset = offset}));
          if (HasFailure()) return;
        }
      }
    }
  }
}

// Rows that are aligned, of tiles that are full, cut short or missing, for every design.
TEST_F(SelectiveScanOnDevice, TakesAnyLengthAndNumberOfChannels) {
  for (const std::int32_t type : {ICD_F16, ICD_BF16}) {
    for (const std::int64_t length : {0,  1,  2,  3,  7,  8,  9,   15,  16,  17,  31,  32, 33,
                                      47, 63, 64, 65, 95, 96, 127, 128, 129, 200, 257, 331}) {
      const std::int64_t channels = length % 3 == 0 ? 40 : length % 3 == 1 ? 133 : 70;
      expect_all_agree(Problem(
          {.batch = 2, .length = length, .channels = channels, .type = type, .row_multiple = 8}));
      if (HasFailure()) return;
    }
    for (const std::int64_t channels : {1,  2,  3,  7,  8,  9,  15,  16,  17,  24,  31,  32, 33,
                                        39, 40, 41, 63, 65, 80, 127, 128, 129, 255, 256, 300}) {
      expect_all_agree(Problem(
          {.batch = 2, .length = 37, .channels = channels, .type = type, .row_multiple = 8}));
      if (HasFailure()) return;
    }
  }
}

TEST_F(SelectiveScanOnDevice, TakesAnyChoiceOfOptionalFields) {
  for (unsigned given = 0; given <= kAll; ++given) {
    const std::int32_t type = given % 3 == 0 ? ICD_F16 : ICD_BF16;
    expect_all_agree(Problem({.batch = 3,
                              .length = 75,
                              .channels = 56,
                              .type = type,
                              .given = given,
                              .row_multiple = 8}));
    expect_all_agree(Problem(
        {.batch = 1, .length = 6, .channels = 5, .states = 7, .type = ICD_F32, .given = given}));
    if (HasFailure()) return;
  }
}

TEST_F(SelectiveScanOnDevice, TakesSequencesBehindEachOther) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const unsigned given : {unsigned{kAll}, unsigned{kAll & ~kInitial}}) {
      expect_all_agree(Problem({.batch = 7,
                                .length = 250,
                                .channels = 45,
                                .type = type,
                                .given = given,
                                .row_multiple = 8,
                                .starts = {0, 1, 1, 17, 65, 129, 146, 250}}));
      expect_all_agree(Problem({.batch = 2,
                                .length = 10,
                                .channels = 3,
                                .states = 5,
                                .type = type,
                                .given = given,
                                .starts = {0, 4, 10}}));
      if (HasFailure()) return;
    }
  }
}

TEST_F(SelectiveScanOnDevice, WritesOverItsInput) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const std::int64_t length : {1, 40, 161}) {
      expect_all_agree(Problem({.batch = 2,
                                .length = length,
                                .channels = 150,
                                .type = type,
                                .row_multiple = 8,
                                .is_in_place = true}));
      if (HasFailure()) return;
    }
  }
}

// Enough blocks that those of the wrapped designs begin and end inside of sequences.
TEST_F(SelectiveScanOnDevice, SharesTokensBetweenBlocks) {
  for (const Sizes& sizes : {Sizes{.batch = 300, .length = 37, .channels = 128},
                             Sizes{.batch = 411, .length = 100, .channels = 100},
                             Sizes{.batch = 2, .length = 65, .channels = 128 * 230},
                             Sizes{.batch = 1000, .length = 1, .channels = 8},
                             Sizes{.batch = 400, .length = 16, .channels = 129},
                             Sizes{.batch = 280, .length = 300, .channels = 40}}) {
    Sizes padded = sizes;
    padded.row_multiple = 8;
    expect_all_agree(Problem(padded));
    if (HasFailure()) return;
  }
}

TEST_F(SelectiveScanOnDevice, KeepsSlowChannels) {
  // Steps of 1e-5 to 0.1 and 3000 tokens: the states forget nearly nothing.
  Problem problem({.batch = 1, .length = 3000, .channels = 48, .row_multiple = 8});
  for (std::int64_t d = 0; d < 48; ++d) {
    problem.bias.set(d, std::log(std::expm1(1e-5F * std::pow(10.0F, static_cast<float>(d) / 12))));
  }
  expect_all_agree(problem);
}

TEST_F(SelectiveScanOnDevice, PassesOnWhatIsNotFinite) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const unsigned given :
         {unsigned{kAll}, unsigned{kSoftplus}, unsigned{kAll & ~kSoftplus}}) {
      Problem problem({.batch = 1,
                       .length = 70,
                       .channels = 43,
                       .type = type,
                       .given = given,
                       .row_multiple = 8});
      const auto put = [&](HostArray& array, std::int64_t padding, std::int64_t t, std::int64_t c,
                           float value) {
        array.set(t * problem.token_stride(43, padding) + c, value);
      };
      const std::vector<float> values = {kInf, -kInf, kNaN, 1e30F, -1e30F, 0.0F};
      for (std::size_t i = 0; i < values.size(); ++i) {
        const auto at = static_cast<std::int64_t>(i);
        put(problem.u, 0, 11 + at, 3 * at, values[i]);
        put(problem.dt, 1, 17 + 9 * at, 3 * at + 1, values[i]);
        put(problem.z, 2, 23 + at, 3 * at + 2, values[i]);
        problem.A.set(20 * 16 + at, values[i]);
        problem.D.set(21 + at, values[i]);
        problem.bias.set(28 + at, values[i]);
        problem.initial.set(36 * 16 + 16 * at, values[i]);
      }
      const Outcome expected = on_host(problem);
      for (const NamedScanVariant& named : kScanVariants) {
        if (is_fast(named.variant) && type == ICD_F32) continue;
        SCOPED_TRACE(::testing::Message() << named.name << ": " << problem.sizes);
        const DeviceOutcome outcome = on_device(problem, named.variant);
        if (outcome.status == cudaErrorNotSupported) continue;
        ASSERT_EQ(outcome.status, cudaSuccess);
        const auto same = [](const HostArray& found, const HostArray& wanted, double tolerance) {
          int complaints = 0;
          for (std::int64_t i = 0; i < wanted.count() && complaints < 5; ++i) {
            const double x = found[i];
            const double y = wanted[i];
            const bool is_same = std::isfinite(y)
                                     ? std::fabs(x - y) <= tolerance * (1 + std::fabs(y))
                                     : (std::isnan(x) && std::isnan(y)) || x == y;
            if (is_same) continue;
            ADD_FAILURE() << "element " << i << " is " << x << ", expected " << y;
            ++complaints;
          }
        };
        // One rounding of the output, and sums of 16 terms that partly cancel.
        same(outcome.found.y, expected.y, 4 * testing::tolerance(type));
        same(outcome.found.final_state, expected.final_state, 1e-4);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(SelectiveScanOnDevice, GivesTheSameBitsTwice) {
  for (const NamedScanVariant& named : kScanVariants) {
    const Problem problem({.batch = 290, .length = 83, .channels = 128, .row_multiple = 8}, 5);
    const DeviceOutcome first = on_device(problem, named.variant);
    if (first.status == cudaErrorNotSupported) continue;
    const DeviceOutcome second = on_device(problem, named.variant);
    ASSERT_EQ(second.status, cudaSuccess) << named.name;
    EXPECT_TRUE(first.found.y == second.found.y) << named.name;
    EXPECT_TRUE(first.found.final_state == second.found.final_state) << named.name;
  }
}

TEST_F(SelectiveScanOnDevice, UpdatesAStateInPlaceAndNeedsNoWorkspace) {
  Problem problem({.batch = 300, .length = 20, .channels = 128, .row_multiple = 8});
  const Outcome expected = on_host(problem);
  for (const NamedScanVariant& named : kScanVariants) {
    SCOPED_TRACE(named.name);
    std::vector<std::unique_ptr<DeviceArray>> arrays;
    SelectiveScan args = problem.args([&](HostArray& array) -> void* {
      arrays.push_back(std::make_unique<DeviceArray>(array));
      return arrays.back()->data();
    });
    DeviceArray state(problem.initial);
    DeviceArray y(problem.y);
    args.initial_state = state.f32();
    args.final_state = state.f32();
    args.y.data = y.data();
    const bool needs_none = selective_scan_workspace(args, named.variant) == 0 ||
                            named.variant == ScanVariant::automatic;
    const cudaError_t status = selective_scan(args, named.variant, nullptr);
    if (status == cudaErrorNotSupported) continue;
    if (!needs_none) {
      EXPECT_EQ(status, cudaErrorInvalidValue);
      continue;
    }
    ASSERT_EQ(status, cudaSuccess);
    EXPECT_LE(relative_l2(y.back(), expected.y), testing::tolerance(ICD_BF16));
    EXPECT_LE(relative_l2(state.back(), expected.final_state), testing::tolerance(ICD_F32));
  }
}

TEST_F(SelectiveScanOnDevice, SucceedsOnNothing) {
  for (const NamedScanVariant& named : kScanVariants) {
    for (const Sizes& sizes : {Sizes{.batch = 0, .length = 5, .channels = 8},
                               Sizes{.batch = 2, .length = 5, .channels = 0},
                               Sizes{.batch = 2, .length = 0, .channels = 8}}) {
      Sizes padded = sizes;
      padded.row_multiple = 8;
      const Problem problem(padded);
      const DeviceOutcome outcome = on_device(problem, named.variant);
      if (outcome.status == cudaErrorNotSupported) continue;
      EXPECT_EQ(outcome.status, cudaSuccess) << named.name << ": " << padded;
      EXPECT_LE(relative_l2(outcome.found.final_state, on_host(problem).final_state), 1e-6)
          << named.name << ": " << padded;
    }
  }
}

}  // namespace
}  // namespace icd
