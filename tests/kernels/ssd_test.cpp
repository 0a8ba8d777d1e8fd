#include "kernels/ssd.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include "icd/random.h"
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

const char* name_of(std::int32_t type) {
  return type == ICD_F32 ? "f32" : type == ICD_F16 ? "f16" : "bf16";
}

struct Shape {
  std::int64_t batch = 1;
  std::int64_t length = 1;
  std::int64_t heads = 1;
  std::int64_t head_dim = 1;
  std::int64_t groups = 1;
  std::int64_t states = 1;
  std::vector<std::int32_t> starts = {};  // of all sequences; length is then that of all of them
};

struct Extras {
  bool softplus = true;
  bool has_D = true;
  bool has_bias = true;
  bool has_z = true;
  bool has_initial = true;
  bool has_final = true;
  float dt_min = 0;
  float dt_max = 0;
  double log_rate = 0;            // mean of log(-A)
  double dt = -2;                 // mean of dt
  std::int64_t padding = 0;       // elements between one token's channels and the next's
  std::int64_t channel = 1;       // stride of channels
  std::int64_t offset_bytes = 0;  // of data from an aligned address, on the device
};

// A call with its tensors in host memory.
struct Problem {
  Problem(std::int32_t the_type, Shape the_shape, Extras the_extras, std::uint64_t seed)
      : type(the_type),
        shape(std::move(the_shape)),
        extras(the_extras),
        random(seed),
        x(tensor(shape.heads * shape.head_dim, 1, 0)),
        dt(tensor(shape.heads, 1, extras.dt)),
        z(tensor(shape.heads * shape.head_dim, 1, 0)),
        B(tensor(shape.groups * shape.states, 0.5, 0)),
        C(tensor(shape.groups * shape.states, 0.5, 0)),
        y(poisoned_array(type, x.count())),
        A(normal_array(ICD_F32, shape.heads, random, 1, extras.log_rate)),
        D(normal_array(ICD_F32, shape.heads, random)),
        bias(normal_array(ICD_F32, shape.heads, random, 0.5, -1)),
        initial(normal_array(ICD_F32, states_count(), random)),
        final_state(poisoned_array(ICD_F32, states_count())),
        starts(int_array(shape.starts)) {
    for (std::int64_t i = 0; i < shape.heads; ++i) A.set(i, -std::exp(A[i]));
  }

  std::int64_t states_count() const {
    return shape.batch * shape.heads * shape.head_dim * shape.states;
  }
  std::int64_t rows() const {
    return shape.starts.empty() ? shape.batch * shape.length : shape.length;
  }
  std::int64_t width(std::int64_t channels) const {
    return channels * extras.channel + extras.padding;
  }
  HostArray tensor(std::int64_t channels, double deviation, double mean) {
    return normal_array(type, rows() * width(channels), random, deviation, mean);
  }
  Strided strided(const void* data, std::int64_t channels) const {
    const std::int64_t token = width(channels);
    return {const_cast<void*>(data), shape.length * token, token, extras.channel};
  }

  Ssd sizes() const {
    Ssd args{};
    args.batch = shape.batch;
    args.length = shape.length;
    args.heads = shape.heads;
    args.head_dim = shape.head_dim;
    args.groups = shape.groups;
    args.states = shape.states;
    args.type = type;
    args.softplus = extras.softplus ? 1 : 0;
    args.dt_min = extras.dt_min;
    args.dt_max = extras.dt_max;
    return args;
  }

  // The call on arrays that are these, or copies of them.
  template <typename Array>
  Ssd args(Array& x_, Array& dt_, Array& z_, Array& B_, Array& C_, Array& y_, Array& A_, Array& D_,
           Array& bias_, Array& initial_, Array& final_, Array& starts_) const {
    const std::int64_t channels = shape.heads * shape.head_dim;
    Ssd args = sizes();
    args.x = strided(x_.data(), channels);
    args.dt = strided(dt_.data(), shape.heads);
    if (extras.has_z) args.z = strided(z_.data(), channels);
    args.B = strided(B_.data(), shape.groups * shape.states);
    args.C = strided(C_.data(), shape.groups * shape.states);
    args.y = strided(y_.data(), channels);
    args.A = A_.f32();
    if (extras.has_D) args.D = D_.f32();
    if (extras.has_bias) args.dt_bias = bias_.f32();
    if (extras.has_initial) args.initial_state = initial_.f32();
    if (extras.has_final) args.final_state = final_.f32();
    if (!shape.starts.empty()) args.starts = static_cast<const std::int32_t*>(starts_.data());
    return args;
  }
  Ssd host_args() { return args(x, dt, z, B, C, y, A, D, bias, initial, final_state, starts); }

