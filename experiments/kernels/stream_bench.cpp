// stream_bench [--rounds N] [--only TEXT] [--seed N] [--commit C] [--driver V] [--json FILE]
//
// Times what only streams its tensors through (causal_conv1d, its update, rms_norm) beside
// cudaMemcpyAsync of as many bytes, in bf16, on the shapes of mamba-130m and mamba-2.8b. A table
// goes to standard output, all samples to FILE. Agreement with the reference is the tests' matter.
//
// A contender is a CUDA graph of its call on one set of tensors after the other, as many as L2
// cannot hold, timed between events. Contenders take turns, in reversed order every other round;
// "again" is the kernel once more, which shows what is noise.

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <exception>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "icd/bench_statistics.h"
#include "icd/random.h"
#include "kernels/causal_conv1d.h"
#include "kernels/cuda_error.h"
#include "kernels/device.h"
#include "kernels/device_buffer.h"
#include "kernels/element.h"
#include "kernels/rms_norm.h"

namespace icd {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kBytes = 2;  // of a bf16
constexpr std::int64_t kWidth = 4;
constexpr std::int64_t kMostColumns = 5120;

struct Options {
  int rounds = 41;
  std::string only;
  std::uint64_t seed = 7;
  std::string commit;
  std::string driver;
  std::string json;
};

struct Shape {
  std::string model;
  std::int64_t batch;
  std::int64_t length;
  std::int64_t channels;

