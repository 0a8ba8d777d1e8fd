#include "kernels/counters.h"

#include <gtest/gtest.h>

#include <cmath>

#include "icd/error.h"

namespace icd {
namespace {

// Chips of compute capability 9.0, 8.9, 8.0 and 10.0. No device is needed, only libcupti.
class CountersOfChip : public ::testing::TestWithParam<const char*> {};

TEST_P(CountersOfChip, AreResolvedWithoutADevice) {
  const ResolvedCounters found = resolve_counters(GetParam());
  if (found.library.empty()) GTEST_SKIP() << found.reason;
  EXPECT_EQ(found.reason, "");
  ASSERT_EQ(found.counters.size(), counters().size());
  for (const ResolvedCounter& counter : found.counters) {
    EXPECT_NE(counter.metric, "") << GetParam() << " has nothing for " << counter.name;
  }
  EXPECT_GE(found.passes, 1);
  EXPECT_LE(found.passes, 10) << "passes: the work is repeated as often";
}

INSTANTIATE_TEST_SUITE_P(Chips, CountersOfChip,
                         ::testing::Values("GH100", "AD102", "GA100", "GB100"),
                         [](const auto& chip) { return std::string(chip.param); });

TEST(Counters, SayWhatIsWrongWithAChip) {
  const ResolvedCounters found = resolve_counters("XX999");
  if (found.library.empty()) GTEST_SKIP() << found.reason;
  EXPECT_NE(found.reason, "");
  EXPECT_TRUE(found.counters.empty());
}

TEST(Counters, SayWhereThereIsNoLibrary) {
  const ResolvedCounters found = resolve_counters("GH100", "/nowhere");
  EXPECT_EQ(found.reason.rfind("counters: ", 0), 0U) << found.reason;
  EXPECT_TRUE(found.counters.empty());
}

TEST(Counters, OnGb202ReadDramUnderItsOtherName) {
  const ResolvedCounters found = resolve_counters("GB202");
  if (found.library.empty()) GTEST_SKIP() << found.reason;
  for (const ResolvedCounter& counter : found.counters) {
    if (counter.name == "dram_read") {
      EXPECT_EQ(counter.metric, "fbpa__dram_read_bytes.sum");
    }
  }
}

TEST(Counters, ThatCannotBeReadAreMissingAndNotZero) {
  CounterSession session("/nowhere");
  EXPECT_NE(session.reason(), "");
  bool ran = false;
  const CounterValues values = session.measure(
      "x", [&] { ran = true; }, [&] { ran = true; });
  EXPECT_FALSE(ran);
  EXPECT_EQ(values.reason, session.reason());
  ASSERT_EQ(values.values.size(), counters().size());
  for (const CounterValue& value : values.values) EXPECT_FALSE(value.value) << value.name;
  EXPECT_FALSE(values["dram_read"]);
  EXPECT_FALSE(values["no such counter"]);
}

TEST(Counters, HaveNoRatioToNothing) {
  EXPECT_EQ(ratio(3, 4), 0.75);
  EXPECT_FALSE(ratio(3, 0));
  EXPECT_FALSE(ratio({}, 4));
  EXPECT_FALSE(ratio(3, {}));
}

TEST(CounterReason, NamesTheWayOut) {
  const auto of = [](int status) { return counter_reason(status, "cuptiX", "CUPTI_ERROR_Y"); };
  EXPECT_EQ(of(35).rfind("counters: cuptiX: CUPTI_ERROR_Y (35): ", 0), 0U) << of(35);
  EXPECT_NE(of(35).find("NVreg_RestrictProfilingToAdminUsers=0"), std::string::npos);
  EXPECT_NE(of(33).find("virtual GPU"), std::string::npos);
  EXPECT_NE(of(40).find("virtual GPU"), std::string::npos);
  EXPECT_NE(of(39).find("another profiler"), std::string::npos);
  EXPECT_NE(of(41).find("confidential computing"), std::string::npos);
  EXPECT_NE(of(43).find("MIG"), std::string::npos);
  EXPECT_NE(of(999).find("driver"), std::string::npos);
  EXPECT_EQ(of(7), "counters: cuptiX: CUPTI_ERROR_Y (7)");
  for (int status = 0; status < 50; ++status) {
    EXPECT_EQ(of(status).find('\n'), std::string::npos);
  }
}

constexpr const char* kCsv =
    "==PROF== Connected to process 17\n"
    "a line of the program\n"
    "\"ID\",\"Process ID\",\"Kernel Name\",\"dram__bytes_read.sum\",\"gpu__time_duration.sum\"\n"
    "\"\",\"\",\"\",\"byte\",\"ns\"\n"
    "\"0\",\"17\",\"icd:scan, identity\",\"1,024\",\"100\"\n"
    "\"1\",\"17\",\"icd:scan, identity\",\"1\",\"11\"\n"
    "\"2\",\"17\",\"icd:scan \"\"random\"\"\",\"n/a\",\"7\"\n";

TEST(NcuCsv, AddsUpTheKernelsOfARange) {
  const std::vector<NcuRange> ranges = parse_ncu_csv(kCsv);
  ASSERT_EQ(ranges.size(), 2U);
  EXPECT_EQ(ranges[0].range, "icd:scan, identity");
  EXPECT_EQ(ranges[0].values["dram_read"], 1025);
  EXPECT_EQ(ranges[0].values["time"], 111);
  EXPECT_EQ(ranges[1].range, "icd:scan \"random\"");
  EXPECT_FALSE(ranges[1].values["dram_read"]) << "n/a is not a zero";
  EXPECT_EQ(ranges[1].values["time"], 7);
  EXPECT_FALSE(ranges[1].values["l2_hit"]);
}

TEST(NcuCsv, WithoutATableIsAnErrorInNcusWords) {
  try {
    parse_ncu_csv("==PROF== x\n==ERROR== ERR_NVGPUCTRPERM - no permission\n");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::unavailable);
    EXPECT_STREQ(error.what(), "counters: ncu printed no table: ERR_NVGPUCTRPERM - no permission");
  }
}

TEST(NcuCommand, AsksForWhatTheChipHas) {
  ResolvedCounters resolved;
  resolved.counters = {{"time", "ns", "a.sum"}, {"xu", "", ""}, {"cycles", "", "b.max"}};
  const std::vector<std::string> command = ncu_command("/opt/ncu", resolved, {"icd", "bench"});
  EXPECT_EQ(command.front(), "/opt/ncu");
  EXPECT_EQ(command.back(), "bench");
  EXPECT_NE(std::find(command.begin(), command.end(), "a.sum,b.max"), command.end());
  EXPECT_NE(std::find(command.begin(), command.end(), "--clock-control"), command.end());
}

}  // namespace
}  // namespace icd