  std::int32_t type;
  Shape shape;
  Extras extras;
  Random random;
  HostArray x;
  HostArray dt;
  HostArray z;
  HostArray B;
  HostArray C;
  HostArray y;
  HostArray A;
  HostArray D;
  HostArray bias;
  HostArray initial;
  HostArray final_state;
  HostArray starts;
};

std::ostream& operator<<(std::ostream& to, const Problem& problem) {
  const Shape& shape = problem.shape;
  const Extras& extras = problem.extras;
  to << name_of(problem.type) << " batch " << shape.batch << " length " << shape.length << " heads "
     << shape.heads << " head_dim " << shape.head_dim << " groups " << shape.groups << " states "
     << shape.states << " starts " << shape.starts.size() << " softplus " << extras.softplus
     << " D " << extras.has_D << " bias " << extras.has_bias << " z " << extras.has_z << " initial "
     << extras.has_initial << " final " << extras.has_final << " dt " << extras.dt << " limits "
     << extras.dt_min << ' ' << extras.dt_max << " log_rate " << extras.log_rate << " padding "
     << extras.padding << " channel " << extras.channel << " offset " << extras.offset_bytes;
  return to;
}

struct Result {
  HostArray y;
  HostArray final_state;
};

Result on_host(Problem& problem) {
  problem.y = poisoned_array(problem.type, problem.y.count());
  problem.final_state = poisoned_array(ICD_F32, problem.final_state.count());
  reference::ssd(problem.host_args());
  return {problem.y, problem.final_state};
}

// ---- the reference ----

TEST(SsdReference, IsTheRecurrence) {
  Shape shape{.length = 3, .head_dim = 1, .states = 2};
  Problem problem(ICD_F32, shape,
                  {.softplus = false, .has_bias = false, .has_z = false, .has_initial = false}, 1);
  problem.A.set(0, -1);
  problem.D.set(0, 10);
  const double x[] = {1, 2, -1};
  const double dt[] = {0.5, 1, 0.25};
  const double B[] = {1, 0, 0.5, 2, -1, 1};
  const double C[] = {1, 1, 2, -1, 0.5, 3};
  double h[2] = {0, 0};
  for (int t = 0; t < 3; ++t) {
    problem.x.set(t, static_cast<float>(x[t]));
    problem.dt.set(t, static_cast<float>(dt[t]));
    for (int n = 0; n < 2; ++n) {
      problem.B.set(2 * t + n, static_cast<float>(B[2 * t + n]));
      problem.C.set(2 * t + n, static_cast<float>(C[2 * t + n]));
    }
  }
  const Result found = on_host(problem);
  for (int t = 0; t < 3; ++t) {
    double y = 10 * x[t];
    for (int n = 0; n < 2; ++n) {
      h[n] = std::exp(-dt[t]) * h[n] + dt[t] * x[t] * B[2 * t + n];
      y += C[2 * t + n] * h[n];
    }
    EXPECT_FLOAT_EQ(found.y[t], static_cast<float>(y)) << t;
  }
  EXPECT_FLOAT_EQ(found.final_state[0], static_cast<float>(h[0]));
  EXPECT_FLOAT_EQ(found.final_state[1], static_cast<float>(h[1]));
}

