// gather_bench [--seed N] [--samples N] [--commit C] [--driver V] > record.json
//
// Checks gather_rows and gather_columns against their reference on the shapes of the published
// Mamba models, then times them beside cudaMemcpyAsync of the same bytes. The record goes to
// standard output, a table to standard error. Exit status 1 if an output differs.

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <nlohmann/json.hpp>
#include <numeric>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "experiments/device_facts.h"
#include "icd/digest.h"
#include "icd/random.h"
#include "kernels/cuda_error.h"
#include "kernels/cuda_graph.h"
#include "kernels/device_buffer.h"
#include "kernels/gather.h"
#include "kernels/reference.h"

namespace icd {
namespace {

using Json = nlohmann::ordered_json;
using Bytes = std::vector<std::uint8_t>;

struct Options {
  std::uint64_t seed = 7;
  int samples = 50;
  std::string commit;  ///< of the sources of this program
  std::string driver;  ///< NVIDIA's own number, which the CUDA runtime does not tell
};

enum class Axis { rows, columns };

struct Case {
  std::string model;
  std::string tensor;
  Axis axis;  ///< what the order is of
  Index rows;
  Index columns;
  int element_bytes;

  std::int64_t bytes() const { return std::int64_t{rows} * columns * element_bytes; }
  Index moved() const { return axis == Axis::rows ? rows : columns; }
};

// The tensors of one layer that an order of the channels moves, and the embedding, which an
// order of d_model moves. bf16, but for A_log, which is trained and kept in f32.
std::vector<Case> cases_of(const std::string& model, Index d_model) {
  const Index d_inner = 2 * d_model;
  const Index dt_rank = d_model / 16;
  constexpr Index kStates = 16;
  constexpr Index kVocabulary = 50280;
  return {{model, "conv1d.weight", Axis::rows, d_inner, 4, 2},
          {model, "A_log", Axis::rows, d_inner, kStates, 4},
          {model, "dt_proj.weight", Axis::rows, d_inner, dt_rank, 2},
          {model, "in_proj.weight", Axis::rows, 2 * d_inner, d_model, 2},
          {model, "x_proj.weight", Axis::columns, dt_rank + 2 * kStates, d_inner, 2},
          {model, "out_proj.weight", Axis::columns, d_model, d_inner, 2},
          {model, "embedding.weight", Axis::columns, kVocabulary, d_model, 2}};
}

std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& [model, d_model] :
       std::initializer_list<std::pair<const char*, Index>>{{"mamba-130m", 768},
                                                            {"mamba-370m", 1024},
                                                            {"mamba-790m", 1536},
                                                            {"mamba-1.4b", 2048},
                                                            {"mamba-2.8b", 2560}}) {
    const auto some = cases_of(model, d_model);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

// What fits the caches between samples: reads 256 MiB, several times any L2 of today. Reads,
// and writes 4 MiB only, since dirty lines would be written back in the time of the sample.
class ColdCache {
 public:
  explicit ColdCache(cudaStream_t stream) : stream_(stream), from_(kRead), to_(kWritten) {}

  void flush() {
    for (std::int64_t at = 0; at < kRead; at += kWritten) {
      check(cudaMemcpyAsync(to_.data(), from_.data() + at, kWritten, cudaMemcpyDeviceToDevice,
                            stream_),
            "cudaMemcpyAsync");
    }
  }

 private:
  static constexpr std::int64_t kRead = 256 << 20;
  static constexpr std::int64_t kWritten = 4 << 20;
  cudaStream_t stream_;
  DeviceBuffer from_;
  DeviceBuffer to_;
};

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {}

  double time_us(const std::function<cudaError_t()>& call) {
    start_.record(stream_);
    check(call(), "the timed call");
    stop_.record(stream_);
    check(cudaStreamSynchronize(stream_), "the timed call");
    return stop_.us_since(start_);
  }

 private:
  cudaStream_t stream_;
  CudaEvent start_;
  CudaEvent stop_;
};

Bytes random_bytes(std::int64_t size, Random random) {
  Bytes bytes(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    std::uint64_t eight = random.next();
    for (std::size_t k = i; k < std::min(i + 8, bytes.size()); ++k, eight >>= 8) {
      bytes[k] = static_cast<std::uint8_t>(eight);
    }
  }
  return bytes;
}

double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const auto at = static_cast<std::size_t>(q * static_cast<double>(samples.size() - 1) + 0.5);
  return samples[at];
}

cudaError_t gather(const Case& c, const void* in, const Index* source, void* out,
                   cudaStream_t stream) {
  return c.axis == Axis::rows
             ? gather_rows(in, source, out, c.rows, std::int64_t{c.columns} * c.element_bytes,
                           stream)
             : gather_columns(in, source, out, c.rows, c.columns, c.element_bytes, stream);
}

void gather_on_host(const Case& c, const Bytes& in, const std::vector<Index>& source, Bytes& out) {
  if (c.axis == Axis::rows) {
    reference::gather_rows(in.data(), source.data(), out.data(), c.rows,
                           std::int64_t{c.columns} * c.element_bytes);
  } else {
    reference::gather_columns(in.data(), source.data(), out.data(), c.rows, c.columns,
                              c.element_bytes);
  }
}

