#include "kernels/args.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <string>

namespace icd {
namespace {

// Where every pointer of a valid struct leads; nothing is read.
alignas(256) std::array<std::uint8_t, 1024> memory;

void* somewhere() { return memory.data(); }
float* floats() { return reinterpret_cast<float*>(memory.data()); }
std::int32_t* ints() { return reinterpret_cast<std::int32_t*>(memory.data()); }
Strided strided() { return {somewhere(), 64, 8, 1}; }
Strided strided_y() { return {memory.data() + 512, 64, 8, 1}; }

SelectiveScan scan() {
  SelectiveScan a{};
  a.batch = 2;
  a.length = 5;
  a.channels = 8;
  a.states = 16;
  a.type = ICD_BF16;
  a.u = a.dt = a.B = a.C = strided();
  a.y = strided_y();
  a.A = floats();
  return a;
}

CausalConv1d conv() {
  CausalConv1d a{};
  a.batch = 2;
  a.length = 5;
  a.channels = 8;
  a.width = 4;
  a.x = strided();
  a.y = strided_y();
  a.weight = somewhere();
  return a;
}

CausalConv1dUpdate conv_update() {
  CausalConv1dUpdate a{};
  a.batch = 2;
  a.channels = 8;
  a.width = 4;
  a.x = strided();
  a.y = strided();
  a.weight = somewhere();
  a.state = somewhere();
  a.state_slot = 24;
  a.state_channel = 3;
  a.kept = 3;
  return a;
}

StateUpdate update() {
  StateUpdate a{};
  a.batch = 2;
  a.channels = 8;
  a.states = 16;
  a.u = a.dt = a.B = a.C = a.y = strided();
  a.A = floats();
  a.state = somewhere();
  return a;
}

HeadStateUpdate head_update() {
  HeadStateUpdate a{};
  a.batch = 2;
  a.heads = 6;
  a.head_dim = 4;
  a.groups = 3;
  a.states = 16;
  a.x = a.dt = a.B = a.C = a.y = strided();
  a.A = floats();
  a.state = somewhere();
  return a;
}

Ssd ssd() {
  Ssd a{};
  a.batch = 2;
  a.length = 5;
  a.heads = 6;
  a.head_dim = 4;
  a.groups = 3;
  a.states = 16;
  a.x = a.dt = a.B = a.C = strided();
  a.y = strided_y();
  a.A = floats();
  return a;
}

Mamba3Scan mamba3() {
  Mamba3Scan a{};
  a.batch = 2;
  a.length = 5;
  a.heads = 6;
  a.head_dim = 4;
  a.groups = 3;
  a.states = 16;
  a.rank = 2;
  a.angles = 8;
  a.is_mimo = 1;
  a.x = a.B = a.C = a.dt = a.decay = a.trap = a.turn = strided();
  a.y = strided_y();
  a.B_bias = a.C_bias = a.mimo_x = a.mimo_z = a.mimo_o = floats();
  return a;
}

RmsNorm norm() {
  RmsNorm a{};
  a.rows = 3;
  a.columns = 8;
  a.x = somewhere();
  a.y = somewhere();
  a.x_row = a.z_row = a.y_row = 8;
  return a;
}

SkipZeroGemv gemv() {
  SkipZeroGemv a{};
  a.rows = 3;
  a.columns = 8;
  a.W = a.x = a.y = somewhere();
  return a;
}

// What why_not() says of a valid struct with one defect.
template <typename Args>
std::string with(Args args, const std::function<void(Args&)>& defect) {
  defect(args);
  return why_not(args);
}

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

TEST(WhyNot, IsEmptyForWhatIsValid) {
  EXPECT_EQ(why_not(scan()), "");
  EXPECT_EQ(why_not(conv()), "");
  EXPECT_EQ(why_not(conv_update()), "");
  EXPECT_EQ(why_not(update()), "");
  EXPECT_EQ(why_not(head_update()), "");
  EXPECT_EQ(why_not(ssd()), "");
  EXPECT_EQ(why_not(mamba3()), "");
  EXPECT_EQ(why_not(norm()), "");
  EXPECT_EQ(why_not(gemv()), "");
}

TEST(WhyNot, NeedsNoPointersWhereThereIsNothingToDo) {
  SelectiveScan a{};
  a.states = 1;
  for (auto size : {&SelectiveScan::batch, &SelectiveScan::length, &SelectiveScan::channels}) {
    a.batch = a.length = a.channels = 7;
    a.*size = 0;
    EXPECT_EQ(why_not(a), "");
  }
  CausalConv1d b{};
  b.width = 4;
  b.length = 9;
  EXPECT_EQ(why_not(b), "");
  CausalConv1dUpdate c{};
  c.width = 4;
  c.kept = 3;
  c.batch = 2;
  EXPECT_EQ(why_not(c), "");
  StateUpdate d{};
  d.states = 16;
  d.batch = 2;
  EXPECT_EQ(why_not(d), "");
  d.channels = 5;
  d.active = ints();  // of which there are none
  EXPECT_EQ(why_not(d), "");
  HeadStateUpdate e{};
  e.groups = e.states = 1;
  e.batch = 2;
  e.heads = 4;
  EXPECT_EQ(why_not(e), "");
  Ssd f{};
  f.groups = f.states = f.head_dim = 1;
  f.batch = f.length = 3;
  EXPECT_EQ(why_not(f), "");
  Mamba3Scan g{};
  g.groups = g.states = g.head_dim = g.rank = 1;
  g.batch = g.length = 3;
  EXPECT_EQ(why_not(g), "");
  RmsNorm h{};
  h.columns = 4;
  EXPECT_EQ(why_not(h), "");
  SkipZeroGemv i{};
  i.columns = 4;
  EXPECT_EQ(why_not(i), "");
}

TEST(WhyNot, NamesASizeWithWhatItHoldsAndWhatWasExpected) {
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.states = 0; }),
            "selective_scan: states is 0, expected 1 to 256");
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.states = 257; }),
            "selective_scan: states is 257, expected 1 to 256");
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.batch = -1; }),
            "selective_scan: batch is -1, expected at least 0");
  EXPECT_EQ(with<CausalConv1d>(conv(), [](auto& a) { a.width = 9; }),
            "causal_conv1d: width is 9, expected 1 to 8");
  EXPECT_EQ(with<CausalConv1dUpdate>(conv_update(), [](auto& a) { a.kept = 2; }),
            "causal_conv1d_update: kept is 2, expected at least 3");
  EXPECT_EQ(with<StateUpdate>(update(), [](auto& a) { a.state_layout = 2; }),
            "state_update: state_layout is 2, expected 0 to 1");
  EXPECT_EQ(with<HeadStateUpdate>(head_update(), [](auto& a) { a.groups = 0; }),
            "head_state_update: groups is 0, expected at least 1");
  EXPECT_EQ(with<Ssd>(ssd(), [](auto& a) { a.head_dim = 257; }),
            "ssd: head_dim is 257, expected 1 to 256");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.rank = 9; }),
            "mamba3: rank is 9, expected 1 to 8");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.is_mimo = 0; }),
            "mamba3: rank is 2, expected 1");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.angles = 9; }),
            "mamba3: angles is 9, expected 0 to 8");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.rows = -3; }),
            "rms_norm: rows is -3, expected at least 0");
  EXPECT_EQ(with<SkipZeroGemv>(gemv(), [](auto& a) { a.columns = -3; }),
            "skip_zero_gemv: columns is -3, expected at least 0");
}