TEST(SsdReference, KnowsSoftplusBiasLimitsAndGate) {
  // One token from an empty state: y = (dt x B C + D x) silu(z).
  const auto y_of = [](Extras extras, float dt, float bias) {
    extras.has_initial = false;
    extras.has_final = false;
    Problem problem(ICD_F32, {}, extras, 1);
    problem.x.set(0, 2);
    problem.dt.set(0, dt);
    problem.bias.set(0, bias);
    problem.B.set(0, 3);
    problem.C.set(0, 5);
    problem.D.set(0, 7);
    problem.z.set(0, 1);
    return on_host(problem).y[0];
  };
  const Extras bare{.softplus = false, .has_D = false, .has_bias = false, .has_z = false};
  EXPECT_FLOAT_EQ(y_of(bare, 0.5F, 0), 15);
  Extras extras = bare;
  extras.has_D = true;
  EXPECT_FLOAT_EQ(y_of(extras, 0.5F, 0), 15 + 14);
  extras = bare;
  extras.has_bias = true;
  EXPECT_FLOAT_EQ(y_of(extras, 0.5F, 0.25F), 0.75F * 30);
  extras.softplus = true;
  EXPECT_FLOAT_EQ(y_of(extras, 0.5F, 0.25F), std::log1p(std::exp(0.75F)) * 30);
  extras = bare;
  extras.has_z = true;
  EXPECT_FLOAT_EQ(y_of(extras, 0.5F, 0), 15 / (1 + std::exp(-1.0F)));
  extras = bare;
  extras.dt_min = 0.125F;
  extras.dt_max = 0.25F;
  EXPECT_FLOAT_EQ(y_of(extras, 0.5F, 0), 0.25F * 30);
  EXPECT_FLOAT_EQ(y_of(extras, 0.0625F, 0), 0.125F * 30);
  EXPECT_FLOAT_EQ(y_of(extras, 0.1875F, 0), 0.1875F * 30);
  extras.dt_max = 0;  // no limits, whatever dt_min says
  EXPECT_FLOAT_EQ(y_of(extras, 0.0625F, 0), 0.0625F * 30);
  extras.dt_max = std::numeric_limits<float>::infinity();
  EXPECT_FLOAT_EQ(y_of(extras, 0.0625F, 0), 0.125F * 30);
  EXPECT_FLOAT_EQ(y_of(extras, 8, 0), 8 * 30);
}

TEST(SsdReference, GoesOnFromTheStateOfAnEarlierPart) {
  Problem whole(ICD_F32, {.batch = 2, .length = 9, .heads = 2, .head_dim = 3, .states = 5}, {}, 2);
  const Result expected = on_host(whole);

  // The same tokens in two calls: the second starts four tokens on, from the final state.
  HostArray state = whole.initial;
  HostArray y = poisoned_array(ICD_F32, whole.y.count());
  for (const auto& [first, count] : {std::pair<std::int64_t, std::int64_t>{0, 4}, {4, 5}}) {
    Ssd args = whole.host_args();
    args.y = whole.strided(y.data(), whole.shape.heads * whole.shape.head_dim);
    for (Strided* tensor : {&args.x, &args.dt, &args.z, &args.B, &args.C, &args.y}) {
      tensor->data = static_cast<float*>(tensor->data) + first * tensor->token;
    }
    args.length = count;
    args.initial_state = state.f32();
    args.final_state = state.f32();
    reference::ssd(args);
  }
  EXPECT_LT(relative_l2(y, expected.y), 1e-6);
  EXPECT_LT(relative_l2(state, expected.final_state), 1e-6);
}

TEST(SsdReference, RunsEverySequenceOfStartsByItself) {
  Shape shape{.batch = 4, .length = 11, .heads = 2, .head_dim = 2, .states = 3};
  shape.starts = {0, 5, 5, 6, 11};
  Problem all(ICD_BF16, shape, {}, 3);
  const Result expected = on_host(all);
  const std::int64_t state_size = shape.heads * shape.head_dim * shape.states;
  HostArray y = poisoned_array(ICD_BF16, all.y.count());
  HostArray state = poisoned_array(ICD_F32, all.final_state.count());
  for (std::size_t b = 0; b + 1 < shape.starts.size(); ++b) {
    Ssd args = all.host_args();
    args.y = all.strided(y.data(), shape.heads * shape.head_dim);
    for (Strided* tensor : {&args.x, &args.dt, &args.z, &args.B, &args.C, &args.y}) {
      tensor->data = static_cast<std::uint16_t*>(tensor->data) + shape.starts[b] * tensor->token;
    }
    args.batch = 1;
    args.length = shape.starts[b + 1] - shape.starts[b];
    args.starts = nullptr;
    args.initial_state += static_cast<std::int64_t>(b) * state_size;
    args.final_state = state.f32() + static_cast<std::int64_t>(b) * state_size;
    reference::ssd(args);
  }
  EXPECT_TRUE(y == expected.y);
  EXPECT_TRUE(state == expected.final_state);
}