  std::int64_t elements() const { return batch * length * channels; }
};

// What all sets share: read once and then in L2, so not counted.
struct Parameters {
  void* conv_weight;           // (kMostColumns, kWidth)
  void* conv_bias;             // (kMostColumns)
  const float* norm_weight;    // (kMostColumns)
  const std::int32_t* orders;  // a random order of 1536 columns, then one of 5120
};

struct Case {
  std::string name;
  Shape shape;
  std::int64_t bytes;      // read and written by a call
  std::int64_t set_bytes;  // what its tensors take
  std::function<cudaError_t(std::uint8_t*, cudaStream_t)> call;
};

// Hands out the tensors of a set one behind the other, each aligned to 256.
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

enum class ConvLayout { channels_last, slice, tokens_last };

Case conv_case(const Shape& shape, ConvLayout layout, const Parameters& parameters) {
  const std::int64_t l = shape.length;
  const std::int64_t c = shape.channels;
  const bool is_slice = layout == ConvLayout::slice;
  Carver set;
  const std::int64_t x = set.take(shape.elements() * kBytes * (is_slice ? 2 : 1));
  const std::int64_t y = set.take(shape.elements() * kBytes);
  CausalConv1d args{};
  args.batch = shape.batch;
  args.length = l;
  args.channels = c;
  args.width = kWidth;
  args.type = ICD_BF16;
  args.silu = 1;
  args.y = layout == ConvLayout::tokens_last ? Strided{nullptr, l * c, 1, l}
                                             : Strided{nullptr, l * c, c, 1};
  args.x = is_slice ? Strided{nullptr, 2 * l * c, 2 * c, 1} : args.y;
  args.weight = parameters.conv_weight;
  args.bias = parameters.conv_bias;
  return {layout == ConvLayout::channels_last ? "conv, channels last"
          : is_slice                          ? "conv, half of in_proj"
                                              : "conv, tokens last",
          shape, 2 * shape.elements() * kBytes, set.taken(),
          [=](std::uint8_t* at, cudaStream_t stream) {
            CausalConv1d here = args;
            here.x.data = at + x;
            here.y.data = at + y;
            return causal_conv1d(here, stream);
          }};
}

Case update_case(const Shape& shape, const Parameters& parameters) {
  const std::int64_t values = shape.batch * shape.channels;
  Carver set;
  const std::int64_t x = set.take(values * kBytes);
  const std::int64_t y = set.take(values * kBytes);
  const std::int64_t state = set.take(values * kWidth * kBytes);
  CausalConv1dUpdate args{};
  args.batch = shape.batch;
  args.channels = shape.channels;
  args.width = kWidth;
  args.type = ICD_BF16;
  args.silu = 1;
  args.x = args.y = {nullptr, shape.channels, 0, 1};
  args.weight = parameters.conv_weight;
  args.bias = parameters.conv_bias;
  args.state_slot = shape.channels * kWidth;
  args.state_channel = kWidth;
  args.kept = kWidth;
  return {"conv update", shape, values * kBytes * (2 + 2 * kWidth), set.taken(),
          [=](std::uint8_t* at, cudaStream_t stream) {
            CausalConv1dUpdate here = args;
            here.x.data = at + x;
            here.y.data = at + y;
            here.state = at + state;
            return causal_conv1d_update(here, stream);
          }};
}

struct Norm {
  std::string name;
  bool gate = false;
  std::int64_t groups = 1;
  bool residual = false;  // in f32
  bool order = false;
};

Case norm_case(const Shape& shape, const Norm& norm, const Parameters& parameters) {
  const std::int64_t bytes = shape.elements() * kBytes;
  Carver set;
  const std::int64_t x = set.take(bytes);
  const std::int64_t z = set.take(norm.gate ? bytes : 0);
  const std::int64_t residual = set.take(norm.residual ? 2 * bytes : 0);
  const std::int64_t residual_out = set.take(norm.residual ? 2 * bytes : 0);
  const std::int64_t y = set.take(bytes);
  RmsNorm args{};
  args.rows = shape.batch * shape.length;
  args.columns = shape.channels;
  args.group = shape.channels / norm.groups;
  args.type = ICD_BF16;
  args.residual_type = ICD_F32;
  args.eps = 1e-5F;
  args.x_row = args.y_row = args.z_row = shape.channels;
  args.weight = parameters.norm_weight;
  if (norm.order) {
    args.order = shape.channels == kMostColumns ? parameters.orders + 1536 : parameters.orders;
  }
  return {norm.name, shape, bytes * (2 + (norm.gate ? 1 : 0) + (norm.residual ? 4 : 0)),
          set.taken(), [=](std::uint8_t* at, cudaStream_t stream) {
            RmsNorm here = args;
            here.x = at + x;
            here.y = at + y;
            if (norm.gate) here.z = at + z;
            if (norm.residual) {
              here.residual = at + residual;
              here.residual_out = at + residual_out;
            }
            return rms_norm(here, stream);
          }};
}

std::vector<Case> all_cases(const Parameters& parameters) {
  std::vector<Case> cases;
  for (const auto& [model, channels] : std::initializer_list<std::pair<const char*, std::int64_t>>{
           {"130m", 1536}, {"2.8b", 5120}}) {
    for (const std::int64_t batch : {1, 8, 64}) {
      for (const std::int64_t length : {512, 2048}) {
        const Shape shape{model, batch, length, channels};
        for (const ConvLayout layout :
             {ConvLayout::channels_last, ConvLayout::slice, ConvLayout::tokens_last}) {
          cases.push_back(conv_case(shape, layout, parameters));
        }
        for (const Norm& norm : std::initializer_list<Norm>{
                 {.name = "rms_norm"},
                 {.name = "rms_norm, order", .order = true},
                 {.name = "rms_norm, gate", .gate = true},
                 {.name = "rms_norm, gate, 8 groups", .gate = true, .groups = 8},
                 {.name = "rms_norm, gate, order", .gate = true, .order = true},
                 {.name = "rms_norm, residual", .residual = true}}) {
          cases.push_back(norm_case(shape, norm, parameters));
        }
      }
      cases.push_back(update_case({model, batch, 1, channels}, parameters));
    }
  }
  std::stable_sort(cases.begin(), cases.end(),
                   [](const Case& a, const Case& b) { return a.name < b.name; });
  return cases;
}

// bf16 from a normal distribution, and of pairs of them f32 that are as harmless. The period is
// odd, so that rows differ.
void fill(DeviceBuffer& buffer, Random random) {
  std::vector<std::uint16_t> some(std::min<std::int64_t>(1'000'003, buffer.bytes() / kBytes));
  for (std::uint16_t& element : some) element = to_bfloat(static_cast<float>(random.normal()));
  auto filled = static_cast<std::int64_t>(some.size()) * kBytes;
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

// Calls, captured once and replayed.
class Graph {
 public:
  Graph(cudaStream_t stream, const std::function<void()>& calls) : stream_(stream) {
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
          "cudaStreamBeginCapture");
    calls();
    cudaGraph_t graph = nullptr;
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiateWithFlags(&graph_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiateWithFlags");
    check(cudaEventCreate(&start_), "cudaEventCreate");
    check(cudaEventCreate(&stop_), "cudaEventCreate");
  }
  ~Graph() {
    cudaEventDestroy(stop_);
    cudaEventDestroy(start_);
    cudaGraphExecDestroy(graph_);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  double time_us() {
    check(cudaEventRecord(start_, stream_), "cudaEventRecord");
    check(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
    check(cudaEventRecord(stop_, stream_), "cudaEventRecord");
    check(cudaEventSynchronize(stop_), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start_, stop_), "cudaEventElapsedTime");
    return 1e3 * static_cast<double>(ms);
  }

 private:
  cudaStream_t stream_;
  cudaGraphExec_t graph_ = nullptr;
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
};

// As many sets as four times the 60 MB of an H200's L2 take, at most 512.
std::int64_t sets_of(const Case& c) {
  constexpr std::int64_t kBeyondL2 = 240'000'000;
  return std::clamp<std::int64_t>(kBeyondL2 / c.set_bytes + 1, 1, 512);
}

Json run_case(const Case& c, const Options& options, DeviceBuffer& arena, cudaStream_t stream) {
  constexpr std::array<const char*, 3> kContenders = {"copy", "kernel", "again"};
  const std::int64_t sets = sets_of(c);
  // About 300 us a sample, so that a launch and the clock's half microsecond do not show.
  const double guess_us = std::max(2.5, static_cast<double>(c.bytes) / 4e6);
  const auto repeats = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(300 / (guess_us * static_cast<double>(sets))));
  const auto calls = static_cast<double>(sets * repeats);
  const auto over_sets = [&](const std::function<cudaError_t(std::uint8_t*)>& call) {
    return [&, call] {
      for (std::int64_t i = 0; i < sets * repeats; ++i) {
        check(call(arena.data() + i % sets * c.set_bytes), "the timed call");
      }
    };
  };
  const auto copy = over_sets([&](std::uint8_t* at) {
    const std::int64_t half = c.bytes / 2;
    return cudaMemcpyAsync(at + half, at, static_cast<std::size_t>(half), cudaMemcpyDeviceToDevice,
                           stream);
  });
  const auto kernel = over_sets([&](std::uint8_t* at) { return c.call(at, stream); });
  // A kernel's first call loads its code, which a capture may not allow.
  check(c.call(arena.data(), stream), c.name.c_str());
  check(cudaStreamSynchronize(stream), c.name.c_str());
  std::array<Graph, 3> graphs = {Graph(stream, copy), Graph(stream, kernel), Graph(stream, kernel)};

  for (Graph& graph : graphs) graph.time_us();
  std::array<std::vector<double>, 3> samples_us;
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t k = 0; k < graphs.size(); ++k) {
      const std::size_t i = round % 2 == 0 ? k : graphs.size() - 1 - k;
      samples_us[i].push_back(graphs[i].time_us() / calls);
    }
  }