TEST(WhyNot, NamesAnUnknownType) {
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.type = 3; }),
            "selective_scan: type is 3, expected 0 (f32), 1 (f16) or 2 (bf16)");
  EXPECT_EQ(with<HeadStateUpdate>(head_update(), [](auto& a) { a.state_type = -1; }),
            "head_state_update: state_type is -1, expected 0 (f32), 1 (f16) or 2 (bf16)");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.residual_type = 7; }),
            "rms_norm: residual_type is 7, expected 0 (f32), 1 (f16) or 2 (bf16)");
}

TEST(WhyNot, NamesGroupsThatDoNotDivide) {
  EXPECT_EQ(with<HeadStateUpdate>(head_update(), [](auto& a) { a.groups = 4; }),
            "head_state_update: groups is 4, expected a divisor of heads = 6");
  EXPECT_EQ(with<Ssd>(ssd(), [](auto& a) { a.groups = 4; }),
            "ssd: groups is 4, expected a divisor of heads = 6");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.groups = 5; }),
            "mamba3: groups is 5, expected a divisor of heads = 6");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.group = 3; }),
            "rms_norm: group is 3, expected 0 or a divisor of columns = 8");
}

TEST(WhyNot, NamesAPointerThatIsMissing) {
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.u.data = nullptr; }),
            "selective_scan: u.data is NULL, expected (batch, length, channels) = (2, 5, 8)");
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.B.data = nullptr; }),
            "selective_scan: B.data is NULL, expected (batch, length, states) = (2, 5, 16)");
  EXPECT_EQ(with<SelectiveScan>(scan(),
                                [](auto& a) {
                                  a.starts = ints();
                                  a.C.data = nullptr;
                                }),
            "selective_scan: C.data is NULL, expected (length, states) = (5, 16)");
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.A = nullptr; }),
            "selective_scan: A is NULL, expected (channels, states) = (8, 16)");
  EXPECT_EQ(with<CausalConv1d>(conv(), [](auto& a) { a.weight = nullptr; }),
            "causal_conv1d: weight is NULL, expected (channels, width) = (8, 4)");
  EXPECT_EQ(with<CausalConv1dUpdate>(conv_update(), [](auto& a) { a.state = nullptr; }),
            "causal_conv1d_update: state is NULL, expected (batch, channels, kept) = "
            "(2, 8, 3)");
  EXPECT_EQ(with<StateUpdate>(update(), [](auto& a) { a.state = nullptr; }),
            "state_update: state is NULL, expected (batch, channels, states) = (2, 8, 16)");
  EXPECT_EQ(with<HeadStateUpdate>(head_update(), [](auto& a) { a.x.data = nullptr; }),
            "head_state_update: x.data is NULL, expected (batch, heads head_dim) = (2, 24)");
  EXPECT_EQ(with<Ssd>(ssd(), [](auto& a) { a.dt.data = nullptr; }),
            "ssd: dt.data is NULL, expected (batch, length, heads) = (2, 5, 6)");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.mimo_z = nullptr; }),
            "mamba3: mimo_z is NULL, expected (heads, rank, head_dim) = (6, 2, 4)");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.turn.data = nullptr; }),
            "mamba3: turn.data is NULL, expected (batch, length, angles) = (2, 5, 8)");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.y = nullptr; }),
            "rms_norm: y is NULL, expected (rows, columns) = (3, 8)");
  EXPECT_EQ(with<SkipZeroGemv>(gemv(), [](auto& a) { a.W = nullptr; }),
            "skip_zero_gemv: W is NULL, expected (rows, columns) = (3, 8)");
}