TEST(SsdReference, HeadsOfAGroupShareBAndC) {
  // Four heads in two groups against four groups with B and C repeated.
  Problem grouped(ICD_F32, {.length = 5, .heads = 4, .head_dim = 2, .groups = 2, .states = 3}, {},
                  4);
  const Result expected = on_host(grouped);
  Problem repeated = grouped;
  repeated.shape.groups = 4;
  for (auto [from, to] : {std::pair{&grouped.B, &repeated.B}, {&grouped.C, &repeated.C}}) {
    *to = HostArray(ICD_F32, 5 * 4 * 3);
    for (std::int64_t t = 0; t < 5; ++t) {
      for (std::int64_t head = 0; head < 4; ++head) {
        for (std::int64_t n = 0; n < 3; ++n) {
          to->set((t * 4 + head) * 3 + n, (*from)[(t * 2 + head / 2) * 3 + n]);
        }
      }
    }
  }
  const Result found = on_host(repeated);
  EXPECT_TRUE(found.y == expected.y);
  EXPECT_TRUE(found.final_state == expected.final_state);
}

TEST(SsdReference, KeepsTheStateWhereThereAreNoTokens) {
  Problem problem(ICD_F16, {.batch = 2, .length = 0, .heads = 3, .head_dim = 2, .states = 2}, {},
                  5);
  EXPECT_TRUE(on_host(problem).final_state == problem.initial);
  problem.extras.has_initial = false;
  const HostArray zero(ICD_F32, problem.initial.count());
  EXPECT_TRUE(on_host(problem).final_state == zero);
}

// ---- without a device ----

TEST(Ssd, SucceedsOnNothing) {
  Problem problem(ICD_BF16, {.batch = 0, .length = 5, .heads = 3, .head_dim = 2, .states = 2}, {},
                  6);
  EXPECT_EQ(ssd(problem.host_args(), nullptr), cudaSuccess);
  problem.shape.batch = 2;
  problem.shape.heads = 0;
  EXPECT_EQ(ssd(problem.host_args(), nullptr), cudaSuccess);
}

TEST(Ssd, RefusesWhatMakesNoSense) {
  Problem problem(ICD_BF16, {.length = 2, .heads = 3, .head_dim = 2, .states = 2}, {}, 7);
  Ssd args = problem.host_args();
  args.groups = 2;  // does not divide 3 heads
  EXPECT_EQ(ssd(args, nullptr), cudaErrorInvalidValue);
}

// ---- on the device ----

class SsdOnDevice : public testing::DeviceTest {};

// The call on copies of a problem's tensors.
class OnDevice {
 public:
  explicit OnDevice(const Problem& problem)
      : problem_(problem),
        x_(problem.x, problem.extras.offset_bytes),
        dt_(problem.dt, problem.extras.offset_bytes),
        z_(problem.z, problem.extras.offset_bytes),
        B_(problem.B, problem.extras.offset_bytes),
        C_(problem.C, problem.extras.offset_bytes),
        A_(problem.A),
        D_(problem.D),
        bias_(problem.bias),
        initial_(problem.initial),
        starts_(problem.starts) {}

  Result run(SsdVariant variant) {
    DeviceArray y(poisoned_array(problem_.type, problem_.y.count()), problem_.extras.offset_bytes);
    DeviceArray state(poisoned_array(ICD_F32, problem_.final_state.count()));
    const Ssd args = this->args(y, state);
    return run(args, variant, y, state);
  }

  // The final state written over the initial one.
  Result run_in_place(SsdVariant variant) {
    DeviceArray y(poisoned_array(problem_.type, problem_.y.count()), problem_.extras.offset_bytes);
    DeviceArray state(problem_.initial);
    Ssd args = this->args(y, state);
    args.initial_state = state.f32();
    return run(args, variant, y, state);
  }

  bool supports(SsdVariant variant) {
    DeviceArray y(problem_.y, problem_.extras.offset_bytes);
    return ssd_supports(args(y, initial_), variant);
  }

