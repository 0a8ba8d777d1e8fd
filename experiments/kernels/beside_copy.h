#pragma once

#include <fmt/core.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "experiments/kernels/side_by_side.h"
#include "icd/bench_statistics.h"

// A kernel beside cudaMemcpyAsync of as many bytes, and once more, which shows what is noise.
namespace icd::experiments {

/// Sets of a size, one behind the other.
struct Arena {
  std::uint8_t* data;
  std::int64_t set_bytes;
  std::int64_t sets;

  std::uint8_t* at(std::int64_t i) const { return data + i % sets * set_bytes; }
};

/// About 300 us a sample, so that a launch and the clock's half microsecond do not show; all sets
/// as often.
inline std::int64_t calls_of(std::int64_t bytes, std::int64_t sets) {
  const double guess_us = std::max(2.5, static_cast<double>(bytes) / 4e6);
  const double rounds = 300 / (guess_us * static_cast<double>(sets));
  return sets * std::max<std::int64_t>(1, static_cast<std::int64_t>(rounds));
}

/// The last columns of a table.
inline std::string copy_columns() {
  return fmt::format("{:>9} {:>6} {:>9} {:>6} {:16} {:>6}", "us", "TB/s", "copy us", "% copy",
                     " 95 %", "again");
}

/// Times `call`, which moves `bytes`, on sets of `kernel`; the copies read the first half of a
/// set's bytes and write the second. Adds what came out to `record`, and returns its columns.
inline std::string beside_copy(const std::string& name, std::int64_t bytes, const Arena& kernel,
                               const Arena& copied, std::int64_t copy_bytes,
                               const std::function<cudaError_t(std::uint8_t*, cudaStream_t)>& call,
                               int rounds, Json& record) {
  const auto copy = [&](std::int64_t i, cudaStream_t stream) {
    std::uint8_t* at = copied.at(i);
    return cudaMemcpyAsync(at + copy_bytes / 2, at, static_cast<std::size_t>(copy_bytes / 2),
                           cudaMemcpyDeviceToDevice, stream);
  };
  const auto run = [&](std::int64_t i, cudaStream_t stream) { return call(kernel.at(i), stream); };
  const std::int64_t calls = calls_of(bytes, kernel.sets);
  const std::vector<Contender> contenders = {
      {"copy", calls_of(bytes, copied.sets), copy}, {name, calls, run}, {name, calls, run}};
  const auto samples_us = side_by_side(contenders, rounds);

  const double copy_us = median(samples_us[0]);
  const double kernel_us = median(samples_us[1]);
  const PairedRatio of_copy = paired_ratio(samples_us[1], samples_us[0]);
  const PairedRatio again = paired_ratio(samples_us[1], samples_us[2]);
  const double tb_per_s = static_cast<double>(bytes) / kernel_us * 1e-6;
  record["sets"] = kernel.sets;
  record["calls_in_sample"] = calls;
  record["median_us"] = kernel_us;
  record["copy_median_us"] = copy_us;
  record["tb_per_s"] = tb_per_s;
  record["of_copy"] = {of_copy.median, of_copy.low, of_copy.high};
  record["again"] = {again.median, again.low, again.high};
  record["samples_us"] = {
      {"copy", samples_us[0]}, {"kernel", samples_us[1]}, {"again", samples_us[2]}};
  return fmt::format("{:9.2f} {:6.2f} {:9.2f} {:6.1f} [{:5.1f}, {:5.1f}] {:6.3f}", kernel_us,
                     tb_per_s, copy_us, 100 * of_copy.median, 100 * of_copy.low, 100 * of_copy.high,
                     again.median);
}

}  // namespace icd::experiments
