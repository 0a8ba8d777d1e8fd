#pragma once

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "experiments/device_facts.h"
#include "experiments/machine.h"
#include "icd/random.h"
#include "kernels/cuda_error.h"
#include "kernels/cuda_graph.h"
#include "kernels/device_buffer.h"
#include "kernels/element.h"

// What the timing programs share: options, inputs, the timing itself, and the record.
namespace icd::experiments {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kBf16Bytes = 2;

struct TimingOptions {
  int rounds = 41;
  std::uint64_t seed = 7;
  std::string commit;  ///< of the sources of the program
  std::string driver;  ///< NVIDIA's own number, which the CUDA runtime does not tell
  std::string json;    ///< file for the record with every sample; none if empty
};

/// main() of a timing program, which has added its own options to `app`. `run` takes the command
/// line, for the record, and returns the exit status.
inline int timing_main(CLI::App& app, TimingOptions& options, int argc, char** argv,
                       const std::function<int(const std::string& command)>& run) {
  app.add_option("--rounds", options.rounds, "Samples of each")->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "Of all values");
  app.add_option("--commit", options.commit, "For the record: of this program's sources");
  app.add_option("--driver", options.driver, "For the record: NVIDIA's driver version");
  app.add_option("--json", options.json, "File for the record with every sample");
  CLI11_PARSE(app, argc, argv);
  std::string command = app.get_name();
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    return run(command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}: error: {}\n", app.get_name(), error.what());
    return 1;
  }
}

/// How a record begins. Throws Error{unavailable} if there is no device.
inline Json record_of(const std::string& schema, const std::string& command,
                      const TimingOptions& options) {
  return {{"schema", schema},
          {"command", command},
          {"commit", options.commit},
          {"seed", options.seed},
          {"rounds", options.rounds},
          {"machine", machine()},
          {"device", device_facts(options.driver)}};
}

/// Throws Error{io}.
inline void write_record(const Json& record, const TimingOptions& options) {
  if (options.json.empty()) return;
  std::ofstream file(options.json);
  file << record.dump(1) << '\n';
  file.close();
  if (!file) throw Error(ErrorCode::io, "cannot write " + options.json);
}

/// Sets of tensors that take four times the 60 MB of an H200's L2 between them: who goes round them
/// finds nothing in the cache.
inline std::int64_t sets_of(std::int64_t set_bytes, std::int64_t most = 512) {
  constexpr std::int64_t kBeyondL2 = 240'000'000;
  return std::clamp<std::int64_t>(kBeyondL2 / set_bytes + 1, 1, most);
}

/// bf16 from a normal distribution, and of pairs of them f32 that are as harmless: a million over
/// and over. Their number is odd, so that rows differ.
inline void fill_with_normal(DeviceBuffer& buffer, Random random, double deviation = 1) {
  std::vector<std::uint16_t> some(
      static_cast<std::size_t>(std::min<std::int64_t>(1'000'003, buffer.bytes() / kBf16Bytes)));
  for (std::uint16_t& element : some) {
    element = to_bfloat(static_cast<float>(deviation * random.normal()));
  }
  auto filled = static_cast<std::int64_t>(some.size()) * kBf16Bytes;
  check(cudaMemcpy(buffer.data(), some.data(), static_cast<std::size_t>(filled),
                   cudaMemcpyHostToDevice),
        "cudaMemcpy");
  while (filled < buffer.bytes()) {
    const std::int64_t more = std::min(filled, buffer.bytes() - filled);
    check(cudaMemcpy(buffer.data() + filled, buffer.data(), static_cast<std::size_t>(more),
                     cudaMemcpyDeviceToDevice),
          "cudaMemcpy");
    filled += more;
  }
}

template <typename Value>
std::shared_ptr<DeviceBuffer> on_device(const std::vector<Value>& values) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(Value));
  auto buffer = std::make_shared<DeviceBuffer>(bytes);
  check(cudaMemcpy(buffer->data(), values.data(), static_cast<std::size_t>(bytes),
                   cudaMemcpyHostToDevice),
        "cudaMemcpy");
  return buffer;
}

/// Hands out the tensors of a set one behind the other, each aligned to 256.
class Carver {
 public:
  std::int64_t take(std::int64_t bytes) {
    const std::int64_t at = taken_;
    taken_ += (bytes + 255) / 256 * 256;
    return at;
  }
  std::int64_t taken() const { return taken_; }

 private:
  std::int64_t taken_ = 0;
};

struct Contender {
  std::string name;
  std::int64_t calls;  ///< in a sample; a multiple of its sets, so that samples go round them, too
  std::function<cudaError_t(std::int64_t i, cudaStream_t)> call;  ///< the i-th of them
};

/// Times graphs of the calls of contenders, which take turns, in reversed order every other round.
/// Returns (contenders, rounds): us of one call.
///
/// Unlike GraphTimer it flushes nothing in between. What a sample leaves unwritten in L2 the next
/// one pays for, so that these are the rates of a steady stream, and beside them a copy's.
inline std::vector<std::vector<double>> side_by_side(const std::vector<Contender>& contenders,
                                                     int rounds) {
  cudaStream_t stream = nullptr;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the stream does not wait for inputs
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  const std::unique_ptr<CUstream_st, cudaError_t (*)(cudaStream_t)> owner(stream,
                                                                          cudaStreamDestroy);
  std::vector<std::unique_ptr<CudaGraph>> graphs;
  for (const Contender& contender : contenders) {
    // A kernel's first call loads its code, which a capture may not allow.
    check(contender.call(0, stream), contender.name.c_str());
    check(cudaStreamSynchronize(stream), contender.name.c_str());
    graphs.push_back(std::make_unique<CudaGraph>(stream, contender.name, [&] {
      for (std::int64_t i = 0; i < contender.calls; ++i) {
        check(contender.call(i, stream), contender.name.c_str());
      }
    }));
  }
  for (int warm = 0; warm < 2; ++warm) {
    for (const auto& graph : graphs) graph->replay(stream);
  }

  CudaEvent start;
  CudaEvent stop;
  std::vector<std::vector<double>> samples_us(contenders.size());
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < graphs.size(); ++k) {
      const std::size_t i = round % 2 == 0 ? k : graphs.size() - 1 - k;
      start.record(stream);
      graphs[i]->replay(stream);
      stop.record(stream);
      check(cudaStreamSynchronize(stream), contenders[i].name.c_str());
      samples_us[i].push_back(stop.us_since(start) / static_cast<double>(contenders[i].calls));
    }
  }
  return samples_us;
}

inline double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  return samples[static_cast<std::size_t>(
      std::lround(q * static_cast<double>(samples.size() - 1)))];
}

}  // namespace icd::experiments