 private:
  Ssd args(DeviceArray& y, DeviceArray& state) {
    return problem_.args(x_, dt_, z_, B_, C_, y, A_, D_, bias_, initial_, state, starts_);
  }

  static Result run(Ssd args, SsdVariant variant, DeviceArray& y, DeviceArray& state) {
    // Poison: what a segment reads has to have been written by this call.
    DeviceArray workspace(poisoned_array(ICD_F32, (ssd_workspace(args, variant) + 3) / 4));
    args.workspace = workspace.data();
    EXPECT_EQ(ssd(args, nullptr, variant), cudaSuccess);
    Result result{y.back(), state.back()};
    workspace.back();  // its guards
    return result;
  }

  const Problem& problem_;
  DeviceArray x_, dt_, z_, B_, C_, A_, D_, bias_, initial_, starts_;
};

// plain keeps f32 throughout. The others round the masked products C B, the states and the
// weighted x to the type before they multiply them, each by up to 2^-9 (bf16), independently of
// each other: about 1.1e-3 a source in relative L2, three of them and the output's 1.7e-3.
double y_tolerance(std::int32_t type, SsdVariant variant) {
  if (variant == SsdVariant::plain) return testing::tolerance(type);
  return type == ICD_F32 ? 2e-5 : type == ICD_F16 ? 8e-4 : 5e-3;
}
// States of f32 remember up to some 2000 tokens here, and a decay is rounded by up to 2^-24 a
// token.
double state_tolerance(std::int32_t type, SsdVariant variant) {
  if (variant == SsdVariant::plain || type == ICD_F32) return 1e-4;
  return type == ICD_F16 ? 5e-4 : 4e-3;
}

// Every variant that takes the problem agrees with the reference, and with itself. Returns how
// many did.
int expect_agreement(Problem& problem) {
  const Result expected = on_host(problem);
  OnDevice device(problem);
  int ran = 0;
  for (const auto& [variant, name] : kSsdVariants) {
    if (!device.supports(variant)) continue;
    ++ran;
    ::testing::Message what;
    what << name << ": " << problem;
    const Result found = device.run(variant);
    const double off = relative_l2(found.y, expected.y);
    EXPECT_LT(off, y_tolerance(problem.type, variant)) << "y, " << what;
    if (problem.extras.has_final) {
      EXPECT_LT(relative_l2(found.final_state, expected.final_state),
                state_tolerance(problem.type, variant))
          << "final state, " << what;
    } else {
      EXPECT_TRUE(found.final_state == expected.final_state) << "poison, " << what;
    }
    const Result again = device.run(variant);
    EXPECT_TRUE(again.y == found.y && again.final_state == found.final_state)
        << "another result the second time, " << what;
    if (::testing::Test::HasFatalFailure()) break;
  }
  return ran;
}

TEST_F(SsdOnDevice, RunsAnySize) {
  std::uint64_t seed = 10;
  for (const std::int32_t type : kTypes) {
    for (const Shape& shape :
         {Shape{}, Shape{.length = 0, .heads = 2, .head_dim = 3, .states = 5},
          Shape{.batch = 2, .length = 1, .heads = 3, .head_dim = 7},
          Shape{.length = 17, .heads = 2, .head_dim = 16, .states = 16},
          Shape{.length = 33, .heads = 4, .head_dim = 17, .groups = 2, .states = 31},
          Shape{.length = 15, .heads = 3, .head_dim = 5, .groups = 3, .states = 33},
          Shape{.length = 20, .heads = 1, .head_dim = 65, .states = 65},
          Shape{.length = 16, .heads = 2, .head_dim = 256, .states = 129},
          Shape{.batch = 3, .length = 40, .heads = 2, .head_dim = 12, .states = 256}}) {
      Problem problem(type, shape, {}, ++seed);
      expect_agreement(problem);
    }
  }
}

