#include "kernels/mamba3.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <numbers>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "kernels/reference.h"
#include "support/arrays.h"
#include "support/device.h"
#include "support/device_arrays.h"
#include "support/naive_mamba3.h"

namespace icd {
namespace {

using testing::DeviceArray;
using testing::HostArray;
using testing::relative_l2;
using testing::tolerance;

struct Case {
  std::int64_t batch = 2;
  std::int64_t length = 19;
  std::int64_t heads = 4;
  std::int64_t head_dim = 8;
  std::int64_t groups = 2;
  std::int64_t states = 16;
  std::int64_t rank = 1;
  std::int64_t angles = 4;
  std::int32_t type = ICD_F32;
  bool is_mimo = false;
  bool has_options = true;  // z and D
  bool has_norm = false;
  bool has_state = true;
  std::int64_t channel_stride = 1;  // of all (batch, token, channel) tensors
  std::int64_t padding = 0;         // elements between their rows
  std::int64_t offset = 0;          // elements that every array is off its alignment
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "batch " << c.batch << ", length " << c.length << ", heads " << c.heads
             << ", head_dim " << c.head_dim << ", groups " << c.groups << ", states " << c.states
             << ", rank " << c.rank << ", angles " << c.angles << ", type " << c.type << ", mimo "
             << c.is_mimo << ", options " << c.has_options << ", norm " << c.has_norm << ", state "
             << c.has_state << ", channel stride " << c.channel_stride << ", padding " << c.padding
             << ", offset " << c.offset;
}

using Arrays = std::map<std::string, HostArray>;

/// Where an array of that name lies; nullptr if the call has none.
using Locate = std::function<void*(const std::string&)>;

/// A call and what its arrays hold.
struct Call {
  explicit Call(const Case& chosen) : c(chosen), random(3) {
    const std::int64_t bc = c.rank * c.groups * c.states;
    tensor("x", c.type, c.heads * c.head_dim);
    if (c.has_options) tensor("z", c.type, c.heads * c.head_dim);
    tensor("B", c.type, bc);
    tensor("C", c.type, bc);
    tensor("y", c.type, c.heads * c.head_dim);
    at("y") = testing::poisoned_array(c.type, at("y").count());
    between(tensor("dt", ICD_F32, c.heads), 0.001, 0.5);
    between(tensor("decay", ICD_F32, c.heads), -0.6, 0);
    between(tensor("trap", ICD_F32, c.heads), 0, 1);
    between(tensor("turn", ICD_F32, c.angles), -std::numbers::pi, std::numbers::pi);
    array("B_bias", c.heads * c.rank * c.states);
    array("C_bias", c.heads * c.rank * c.states);
    if (c.has_options) array("D", c.heads);
    if (c.is_mimo) {
      for (const char* name : {"mimo_x", "mimo_z", "mimo_o"}) {
        array(name, c.heads * c.rank * c.head_dim);
      }
    }
    if (c.has_norm) array("norm", c.heads * c.head_dim);
    if (c.has_state) {
      array("state", c.batch * c.heads * c.head_dim * c.states);
      array("last_k", c.batch * c.heads * c.rank * c.states);
      array("last_v", c.batch * c.heads * c.rank * c.head_dim);
      between(array("phase", c.batch * c.heads * c.angles), -3, 3);
    }
  }

  Mamba3Scan args(const Locate& locate) const {
    Mamba3Scan a{};
    a.batch = c.batch;
    a.length = c.length;
    a.heads = c.heads;
    a.head_dim = c.head_dim;
    a.groups = c.groups;
    a.states = c.states;
    a.rank = c.rank;
    a.angles = c.angles;
    a.type = c.type;
    a.is_mimo = c.is_mimo;
    a.norm_eps = 1e-5F;
    const auto strided = [&](const char* name, std::int64_t channels) {
      const std::int64_t row = channels * c.channel_stride + c.padding;
      return Strided{locate(name), c.length * row, row, c.channel_stride};
    };
    const auto floats = [&](const char* name) { return static_cast<float*>(locate(name)); };
    a.x = strided("x", c.heads * c.head_dim);
    a.z = strided("z", c.heads * c.head_dim);
    a.B = strided("B", c.rank * c.groups * c.states);
    a.C = strided("C", c.rank * c.groups * c.states);
    a.y = strided("y", c.heads * c.head_dim);
    a.dt = strided("dt", c.heads);
    a.decay = strided("decay", c.heads);
    a.trap = strided("trap", c.heads);
    a.turn = strided("turn", c.angles);
    a.B_bias = floats("B_bias");
    a.C_bias = floats("C_bias");
    a.D = floats("D");
    a.mimo_x = floats("mimo_x");
    a.mimo_z = floats("mimo_z");
    a.mimo_o = floats("mimo_o");
    a.norm = floats("norm");
    a.state = floats("state");
    a.last_k = floats("last_k");
    a.last_v = floats("last_v");
    a.phase = floats("phase");
    return a;
  }

