// Whether this machine lets counters be read, and what they say about work whose counts are known:
// a copy, a gather in order and the same gather in random order. counters_probe [libcupti or
// folder]
#include <cstdio>
#include <vector>

#include "icd/random.h"
#include "kernels/counters.h"
#include "kernels/device.h"
#include "kernels/device_buffer.h"
#include "kernels/gather.h"

namespace {

using namespace icd;

constexpr std::int64_t kRows = 4096;
constexpr Index kColumns = 5120;
constexpr std::int64_t kBytes = kRows * kColumns * 2;

void print(const char* title, const CounterValues& values) {
  std::printf("%s (%d passes)%s%s\n", title, values.passes, values.reason.empty() ? "" : ": ",
              values.reason.c_str());
  for (const CounterValue& value : values.values) {
    std::printf("  %-20s %-12s %-62s ", value.name.c_str(), value.unit.c_str(),
                value.metric.c_str());
    if (value.value) {
      std::printf("%.0f\n", *value.value);
    } else {
      std::printf("null\n");
    }
  }
}

std::vector<Index> as_table(const Permutation& order) {
  return {order.gather().begin(), order.gather().end()};
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const std::string cupti = argc > 1 ? argv[1] : "";
    const std::string why = why_no_device();
    if (!why.empty()) std::printf("%s\n", why.c_str());
    CounterSession session(cupti);
    std::printf("chip %s, library %s, passes %d\nreason: %s\n", session.resolved().chip.c_str(),
                session.resolved().library.c_str(), session.resolved().passes,
                session.reason().empty() ? "none" : session.reason().c_str());
    if (!why.empty()) return 5;

    DeviceBuffer in(kBytes);
    DeviceBuffer out(kBytes);
    DeviceBuffer identity(kColumns * 4);
    DeviceBuffer random(kColumns * 4);
    check(cudaMemset(in.data(), 1, static_cast<std::size_t>(kBytes)), "cudaMemset");
    Random generator(7);
    const std::vector<Index> in_order = as_table(Permutation::identity(kColumns));
    const std::vector<Index> shuffled = as_table(random_permutation(kColumns, generator));
    check(cudaMemcpy(identity.data(), in_order.data(), kColumns * 4, cudaMemcpyHostToDevice),
          "cudaMemcpy");
    check(cudaMemcpy(random.data(), shuffled.data(), kColumns * 4, cudaMemcpyHostToDevice),
          "cudaMemcpy");
    const auto restore = [&] {
      check(cudaMemsetAsync(out.data(), 0, static_cast<std::size_t>(kBytes), nullptr),
            "cudaMemsetAsync");
    };
    std::printf("each reads and writes %lld bytes, %lld sectors\n", static_cast<long long>(kBytes),
                static_cast<long long>(kBytes / 32));
    print("copy", session.measure("copy", restore, [&] {
      check(cudaMemcpyAsync(out.data(), in.data(), static_cast<std::size_t>(kBytes),
                            cudaMemcpyDeviceToDevice, nullptr),
            "cudaMemcpyAsync");
    }));
    for (const bool is_random : {false, true}) {
      const auto* order =
          reinterpret_cast<const std::int32_t*>(is_random ? random.data() : identity.data());
      print(is_random ? "gather_columns, random" : "gather_columns, identity",
            session.measure(is_random ? "random" : "identity", restore, [&] {
              check(gather_columns(in.data(), order, out.data(), kRows, kColumns, 2, nullptr),
                    "gather_columns");
            }));
    }
    return 0;
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