TEST_F(SsdOnDevice, TakesEveryOptionalFieldOrNot) {
  std::uint64_t seed = 40;
  for (const Shape& shape :
       {Shape{.batch = 2, .length = 21, .heads = 2, .head_dim = 9, .states = 20},
        Shape{.batch = 2, .length = 85, .heads = 2, .head_dim = 64, .states = 128}}) {
    for (const std::int32_t type : kTypes) {
      for (const Extras& extras :
           {Extras{.softplus = false, .dt_min = 0.01F, .dt_max = 1, .log_rate = -3, .dt = 1},
            Extras{.has_D = false}, Extras{.has_bias = false}, Extras{.has_z = false},
            Extras{.has_initial = false}, Extras{.has_final = false},
            Extras{.dt_min = 0.05F, .dt_max = 0.1F},
            Extras{.has_D = false, .has_bias = false, .has_z = false, .has_initial = false}}) {
        Problem problem(type, shape, extras, ++seed);
        expect_agreement(problem);
      }
    }
  }
}

TEST_F(SsdOnDevice, TakesAnyStrideAndAddress) {
  std::uint64_t seed = 80;
  for (const Shape& shape :
       {Shape{.batch = 2, .length = 19, .heads = 2, .head_dim = 10, .states = 12},
        Shape{.batch = 2, .length = 70, .heads = 2, .head_dim = 64, .states = 64}}) {
    for (const std::int32_t type : kTypes) {
      for (const Extras& extras : {Extras{.padding = 1}, Extras{.padding = 8}, Extras{.channel = 3},
                                   Extras{.offset_bytes = 4}, Extras{.offset_bytes = 16},
                                   Extras{.padding = 24, .offset_bytes = 48},
                                   Extras{.padding = 5, .channel = 2, .offset_bytes = 12}}) {
        Problem problem(type, shape, extras, ++seed);
        expect_agreement(problem);
      }
    }
  }
}

TEST_F(SsdOnDevice, RunsChunksOfAnyLength) {
  std::uint64_t seed = 200;
  for (const std::int32_t type : {ICD_F16, ICD_BF16}) {
    for (const std::int64_t length :
         {0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 96, 97, 128, 200, 513}) {
      Problem problem(type,
                      {.batch = 2, .length = length, .heads = 2, .head_dim = 64, .states = 128}, {},
                      ++seed);
      EXPECT_GE(expect_agreement(problem), 3) << problem;
    }
  }
}

TEST_F(SsdOnDevice, RunsChunksOfAnyHeadsAndGroups) {
  std::uint64_t seed = 300;
  for (const std::int32_t type : {ICD_F16, ICD_BF16}) {
    for (const std::int64_t states : {64, 128}) {
      for (const Shape& shape :
           {Shape{.heads = 1, .head_dim = 64}, Shape{.heads = 5, .head_dim = 64},
            Shape{.heads = 6, .head_dim = 64, .groups = 2},
            Shape{.heads = 4, .head_dim = 64, .groups = 2},
            Shape{.heads = 3, .head_dim = 64, .groups = 3}, Shape{.heads = 1, .head_dim = 128},
            Shape{.heads = 3, .head_dim = 128, .groups = 3}, Shape{.heads = 2, .head_dim = 192},
            Shape{.heads = 3, .head_dim = 256}}) {
        Shape sized = shape;
        sized.batch = 2;
        sized.length = 100;
        sized.states = states;
        Problem problem(type, sized, {}, ++seed);
        EXPECT_GE(expect_agreement(problem), 3) << problem;
      }
    }
  }
}

TEST_F(SsdOnDevice, RunsSequencesOfEveryLengthInOneCall) {
  std::uint64_t seed = 400;
  for (const std::int32_t type : kTypes) {
    for (const std::int64_t head_dim : {64, 20}) {
      Shape shape{.heads = 2, .head_dim = head_dim, .groups = 1, .states = 128};
      shape.starts = {0, 0, 1, 33, 33, 97, 98, 300, 512, 531};
      shape.batch = static_cast<std::int64_t>(shape.starts.size()) - 1;
      shape.length = shape.starts.back();
      Problem problem(type, shape, {.padding = 8}, ++seed);
      expect_agreement(problem);
    }
  }
}

// More sequences than run at a time: some whole, and the rest cut into segments.
TEST_F(SsdOnDevice, FillsTheDeviceAndCutsWhatIsLeft) {
  for (const std::int64_t batch : {300, 140}) {
    Problem problem(ICD_BF16,
                    {.batch = batch, .length = 300, .heads = 2, .head_dim = 64, .states = 128},
                    {.has_initial = false}, 450);
    EXPECT_EQ(expect_agreement(problem), 4) << problem;
  }
}