  HostArray& at(const std::string& name) { return arrays.at(name); }

  HostArray& tensor(const std::string& name, std::int32_t type, std::int64_t channels) {
    const std::int64_t row = channels * c.channel_stride + c.padding;
    return make(name, type, c.batch * c.length * row);
  }
  HostArray& array(const std::string& name, std::int64_t count) {
    return make(name, ICD_F32, count);
  }
  HostArray& make(const std::string& name, std::int32_t type, std::int64_t count) {
    return arrays.emplace(name, testing::normal_array(type, count, random, 0.5)).first->second;
  }
  void between(HostArray& array, double least, double most) {
    for (std::int64_t i = 0; i < array.count(); ++i) {
      const double part = 0.5 + 0.5 * std::tanh(random.normal());
      array.set(i, static_cast<float>(least + (most - least) * part));
    }
  }

  Case c;
  Random random;
  Arrays arrays;
};

Arrays by_reference(const Call& call) {
  Arrays arrays = call.arrays;
  const Mamba3Scan args = call.args([&](const std::string& name) -> void* {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : found->second.data();
  });
  EXPECT_EQ(why_not(args), "") << call.c;
  reference::mamba3(args);
  return arrays;
}

Arrays on_device(const Call& call) {
  std::map<std::string, DeviceArray> arrays;
  for (const auto& [name, array] : call.arrays) {
    arrays.try_emplace(name, array, call.c.offset * element_bytes(array.type()));
  }
  const Mamba3Scan args = call.args([&](const std::string& name) -> void* {
    const auto found = arrays.find(name);
    return found == arrays.end() ? nullptr : found->second.data();
  });
  check(mamba3(args, nullptr), "mamba3");
  Arrays back;
  for (auto& [name, array] : arrays) back.emplace(name, array.back());
  return back;
}

/// The largest difference of two arrays of angles.
double largest_turn(const HostArray& found, const HostArray& expected) {
  double largest = 0;
  for (std::int64_t i = 0; i < expected.count(); ++i) {
    const double turn = double{found[i]} - double{expected[i]};
    largest = std::max(largest, std::fabs(std::remainder(turn, 2 * std::numbers::pi)));
  }
  return largest;
}

void expect_agreement(const Arrays& found, const Arrays& expected, const Call& call,
                      double factor = 1) {
  SCOPED_TRACE(::testing::Message() << call.c);
  // f32 phases differ by 2e-7 after any number of tokens, and products over the states by as much
  // as their sums do.
  EXPECT_LT(relative_l2(found.at("y"), expected.at("y")), factor * tolerance(call.c.type)) << "y";
  if (!call.c.has_state) return;
  for (const char* name : {"state", "last_k", "last_v"}) {
    EXPECT_LT(relative_l2(found.at(name), expected.at(name)), factor * tolerance(ICD_F32)) << name;
  }
  EXPECT_LT(largest_turn(found.at("phase"), expected.at("phase")), 1e-5) << "phase";
}

void expect_device_agrees(const Case& c) {
  const Call call(c);
  expect_agreement(on_device(call), by_reference(call), call);
}

// Two tokens of one head of one channel and two states, which turn together.
TEST(Mamba3Reference, ComputesTwoTokensByHand) {
  std::vector<float> x = {3, 0};
  std::vector<float> B = {1.5F, 0, 5, 7};
  std::vector<float> C = {1, 3, 1, 0};
  std::vector<float> dt = {0.5F, 1};
  std::vector<float> decay = {0, std::log(0.5F)};
  std::vector<float> trap = {0.25F, 0};
  std::vector<float> turn = {std::numbers::pi_v<float>, 0};  // to a right angle, and on by nothing
  std::vector<float> B_bias = {0.5F, 0};
  std::vector<float> C_bias = {0, 0};
  std::vector<float> D = {10};
  std::vector<float> y = {NAN, NAN};
  Mamba3Scan a{};
  a.batch = a.heads = a.head_dim = a.groups = a.rank = a.angles = 1;
  a.length = a.states = 2;
  a.x = testing::packed(x.data(), 2, 1);
  a.B = testing::packed(B.data(), 2, 2);
  a.C = testing::packed(C.data(), 2, 2);
  a.y = testing::packed(y.data(), 2, 1);
  a.dt = testing::packed(dt.data(), 2, 1);
  a.decay = testing::packed(decay.data(), 2, 1);
  a.trap = testing::packed(trap.data(), 2, 1);
  a.turn = testing::packed(turn.data(), 2, 1);
  a.B_bias = B_bias.data();
  a.C_bias = C_bias.data();
  a.D = D.data();
  ASSERT_EQ(why_not(a), "");
  reference::mamba3(a);
  // k = (0, 2), q = (-3, 1); h = 0.25 0.5 k 3 = (0, 0.75); y = q h + 10 3
  EXPECT_NEAR(y[0], 30.75, 1e-5);
  // h = 0.5 (0, 0.75) + 1 1 0.5 (0, 2) 3 = (0, 3.375), nothing of this token; q = (0, 1)
  EXPECT_NEAR(y[1], 3.375, 1e-5);
}

/// The scan's arguments from a module's projections, as the module has them before it.
void expect_module_agrees(testing::Mamba3Sizes s) {
  constexpr std::int64_t kLength = 9;
  s.d_model = s.d_inner();
  testing::TensorMaker maker(4);
  testing::make_mamba3(maker, "m.", s);
  testing::NaiveTensors tensors = maker.take();
  // out_proj is left out: what the scan computes is what the module returns.
  testing::NaiveTensor& out = tensors.at("m.out_proj.weight");
  for (std::size_t i = 0; i < out.values.size(); ++i) {
    out.values[i] = i % static_cast<std::size_t>(s.d_inner() + 1) == 0 ? 1 : 0;
  }
  const testing::Rows hidden =
      testing::random_rows(5, kLength, static_cast<std::size_t>(s.d_model));
  const testing::Scope mixer(tensors, "m.");
  const testing::Rows expected = testing::naive_mamba3(hidden, mixer, s);

  Case c;
  c.batch = 1;
  c.length = kLength;
  c.heads = s.heads;
  c.head_dim = s.headdim;
  c.groups = s.groups;
  c.states = s.d_state;
  c.rank = s.rank;
  c.angles = s.angles();
  c.is_mimo = s.mimo();
  c.has_norm = s.outproj_norm;
  c.has_state = false;
  Call call(c);
  const auto fill = [&](const std::string& name, const std::string& from) {
    const testing::NaiveTensor& tensor = mixer.at(from);
    ASSERT_EQ(call.at(name).count(), static_cast<std::int64_t>(tensor.values.size())) << name;
    for (std::size_t i = 0; i < tensor.values.size(); ++i) {
      call.at(name).set(static_cast<std::int64_t>(i), static_cast<float>(tensor.values[i]));
    }
  };
  fill("B_bias", "B_bias");
  fill("C_bias", "C_bias");
  fill("D", "D");
  if (s.mimo()) {
    for (const char* name : {"mimo_x", "mimo_z", "mimo_o"}) fill(name, name);
  }
  if (s.outproj_norm) fill("norm", "norm.weight");
  const auto count = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  const testing::Rows projected = testing::linear(hidden, mixer, "in_proj");
  for (std::int64_t t = 0; t < kLength; ++t) {
    const testing::Row& row = projected[count(t)];
    const auto set = [&](const std::string& name, const testing::Row& values) {
      for (std::size_t i = 0; i < values.size(); ++i) {
        call.at(name).set(
            t * static_cast<std::int64_t>(values.size()) + static_cast<std::int64_t>(i),
            static_cast<float>(values[i]));
      }
    };
    const auto stretch = [&](std::int64_t first, std::int64_t size) {
      return testing::part(row, count(first), count(size));
    };
    const auto normed = [&](std::int64_t first, const std::string& norm) {
      testing::Row all;
      for (std::int64_t i = 0; i < s.rank * s.groups; ++i) {
        all = testing::joined(
            all, testing::rms_norm(stretch(first + i * s.d_state, s.d_state), &mixer.at(norm)));
      }
      return all;
    };
    const testing::Row dt = testing::map(
        testing::softplus, testing::sum(stretch(s.dt_row(), s.heads), mixer.at("dt_bias").values));
    const testing::Row a = testing::map(testing::softplus, stretch(s.A_row(), s.heads));
    set("z", stretch(0, s.d_inner()));
    set("x", stretch(s.x_row(), s.d_inner()));
    set("B", normed(s.B_row(), "B_norm.weight"));
    set("C", normed(s.C_row(), "C_norm.weight"));
    set("dt", dt);
    set("decay", testing::scaled(testing::product(dt, a), -1));
    set("trap", testing::map(testing::sigmoid, stretch(s.trap_row(), s.heads)));
    set("turn", testing::scaled(testing::map([](double v) { return std::tanh(v); },
                                             stretch(s.angle_row(), s.angles())),
                                std::numbers::pi));
  }
  const Arrays found = by_reference(call);
  HostArray module(ICD_F32, kLength * s.d_inner());
  for (std::int64_t i = 0; i < module.count(); ++i) {
    module.set(i, static_cast<float>(expected[count(i / s.d_inner())][count(i % s.d_inner())]));
  }
  EXPECT_LT(relative_l2(found.at("y"), module), 1e-6) << "rank " << s.rank;
}

TEST(Mamba3Reference, IsTheScanOfTheModule) {
  expect_module_agrees({});
  expect_module_agrees({.outproj_norm = true});
  expect_module_agrees({.rank = 4});
  expect_module_agrees({.groups = 1, .rank = 2, .rope_fraction = 1, .outproj_norm = true});
}

TEST(Mamba3Reference, ASequenceInTwoIsTheSequence) {
  for (const bool is_mimo : {false, true}) {
    for (const std::int64_t cut : {1, 4, 8}) {
      Case c;
      c.batch = 1;
      c.length = 9;
      c.is_mimo = is_mimo;
      c.rank = is_mimo ? 3 : 1;
      const Call whole(c);
      const Arrays expected = by_reference(whole);
      Arrays found = whole.arrays;
      for (const auto& [first, count] :
           {std::pair<std::int64_t, std::int64_t>{0, cut}, {cut, c.length - cut}}) {
        Mamba3Scan args = whole.args([&](const std::string& name) -> void* {
          return found.count(name) > 0 ? found.at(name).data() : nullptr;
        });
        args.length = count;
        for (Strided* tensor : {&args.x, &args.z, &args.B, &args.C, &args.y, &args.dt, &args.decay,
                                &args.trap, &args.turn}) {
          tensor->data = static_cast<float*>(tensor->data) + first * tensor->token;
        }
        reference::mamba3(args);
      }
      expect_agreement(found, expected, whole);
    }
  }
}

TEST(Mamba3Reference, IgnoresHowTensorsLie) {
  Case c;
  c.is_mimo = true;
  c.rank = 2;
  const Call packed(c);
  c.channel_stride = 3;
  c.padding = 5;
  Call spread(c);
  const auto spread_row = [&](const std::string& name, std::int64_t channels) {
    const HostArray& from = packed.arrays.at(name);
    for (std::int64_t i = 0; i < from.count(); ++i) {
      spread.at(name).set(
          i / channels * (channels * c.channel_stride + c.padding) + i % channels * 3, from[i]);
    }
  };
  const std::int64_t inner = c.heads * c.head_dim;
  const std::int64_t bc = c.rank * c.groups * c.states;
  for (const auto& [name, channels] : std::map<std::string, std::int64_t>{{"x", inner},
                                                                          {"z", inner},
                                                                          {"B", bc},
                                                                          {"C", bc},
                                                                          {"dt", c.heads},
                                                                          {"decay", c.heads},
                                                                          {"trap", c.heads},
                                                                          {"turn", c.angles}}) {
    spread_row(name, channels);
  }
  for (auto& [name, array] : spread.arrays) {
    if (array.count() == packed.arrays.at(name).count()) array = packed.arrays.at(name);
  }
  const Arrays expected = by_reference(packed);
  const Arrays found = by_reference(spread);
  EXPECT_TRUE(found.at("state") == expected.at("state"));
  for (std::int64_t i = 0; i < expected.at("y").count(); ++i) {
    ASSERT_EQ(found.at("y")[i / inner * (inner * 3 + 5) + i % inner * 3], expected.at("y")[i]);
  }
}

TEST(Mamba3, SucceedsOnNothing) {
  for (const auto size : {&Mamba3Scan::batch, &Mamba3Scan::length, &Mamba3Scan::heads}) {
    Mamba3Scan a{};
    a.batch = a.length = a.heads = 3;
    a.*size = 0;
    a.head_dim = a.groups = a.states = a.rank = 1;
    EXPECT_EQ(mamba3(a, nullptr), cudaSuccess);
  }
  EXPECT_EQ(mamba3(Mamba3Scan{}, nullptr), cudaErrorInvalidValue);
}

using Mamba3OnDevice = testing::DeviceTest;

TEST_F(Mamba3OnDevice, AgreesWithEveryOption) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    for (const bool is_mimo : {false, true}) {
      for (const bool has_options : {false, true}) {
        for (const bool has_norm : {false, true}) {
          for (const bool has_state : {false, true}) {
            Case c;
            c.type = type;
            c.is_mimo = is_mimo;
            c.rank = is_mimo ? 4 : 1;
            c.has_options = has_options;
            c.has_norm = has_norm;
            c.has_state = has_state;
            expect_device_agrees(c);
          }
        }
      }
    }
  }
}