Json run_case(const Case& c, const Options& options, Random random, cudaStream_t stream,
              ColdCache& cache) {
  constexpr std::array<const char*, 3> kContenders = {"memcpy", "identity", "random"};
  const auto size = static_cast<std::size_t>(c.bytes());
  const Bytes in = random_bytes(c.bytes(), random);
  std::vector<Index> identity(static_cast<std::size_t>(c.moved()));
  std::iota(identity.begin(), identity.end(), 0);
  Random shuffle = Random::derived(options.seed, static_cast<std::uint64_t>(c.bytes()));
  const Permutation shuffled = random_permutation(c.moved(), shuffle);
  const std::vector<Index> scattered(shuffled.gather().begin(), shuffled.gather().end());

  const std::size_t order_bytes = identity.size() * sizeof(Index);
  DeviceBuffer device_in(c.bytes());
  DeviceBuffer device_out(c.bytes());
  DeviceBuffer device_identity(static_cast<std::int64_t>(order_bytes));
  DeviceBuffer device_scattered(static_cast<std::int64_t>(order_bytes));
  check(cudaMemcpy(device_in.data(), in.data(), size, cudaMemcpyHostToDevice), "cudaMemcpy");
  check(cudaMemcpy(device_identity.data(), identity.data(), order_bytes, cudaMemcpyHostToDevice),
        "cudaMemcpy");
  check(cudaMemcpy(device_scattered.data(), scattered.data(), order_bytes, cudaMemcpyHostToDevice),
        "cudaMemcpy");
  const auto order_at = [](const DeviceBuffer& buffer) {
    return reinterpret_cast<const Index*>(buffer.data());
  };
  const std::array<std::function<cudaError_t()>, 3> calls = {
      [&] {
        return cudaMemcpyAsync(device_out.data(), device_in.data(), size, cudaMemcpyDeviceToDevice,
                               stream);
      },
      [&] {
        return gather(c, device_in.data(), order_at(device_identity), device_out.data(), stream);
      },
      [&] {
        return gather(c, device_in.data(), order_at(device_scattered), device_out.data(), stream);
      }};

  Json record = {{"model", c.model},
                 {"tensor", c.tensor},
                 {"axis", c.axis == Axis::rows ? "rows" : "columns"},
                 {"rows", c.rows},
                 {"columns", c.columns},
                 {"element_bytes", c.element_bytes},
                 {"bytes", c.bytes()},
                 {"input_sha256", sha256_of(std::as_bytes(std::span(in)))},
                 {"order_sha256", sha256_of(std::as_bytes(std::span(scattered)))}};

  // Every contender is checked on an output that holds none of the answer; these calls warm up.
  bool all_agree = true;
  Bytes expected(size);
  Bytes found(size);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    gather_on_host(c, in, i == 2 ? scattered : identity, expected);
    check(cudaMemset(device_out.data(), 0xa5, size), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the stream does not wait for it
    check(calls[i](), kContenders[i]);
    check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
    check(cudaMemcpy(found.data(), device_out.data(), size, cudaMemcpyDeviceToHost), "cudaMemcpy");
    all_agree = all_agree && found == expected;
  }
  record["output_sha256"] = sha256_of(std::as_bytes(std::span(found)));
  record["agrees_with_reference"] = all_agree;

  Stopwatch stopwatch(stream);
  std::array<std::vector<double>, 3> samples;
  for (int s = 0; s < options.samples; ++s) {
    for (std::size_t k = 0; k < calls.size(); ++k) {
      const std::size_t i =
          (k + static_cast<std::size_t>(s)) % calls.size();  // nobody always first
      cache.flush();
      samples[i].push_back(stopwatch.time_us(calls[i]));
    }
  }

  std::string row = fmt::format("{:10} {:16} {:7} {:>9} KiB", c.model, c.tensor,
                                c.axis == Axis::rows ? "rows" : "columns", c.bytes() / 1024);
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const double median = quantile(samples[i], 0.5);
    record["median_us"][kContenders[i]] = median;
    record["quartiles_us"][kContenders[i]] = {quantile(samples[i], 0.25),
                                              quantile(samples[i], 0.75)};
    record["tb_per_s"][kContenders[i]] = 2e-6 * static_cast<double>(c.bytes()) / median;
    row += fmt::format("  {:8} {:8.2f} us {:5.2f} TB/s", kContenders[i], median,
                       2e-6 * static_cast<double>(c.bytes()) / median);
  }
  for (std::size_t i = 0; i < calls.size(); ++i) record["samples_us"][kContenders[i]] = samples[i];
  fmt::print(stderr, "{}{}\n", row, all_agree ? "" : "  DIFFERS");
  return record;
}

int run(const Options& options, const std::string& command) {
  Json record = {
      {"schema", "icd-gather-bench-1"}, {"command", command},
      {"commit", options.commit},       {"seed", options.seed},
      {"samples", options.samples},     {"device", experiments::device_facts(options.driver)},
      {"cases", Json::array()}};
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  ColdCache cache(stream);
  bool all_agree = true;
  std::uint64_t key = 0;
  for (const Case& c : all_cases()) {
    record["cases"].push_back(
        run_case(c, options, Random::derived(options.seed, ++key), stream, cache));
    all_agree = all_agree && record["cases"].back()["agrees_with_reference"].get<bool>();
  }
  fmt::print("{}\n", record.dump(1));
  return all_agree ? 0 : 1;
}

}  // namespace
}  // namespace icd

int main(int argc, char** argv) {
  icd::Options options;
  CLI::App app("Times the gather kernels beside a copy of the same bytes.", "gather_bench");
  app.add_option("--seed", options.seed, "Of inputs and orders");
  app.add_option("--samples", options.samples, "A contender and case")->check(CLI::PositiveNumber);
  app.add_option("--commit", options.commit, "For the record: of this program's sources");
  app.add_option("--driver", options.driver, "For the record: NVIDIA's driver version");
  CLI11_PARSE(app, argc, argv);
  std::string command = "gather_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    return icd::run(options, command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "gather_bench: error: {}\n", error.what());
    return 1;
  }
}