  const double copy_us = median(samples_us[0]);
  const double kernel_us = median(samples_us[1]);
  const PairedRatio of_copy = paired_ratio(samples_us[1], samples_us[0]);
  const PairedRatio again = paired_ratio(samples_us[1], samples_us[2]);
  const double tb_per_s = static_cast<double>(c.bytes) / kernel_us * 1e-6;
  fmt::print("{:25} {:5} {:3} {:5} {:9.2f} {:6.2f} {:9.2f} {:6.1f} [{:5.1f}, {:5.1f}] {:6.3f}\n",
             c.name, c.shape.model, c.shape.batch, c.shape.length, kernel_us, tb_per_s, copy_us,
             100 * of_copy.median, 100 * of_copy.low, 100 * of_copy.high, again.median);
  std::fflush(stdout);

  Json record = {{"name", c.name},
                 {"model", c.shape.model},
                 {"batch", c.shape.batch},
                 {"length", c.shape.length},
                 {"channels", c.shape.channels},
                 {"type", "bf16"},
                 {"bytes", c.bytes},
                 {"sets", sets},
                 {"calls_in_sample", sets * repeats},
                 {"median_us", kernel_us},
                 {"copy_median_us", copy_us},
                 {"tb_per_s", tb_per_s},
                 {"of_copy", {of_copy.median, of_copy.low, of_copy.high}},
                 {"again", {again.median, again.low, again.high}}};
  for (std::size_t i = 0; i < kContenders.size(); ++i) {
    record["samples_us"][kContenders[i]] = samples_us[i];
  }
  return record;
}