TEST_F(Mamba3OnDevice, AgreesAtEverySize) {
  struct Size {
    std::int64_t length;
    std::int64_t head_dim;
    std::int64_t states;
    std::int64_t rank;
    std::int64_t angles;
  };
  for (const Size& size : std::vector<Size>{{1, 1, 1, 1, 0},
                                            {1, 64, 128, 1, 32},
                                            {33, 64, 128, 1, 64},
                                            {20, 64, 128, 4, 32},
                                            {7, 5, 7, 3, 3},
                                            {40, 33, 66, 1, 33},
                                            {5, 100, 129, 2, 20},
                                            {17, 200, 3, 2, 1},
                                            {17, 256, 2, 8, 1},
                                            {9, 128, 256, 1, 128},
                                            {33, 1, 5, 1, 2},
                                            {4, 1, 256, 8, 128},
                                            {4, 256, 256, 8, 128}}) {
    for (const bool has_norm : {false, true}) {
      Case c;
      c.batch = 1;
      c.heads = 2;
      c.groups = 1;
      c.length = size.length;
      c.head_dim = size.head_dim;
      c.states = size.states;
      c.rank = size.rank;
      c.angles = size.angles;
      c.is_mimo = size.rank > 1;
      c.has_norm = has_norm;
      expect_device_agrees(c);
    }
  }
}