TEST(WhyNot, NamesFieldsThatComeTogether) {
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.state = floats(); }),
            "mamba3: last_k is NULL, expected (batch, heads, rank, states) = (2, 6, 2, 16)");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(), [](auto& a) { a.phase = floats(); }),
            "mamba3: state is NULL, expected it to be given with last_k, last_v and phase");
  EXPECT_EQ(with<Mamba3Scan>(mamba3(),
                             [](auto& a) {
                               a.rank = 1;
                               a.is_mimo = 0;
                             }),
            "mamba3: is_mimo is 0, expected 1 where mimo_x, mimo_z or mimo_o is given");
  EXPECT_EQ(with<StateUpdate>(update(), [](auto& a) { a.active_count = 3; }),
            "state_update: active_count is 3, expected 0 where active is NULL");
}

// With no angles torch's phase and turn are empty tensors, whose data_ptr() is NULL.
TEST(WhyNot, AsksForNoEmptyArrays) {
  EXPECT_EQ(with<Mamba3Scan>(mamba3(),
                             [](auto& a) {
                               a.angles = 0;
                               a.turn = {};
                               a.state = a.last_k = a.last_v = floats();
                             }),
            "");
  EXPECT_EQ(with<CausalConv1dUpdate>(conv_update(),
                                     [](auto& a) {
                                       a.width = 1;
                                       a.kept = 0;
                                       a.state = nullptr;
                                     }),
            "");
}