int run(const Options& options, const std::string& command) {
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why);
  }
  const DeviceInfo device = devices().front();
  Json record = {{"schema", "icd-stream-bench-1"},
                 {"command", command},
                 {"commit", options.commit},
                 {"seed", options.seed},
                 {"rounds", options.rounds},
                 {"device",
                  {{"name", device.name},
                   {"compute_capability", fmt::format("{}.{}", device.major, device.minor)},
                   {"memory_bytes", device.memory_bytes},
                   {"driver", options.driver},
                   {"driver_cuda", cuda_driver_version()},
                   {"runtime_cuda", cuda_runtime_version()}}},
                 {"cases", Json::array()}};

  Random random(options.seed);
  DeviceBuffer weights(kMostColumns * (kWidth + 1) * kBytes);
  DeviceBuffer norm_weights(kMostColumns * 4);
  fill(weights, Random::derived(options.seed, 1));
  fill(norm_weights, Random::derived(options.seed, 2));
  std::vector<Index> orders;
  for (const Index columns : {Index{1536}, Index{kMostColumns}}) {
    const Permutation order = random_permutation(columns, random);
    orders.insert(orders.end(), order.gather().begin(), order.gather().end());
  }
  const auto order_bytes = static_cast<std::int64_t>(orders.size() * sizeof(Index));
  DeviceBuffer device_orders(order_bytes);
  check(cudaMemcpy(device_orders.data(), orders.data(), static_cast<std::size_t>(order_bytes),
                   cudaMemcpyHostToDevice),
        "cudaMemcpy");

  std::vector<Case> cases =
      all_cases({weights.data(), weights.data() + kMostColumns * kWidth * kBytes,
                 reinterpret_cast<const float*>(norm_weights.data()),
                 reinterpret_cast<const std::int32_t*>(device_orders.data())});
  std::erase_if(cases,
                [&](const Case& c) { return c.name.find(options.only) == std::string::npos; });
  std::int64_t arena_bytes = 0;
  for (const Case& c : cases) arena_bytes = std::max(arena_bytes, sets_of(c) * c.set_bytes);
  DeviceBuffer arena(std::max<std::int64_t>(arena_bytes, kBytes));

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  fmt::print("{:25} {:5} {:>3} {:>5} {:>9} {:>6} {:>9} {:>6} {:16} {:>6}\n", "bf16", "shape", "B",
             "L", "us", "TB/s", "copy us", "% copy", " 95 %", "again");
  for (const Case& c : cases) {
    fill(arena, Random::derived(options.seed, 3));
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the stream does not wait for it
    record["cases"].push_back(run_case(c, options, arena, stream));
  }
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << record.dump(1) << '\n';
    file.close();
    if (!file) throw Error(ErrorCode::io, "cannot write " + options.json);
  }
  return 0;
}

}  // namespace
}  // namespace icd

int main(int argc, char** argv) {
  icd::Options options;
  CLI::App app("Times kernels that only stream their tensors beside a copy.", "stream_bench");
  app.add_option("--rounds", options.rounds, "Samples of a contender")->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "Cases whose name contains this");
  app.add_option("--seed", options.seed, "Of inputs and orders");
  app.add_option("--commit", options.commit, "For the record: of this program's sources");
  app.add_option("--driver", options.driver, "For the record: NVIDIA's driver version");
  app.add_option("--json", options.json, "All samples go to this file");
  CLI11_PARSE(app, argc, argv);
  std::string command = "stream_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    return icd::run(options, command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "stream_bench: error: {}\n", error.what());
    return 1;
  }
}