// Few heads are cut into more blocks than many are.
TEST_F(Mamba3OnDevice, AgreesForManyHeads) {
  Case c;
  c.batch = 4;
  c.heads = 72;
  c.length = 5;
  c.head_dim = 64;
  c.states = 128;
  c.angles = 32;
  c.type = ICD_BF16;
  expect_device_agrees(c);
  c.head_dim = 65;
  expect_device_agrees(c);
}

TEST_F(Mamba3OnDevice, AgreesOverALongSequence) {
  Case c;
  c.batch = 1;
  c.length = 5003;
  c.angles = 8;
  expect_device_agrees(c);
}

TEST_F(Mamba3OnDevice, AgreesHoweverTensorsLie) {
  for (const std::int32_t type : {ICD_F32, ICD_BF16}) {
    for (const std::int64_t channel_stride : {1, 3}) {
      for (const std::int64_t offset : {0, 1}) {
        Case c;
        c.type = type;
        c.channel_stride = channel_stride;
        c.padding = 5;
        c.offset = offset;
        expect_device_agrees(c);
      }
    }
  }
}

TEST_F(Mamba3OnDevice, KeepsNaNAndInfinityWhereTheyBelong) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const std::int64_t states : {16, 18}) {  // 18: threads whose last states are padding
    for (const char* name : {"x", "z", "B", "C", "trap", "decay"}) {
      for (const float value : {kInfinity, -kInfinity, NAN}) {
        Case c;
        c.states = states;
        Call call(c);
        call.at(name).set(call.at(name).count() / 3, value);
        SCOPED_TRACE(::testing::Message() << name << " = " << value);
        expect_agreement(on_device(call), by_reference(call), call);
      }
    }
  }
}

TEST_F(Mamba3OnDevice, RepeatsItself) {
  Case c;
  c.length = 100;
  c.is_mimo = true;
  c.rank = 3;
  c.has_norm = true;
  const Call call(c);
  const Arrays once = on_device(call);
  const Arrays again = on_device(call);
  for (const auto& [name, array] : once) EXPECT_TRUE(array == again.at(name)) << name;
}

}  // namespace
}  // namespace icd