TEST(WhyNot, NamesAnAddressBetweenElements) {
  const std::string fault =
      with<SelectiveScan>(scan(), [](auto& a) { a.dt.data = memory.data() + 1; });
  EXPECT_EQ(fault.find("selective_scan: dt.data is 0x"), 0U) << fault;
  EXPECT_NE(fault.find(", expected a multiple of 2"), std::string::npos) << fault;
  EXPECT_NE(with<SelectiveScan>(scan(), [](auto& a) { a.workspace = memory.data() + 16; })
                .find("expected a multiple of 256"),
            std::string::npos);
  EXPECT_NE(with<SkipZeroGemv>(gemv(), [](auto& a) { a.W = memory.data() + 8; })
                .find("expected a multiple of 16"),
            std::string::npos);
}

TEST(WhyNot, NamesAnOutputThatLiesOnItself) {
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.y.channel = 0; }),
            "selective_scan: y.channel is 0, expected a stride that keeps channels = 8 apart");
  EXPECT_EQ(with<CausalConv1dUpdate>(conv_update(), [](auto& a) { a.state_slot = 0; }),
            "causal_conv1d_update: state_slot is 0, expected at least kept = 3");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.y_row = 0; }),
            "rms_norm: y_row is 0, expected at least columns = 8");
  EXPECT_EQ(with<CausalConv1d>(conv(), [](auto& a) { a.y.data = a.x.data; })
                .find("causal_conv1d: y.data is 0x"),
            0U);
  EXPECT_NE(with<Ssd>(ssd(), [](auto& a) { a.y.data = a.C.data; }).find("expected another place"),
            std::string::npos);
  // An input may repeat itself, and nothing repeats along an axis of one.
  EXPECT_EQ(with<SelectiveScan>(scan(),
                                [](auto& a) {
                                  a.dt.channel = 0;
                                  a.batch = 1;
                                  a.y.batch = 0;
                                }),
            "");
}

TEST(WhyNot, NamesWhatIsTooLargeToCount) {
  EXPECT_EQ(
      with<SelectiveScan>(scan(), [](auto& a) { a.batch = a.length = kHuge; }),
      "selective_scan: u is too large, expected at most 2^62 bytes, (batch, length, channels) "
      "= (9223372036854775807, 9223372036854775807, 8)");
  EXPECT_EQ(with<SelectiveScan>(scan(), [](auto& a) { a.u.token = kHuge; }),
            "selective_scan: u is too large, expected it to end within 2^62 bytes, (batch, length, "
            "channels) = (2, 5, 8)");
  EXPECT_NE(with<HeadStateUpdate>(head_update(), [](auto& a) { a.head_dim = kHuge; })
                .find("head_state_update: x is too large"),
            std::string::npos);
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.x_row = kHuge; }),
            "rms_norm: x_row is 9223372036854775807, expected fewer than 2^60 elements");
  EXPECT_EQ(with<SelectiveScan>(scan(),
                                [](auto& a) {
                                  a.starts = ints();
                                  a.length = std::int64_t{1} << 31;
                                }),
            "selective_scan: length is 2147483648, expected at most 2147483647 where starts is "
            "given");
}

TEST(WhyNot, NamesLimitsThatExcludeEachOther) {
  EXPECT_EQ(with<Ssd>(ssd(), [](auto& a) { a.dt_min = 0.5F; }),
            "ssd: dt_max is 0, expected at least dt_min = 0.5");
  EXPECT_EQ(with<Ssd>(ssd(), [](auto& a) { a.dt_max = NAN; }),
            "ssd: dt_max is nan, expected at least dt_min = 0");
  EXPECT_EQ(with<RmsNorm>(norm(), [](auto& a) { a.eps = -1; }),
            "rms_norm: eps is -1, expected at least 0");
}

TEST(WhyNot, ReportsTheFirstFault) {
  EXPECT_EQ(why_not(SelectiveScan{}), "selective_scan: states is 0, expected 1 to 256");
  EXPECT_EQ(with<Ssd>(ssd(),
                      [](auto& a) {
                        a.groups = -2;
                        a.type = 9;
                        a.x.data = nullptr;
                      }),
            "ssd: groups is -2, expected at least 1");
}

}  // namespace
}  // namespace icd