// The error of rounded states does not grow with their age: what is carried stays f32.
TEST_F(SsdOnDevice, RemembersForLong) {
  std::uint64_t seed = 500;
  for (const std::int32_t type : kTypes) {
    for (const Extras& extras : {Extras{.softplus = false,
                                .has_bias = false,
                                .has_initial = false,
                                .dt_min = 1e-3F,
                                .dt_max = 1e-2F,
                                .log_rate = -3},
                                 Extras{.log_rate = -6}, Extras{.log_rate = 3}}) {
      Problem problem(type, {.length = 4096, .heads = 2, .head_dim = 64, .states = 128}, extras,
                      ++seed);
      expect_agreement(problem);
    }
  }
}

TEST_F(SsdOnDevice, WritesTheFinalStateOverTheInitialOne) {
  for (const std::int32_t type : kTypes) {
    Problem problem(type, {.batch = 2, .length = 150, .heads = 2, .head_dim = 64, .states = 128},
                    {}, 600);
    OnDevice device(problem);
    for (const auto& [variant, name] : kSsdVariants) {
      if (!device.supports(variant)) continue;
      const Result apart = device.run(variant);
      const Result in_place = device.run_in_place(variant);
      EXPECT_TRUE(apart.y == in_place.y) << name << ": " << problem;
      EXPECT_TRUE(apart.final_state == in_place.final_state) << name << ": " << problem;
    }
  }
}

// Every infinity as a NaN: sums in another order turn one into the other.
HostArray without_infinities(HostArray array) {
  for (std::int64_t i = 0; i < array.count(); ++i) {
    if (!std::isfinite(array[i])) array.set(i, std::numeric_limits<float>::quiet_NaN());
  }
  return array;
}

// Infinity times the 0 above a mask's diagonal would spoil tokens that come before it.
TEST_F(SsdOnDevice, SpoilsNoMoreThanTheReference) {
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const Shape shape{.length = 100, .heads = 2, .head_dim = 64, .states = 128};
  std::uint64_t seed = 700;
  for (const std::int32_t type : kTypes) {
    for (const float value : {kNaN, kInfinity}) {
      for (const std::int64_t token : {0, 9, 40, 63, 99}) {
        for (const char tensor : std::string("xzBCd")) {
          if (tensor == 'd' && value == kInfinity) continue;  // a decay of infinity minus itself
          Problem problem(type, shape, {}, ++seed);
          HostArray& array = tensor == 'x'   ? problem.x
                             : tensor == 'z' ? problem.z
                             : tensor == 'B' ? problem.B
                             : tensor == 'C' ? problem.C
                                             : problem.dt;
          array.set(token * (array.count() / shape.length) + (tensor == 'd' ? 1 : 3), value);
          const Result expected = on_host(problem);
          OnDevice device(problem);
          for (const auto& [variant, name] : kSsdVariants) {
            if (!device.supports(variant)) continue;
            const Result found = device.run(variant);
            EXPECT_LT(relative_l2(without_infinities(found.y), without_infinities(expected.y)),
                      y_tolerance(type, variant))
                << "y, " << name << ", " << value << " in " << tensor << " at " << token << ": "
                << problem;
            EXPECT_LT(relative_l2(without_infinities(found.final_state),
                                  without_infinities(expected.final_state)),
                      state_tolerance(type, variant))
                << "final state, " << name << ", " << value << " in " << tensor << " at " << token
                << ": " << problem;
          }
        }
      }
    }
  }
}

TEST_F(SsdOnDevice, RefusesAVariantThatDoesNotTakeTheArguments) {
  Problem problem(ICD_F32, {.length = 8, .heads = 2, .head_dim = 64, .states = 128}, {}, 800);
  OnDevice device(problem);
  EXPECT_FALSE(device.supports(SsdVariant::chunked));
  EXPECT_FALSE(device.supports(SsdVariant::split));
  EXPECT_EQ(ssd(problem.host_args(), nullptr, SsdVariant::chunked), cudaErrorNotSupported);
}

}  // namespace
}  // namespace icd
