#include "kernels/graph_timer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "icd/bench_statistics.h"
#include "kernels/bench_device.h"
#include "support/device.h"
#include "support/device_arrays.h"

namespace icd {
namespace {

TEST(RoundOrder, GoesForthAndBackAndChangesWhoIsFirst) {
  EXPECT_EQ(round_order(3, 0), (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(round_order(3, 1), (std::vector<int>{2, 1, 0}));
  EXPECT_EQ(round_order(3, 2), (std::vector<int>{1, 2, 0}));
  EXPECT_EQ(round_order(3, 3), (std::vector<int>{0, 2, 1}));
  EXPECT_EQ(round_order(1, 17), (std::vector<int>{0}));
  for (int round = 0; round < 40; ++round) {
    std::vector<int> places = round_order(12, round);
    std::sort(places.begin(), places.end());
    std::vector<int> all(12);
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(places, all);
  }
}

TEST(Launches, FillASample) {
  const GraphTimerOptions options{.sample_us = 300, .max_launches = 200};
  EXPECT_EQ(launches_for(1000, options), 1);
  EXPECT_EQ(launches_for(100, options), 3);
  EXPECT_EQ(launches_for(7, options), 43);
  EXPECT_EQ(launches_for(0, options), 200);
}

class GraphTimerOnDevice : public testing::DeviceTest {};
class BenchDeviceOnDevice : public testing::DeviceTest {};

TEST_F(GraphTimerOnDevice, TimesWhatIsTwiceTheWorkAsLonger) {
  GraphTimer timer;
  const std::int64_t bytes = 64 << 20;
  DeviceBuffer buffer(2 * bytes);
  DeviceBuffer sink(256);
  int prepared = 0;
  const auto reading = [&](const char* name, std::int64_t size) {
    return TimedWork{name, [&](cudaStream_t) { ++prepared; },
                     [&buffer, &sink, size](int, cudaStream_t stream) {
                       return read_through(buffer.data(), size,
                                           reinterpret_cast<std::uint32_t*>(sink.data()), stream);
                     }};
  };
  const std::vector<TimedWork> works = {reading("once", bytes), reading("once again", bytes),
                                        reading("twice", 2 * bytes)};
  for (const CacheState cache : {CacheState::cold, CacheState::warm}) {
    const TimedSamples samples = timer.time(works, {.rounds = 31, .cache = cache});
    ASSERT_EQ(samples.latency_us.size(), 3U);
    EXPECT_GE(samples.launches, 1);
    EXPECT_EQ(samples.readings.size(), 32U);
    for (const auto& series : samples.latency_us) {
      ASSERT_EQ(series.size(), 31U);
      for (const double us : series) EXPECT_GT(us, 0);
    }
    for (const double mhz : samples.sm_mhz[0]) {
      EXPECT_GT(mhz, 100);
      EXPECT_LT(mhz, 4000);
    }
    const PairedRatio placebo = paired_ratio(samples.latency_us[0], samples.latency_us[1]);
    EXPECT_NEAR(placebo.median, 1, 0.1) << to_string(cache);
    const PairedRatio twice = paired_ratio(samples.latency_us[0], samples.latency_us[2]);
    EXPECT_GT(twice.median, 1.5) << to_string(cache);
    EXPECT_LT(twice.median, 3.5) << to_string(cache);
  }
  EXPECT_GE(prepared, 2 * 3 * 31);
}

TEST_F(GraphTimerOnDevice, NamesTheWorkThatFails) {
  GraphTimer timer;
  const TimedWork bad{"the bad one", [](cudaStream_t) {},
                      [](int, cudaStream_t) { return cudaErrorInvalidValue; }};
  try {
    timer.time({bad}, {});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the bad one"), std::string::npos) << error.what();
  }
}

TEST_F(BenchDeviceOnDevice, FillsWithABell) {
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    SCOPED_TRACE(type);
    const std::int64_t count = 100'003;
    testing::DeviceArray array(testing::poisoned_array(type, count));
    check(fill_bell(array.data(), type, count, 5, 1, 0.5, nullptr), "fill_bell");
    const testing::HostArray found = array.back();
    double sum = 0;
    double squares = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      sum += found[i];
      squares += (found[i] - 1.0) * (found[i] - 1.0);
    }
    EXPECT_NEAR(sum / count, 1, 0.01);
    EXPECT_NEAR(std::sqrt(squares / count), 0.5, 0.01);
  }
}

TEST_F(BenchDeviceOnDevice, AddsUpDifferences) {
  Random random(3);
  for (const std::int32_t type : {ICD_F32, ICD_F16, ICD_BF16}) {
    SCOPED_TRACE(type);
    const testing::HostArray a = testing::normal_array(type, 70'001, random);
    const testing::HostArray b = testing::normal_array(type, 70'001, random);
    testing::DeviceArray device_a(a);
    testing::DeviceArray device_b(b);
    DeviceBuffer sums(16);
    const auto relative = [&](void* x, void* y) {
      double found[2] = {};
      check(cudaMemset(sums.data(), 0, 16), "cudaMemset");
      check(add_differences(type, x, y, 70'001, reinterpret_cast<double*>(sums.data()), nullptr),
            "add_differences");
      check(cudaMemcpy(found, sums.data(), 16, cudaMemcpyDeviceToHost), "cudaMemcpy");
      return std::sqrt(found[0] / found[1]);
    };
    EXPECT_NEAR(relative(device_a.data(), device_b.data()), testing::relative_l2(a, b), 1e-9);
    EXPECT_EQ(relative(device_a.data(), device_a.data()), 0);
    testing::HostArray broken = a;
    broken.set(69'999, NAN);
    testing::DeviceArray device_broken(broken);
    EXPECT_TRUE(std::isinf(relative(device_broken.data(), device_b.data())));
  }
}

TEST_F(BenchDeviceOnDevice, GathersAsTheReference) {
  Random random(4);
  for (const std::int64_t columns : {1, 31, 256, 1000, 5120}) {
    for (const std::int64_t rows : {1, 7, 100}) {
      const testing::HostArray in = testing::normal_array(ICD_BF16, rows * columns, random);
      const Permutation order = random_permutation(static_cast<Index>(columns), random);
      testing::DeviceArray device_in(in);
      testing::DeviceArray source(
          testing::int_array({order.gather().begin(), order.gather().end()}));
      testing::DeviceArray out(testing::poisoned_array(ICD_BF16, rows * columns));
      check(gather_directly(static_cast<const std::uint16_t*>(device_in.data()), source.i32(),
                            static_cast<std::uint16_t*>(out.data()), rows, columns, nullptr),
            "gather_directly");
      const testing::HostArray found = out.back();
      for (std::int64_t i = 0; i < rows * columns; ++i) {
        ASSERT_EQ(found[i], in[i / columns * columns + order[static_cast<Index>(i % columns)]])
            << rows << " x " << columns << " at " << i;
      }
    }
  }
}

}  // namespace
}  // namespace icd
