// ssd_bench [--rounds N] [--seed N] [--variant NAME]... [--json FILE] [--commit C] [--driver V]
//
// Checks every way of ssd against its reference on small calls, then times them side by side on
// shapes of the published Mamba-2 models, in bf16 with softplus, skip and gate. A table goes to
// standard error; with --json, the record with every sample to a file. Exit status 1 if an output
// differs.

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "icd/random.h"
#include "kernels/cuda_error.h"
#include "kernels/device.h"
#include "kernels/device_buffer.h"
#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/ssd.h"

namespace icd {
namespace {

using Json = nlohmann::ordered_json;

struct Options {
  int rounds = 31;
  std::uint64_t seed = 7;
  std::vector<std::string> variants;  ///< all of them if empty
  std::string json;                   ///< file for the record
  std::string commit;                 ///< of the sources of this program
  std::string driver;                 ///< NVIDIA's own number, which the CUDA runtime does not tell
};

constexpr std::int64_t kHeadDim = 64;
constexpr std::int64_t kStates = 128;

struct Shape {
  const char* model;
  std::int64_t heads;
  std::int64_t batch;
  std::int64_t length;

  std::int64_t tokens() const { return batch * length; }
  std::int64_t channels() const { return heads * kHeadDim; }
  /// Of a row of x, B and C, which lie as the convolution leaves them.
  std::int64_t conv_channels() const { return channels() + 2 * kStates; }
  /// Everything read once and written once.
  std::int64_t bytes() const { return 2 * tokens() * (conv_channels() + 2 * channels() + heads); }
};

std::vector<Shape> all_shapes() {
  std::vector<Shape> all;
  for (const auto& [model, heads] :
       {std::pair<const char*, std::int64_t>{"2.7b", 80}, {"1.3b", 64}, {"130m", 24}}) {
    for (const auto& [batch, length] :
         {std::pair<std::int64_t, std::int64_t>{8, 2048}, {1, 2048}, {1, 16384}, {64, 512}}) {
      all.push_back({model, heads, batch, length});
    }
  }
  return all;
}

// `count` bf16 values on the device: a million random ones over and over. Their number is odd, so
// that rows do not repeat.
std::unique_ptr<DeviceBuffer> normal_values(std::int64_t count, double deviation, Random& random) {
  constexpr std::int64_t kPeriod = (1 << 20) - 3;
  const std::int64_t period = std::min(count, kPeriod);
  std::vector<std::uint16_t> values(static_cast<std::size_t>(period));
  for (std::uint16_t& value : values) {
    value = to_bfloat(static_cast<float>(deviation * random.normal()));
  }
  auto buffer = std::make_unique<DeviceBuffer>(2 * count);
  for (std::int64_t at = 0; at < count; at += period) {
    check(cudaMemcpy(buffer->data() + 2 * at, values.data(),
                     static_cast<std::size_t>(2 * std::min(period, count - at)),
                     cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }
  return buffer;
}

// Weights of a layer as they are initialised: A from -1 to -16, steps of 1e-3 to 1e-1.
struct Weights {
  Weights(std::int64_t heads, Random& random) {
    for (std::int64_t i = 0; i < heads; ++i) {
      A.push_back(static_cast<float>(-1 - 15 * random.uniform()));
      D.push_back(1);
      const double step = std::exp(std::log(1e-3) + std::log(100) * random.uniform());
      bias.push_back(static_cast<float>(std::log(std::expm1(step))));
    }
  }

  std::vector<float> A, D, bias;
};

class DeviceWeights {
 public:
  explicit DeviceWeights(const Weights& weights) : buffer_(12 * std::ssize(weights.A)) {
    heads_ = std::ssize(weights.A);
    put(0, weights.A);
    put(1, weights.D);
    put(2, weights.bias);
  }

  void set(Ssd& args) {
    args.A = at(0);
    args.D = at(1);
    args.dt_bias = at(2);
  }

 private:
  float* at(std::int64_t part) { return reinterpret_cast<float*>(buffer_.data()) + part * heads_; }
  void put(std::int64_t part, const std::vector<float>& values) {
    check(cudaMemcpy(at(part), values.data(), 4 * values.size(), cudaMemcpyHostToDevice),
          "cudaMemcpy");
  }

  DeviceBuffer buffer_;
  std::int64_t heads_ = 0;
};

Ssd sizes_of(const Shape& shape) {
  Ssd args = {};
  args.batch = shape.batch;
  args.length = shape.length;
  args.heads = shape.heads;
  args.head_dim = kHeadDim;
  args.groups = 1;
  args.states = kStates;
  args.type = ICD_BF16;
  args.softplus = 1;
  return args;
}

// A call on buffers of its tensors, on the device or not.
Ssd call_on(const Shape& shape, void* conv, void* dt, void* z, void* y) {
  Ssd args = sizes_of(shape);
  const auto rows = [&](void* data, std::int64_t first, std::int64_t width) {
    return Strided{static_cast<std::uint16_t*>(data) + first, shape.length * width, width, 1};
  };
  args.x = rows(conv, 0, shape.conv_channels());
  args.B = rows(conv, shape.channels(), shape.conv_channels());
  args.C = rows(conv, shape.channels() + kStates, shape.conv_channels());
  args.dt = rows(dt, 0, shape.heads);
  args.z = rows(z, 0, shape.channels());
  args.y = rows(y, 0, shape.channels());
  return args;
}

// The tensors of one call on the device.
class Tensors {
 public:
  Tensors(const Shape& shape, Random random)
      : shape_(shape),
        conv_(normal_values(shape.tokens() * shape.conv_channels(), 0.5, random)),
        dt_(normal_values(shape.tokens() * shape.heads, 0.5, random)),
        z_(normal_values(shape.tokens() * shape.channels(), 1, random)),
        y_(std::make_unique<DeviceBuffer>(2 * shape.tokens() * shape.channels())) {}

  Ssd args() const { return call_on(shape_, conv_->data(), dt_->data(), z_->data(), y_->data()); }

  static std::vector<std::uint16_t> back(const DeviceBuffer& buffer) {
    std::vector<std::uint16_t> values(static_cast<std::size_t>(buffer.bytes() / 2));
    check(cudaMemcpy(values.data(), buffer.data(), 2 * values.size(), cudaMemcpyDeviceToHost),
          "cudaMemcpy");
    return values;
  }
  std::vector<std::uint16_t> conv() const { return back(*conv_); }
  std::vector<std::uint16_t> dt() const { return back(*dt_); }
  std::vector<std::uint16_t> z() const { return back(*z_); }
  std::vector<std::uint16_t> y() const { return back(*y_); }

 private:
  Shape shape_;
  std::unique_ptr<DeviceBuffer> conv_, dt_, z_, y_;
};

// ||found - expected|| / ||expected|| of a variant's outputs; infinity where one is not finite.
double error_of(SsdVariant variant, const Shape& shape, Random random) {
  const Weights weights(shape.heads, random);
  DeviceWeights device_weights(weights);
  const Tensors tensors(shape, random);
  Ssd args = tensors.args();
  device_weights.set(args);
  DeviceBuffer workspace(ssd_workspace(args, variant) + 1);
  args.workspace = workspace.data();

  auto conv = tensors.conv();
  auto dt = tensors.dt();
  auto z = tensors.z();
  std::vector<std::uint16_t> expected(static_cast<std::size_t>(shape.tokens() * shape.channels()));
  Ssd host = call_on(shape, conv.data(), dt.data(), z.data(), expected.data());
  host.A = weights.A.data();
  host.D = weights.D.data();
  host.dt_bias = weights.bias.data();
  reference::ssd(host);

  check(cudaMemset(args.y.data, 0xff, 2 * expected.size()), "cudaMemset");
  check(ssd(args, nullptr, variant), "ssd");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const auto found = tensors.y();
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double x = from_bfloat(found[i]);
    const double y = from_bfloat(expected[i]);
    if (!std::isfinite(x)) return INFINITY;
    difference += (x - y) * (x - y);
    norm += y * y;
  }
  return std::sqrt(difference / norm);
}

// A captured series of calls, and its samples.
class Contender {
 public:
  Contender(std::string_view name, cudaGraphExec_t graph) : name_(name), graph_(graph) {}
  Contender(Contender&& other) noexcept
      : name_(other.name_), graph_(std::exchange(other.graph_, nullptr)) {}
  Contender(const Contender&) = delete;
  Contender& operator=(const Contender&) = delete;
  ~Contender() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }

  std::string_view name() const { return name_; }
  const std::vector<double>& samples_us() const { return samples_us_; }

  void replay(cudaStream_t stream) { check(cudaGraphLaunch(graph_, stream), "cudaGraphLaunch"); }
  void sample(cudaStream_t stream, cudaEvent_t start, cudaEvent_t stop, int calls) {
    check(cudaEventRecord(start, stream), "cudaEventRecord");
    replay(stream);
    check(cudaEventRecord(stop, stream), "cudaEventRecord");
    check(cudaEventSynchronize(stop), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
    samples_us_.push_back(1e3 * static_cast<double>(ms) / calls);
  }

 private:
  std::string_view name_;
  cudaGraphExec_t graph_;
  std::vector<double> samples_us_;
};

double quantile(std::vector<double> samples, double q) {
  std::sort(samples.begin(), samples.end());
  const auto at = static_cast<std::size_t>(q * static_cast<double>(samples.size() - 1) + 0.5);
  return samples[at];
}

bool is_wanted(const Options& options, std::string_view name) {
  return options.variants.empty() || std::find(options.variants.begin(), options.variants.end(),
                                               name) != options.variants.end();
}

Json run_shape(const Shape& shape, const Options& options, Random random, cudaStream_t stream) {
  // Sets of tensors that together are several times the L2 cache, used in turn.
  const auto sets = static_cast<int>(
      std::clamp<std::int64_t>((std::int64_t{256} << 20) / shape.bytes() + 1, 1, 16));
  DeviceWeights weights(Weights(shape.heads, random));
  std::vector<std::unique_ptr<Tensors>> tensors;
  for (int s = 0; s < sets; ++s) {
    tensors.push_back(std::make_unique<Tensors>(shape, Random::derived(random.next(), 0)));
  }
  std::int64_t workspace_bytes = 1;
  for (const SsdVariantName& named : kSsdVariants) {
    workspace_bytes =
        std::max(workspace_bytes, ssd_workspace(tensors.front()->args(), named.variant));
  }
  DeviceBuffer workspace(workspace_bytes);
  const auto args_of = [&](int set) {
    Ssd args = tensors[static_cast<std::size_t>(set)]->args();
    weights.set(args);
    args.workspace = workspace.data();
    return args;
  };

  std::vector<Contender> contenders;
  for (const SsdVariantName& named : kSsdVariants) {
    const std::string name(named.name);
    if (!is_wanted(options, name) || !ssd_supports(args_of(0), named.variant)) continue;
    check(ssd(args_of(0), stream, named.variant), name.c_str());
    check(cudaStreamSynchronize(stream), name.c_str());
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
    for (int set = 0; set < sets; ++set)
      check(ssd(args_of(set), stream, named.variant), name.c_str());
    check(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    check(cudaGraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate");
    check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    contenders.emplace_back(named.name, executable);
  }

  cudaEvent_t start = nullptr;
  cudaEvent_t stop = nullptr;
  check(cudaEventCreate(&start), "cudaEventCreate");
  check(cudaEventCreate(&stop), "cudaEventCreate");
  for (int warm = 0; warm < 2; ++warm) {
    for (Contender& contender : contenders) contender.replay(stream);
  }
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      contenders[round % 2 == 0 ? i : contenders.size() - 1 - i].sample(stream, start, stop, sets);
    }
  }
  check(cudaEventDestroy(start), "cudaEventDestroy");
  check(cudaEventDestroy(stop), "cudaEventDestroy");

  const double floor_us = static_cast<double>(shape.bytes()) / 4.3e6;  // an H200 copies 4.3 TB/s
  Json record = {{"model", shape.model},     {"heads", shape.heads},
                 {"batch", shape.batch},     {"length", shape.length},
                 {"bytes", shape.bytes()},   {"sets", sets},
                 {"floor_us", floor_us},     {"workspace_bytes", workspace_bytes},
                 {"variants", Json::array()}};
  fmt::print(stderr, "{} (H {}), B {} L {}: {} sets, floor of bytes {:.1f} us\n", shape.model,
             shape.heads, shape.batch, shape.length, sets, floor_us);
  for (const Contender& contender : contenders) {
    const auto& samples = contender.samples_us();
    const double median = quantile(samples, 0.5);
    fmt::print(stderr, "  {:10} {:9.1f} us  [{:.1f}, {:.1f}]  {:.2f} x floor\n", contender.name(),
               median, quantile(samples, 0.05), quantile(samples, 0.95), median / floor_us);
    record["variants"].push_back(
        {{"name", contender.name()}, {"median_us", median}, {"samples_us", samples}});
  }
  return record;
}

int run(const Options& options, const std::string& command) {
  if (const std::string why = why_no_device(); !why.empty()) {
    throw Error(ErrorCode::unavailable, why);
  }
  const DeviceInfo device = devices().front();
  Json record = {{"schema", "icd-ssd-bench-1"},
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
                 {"checks", Json::array()},
                 {"shapes", Json::array()}};

  bool all_agree = true;
  for (const Shape& shape : {Shape{"small", 6, 2, 300}, Shape{"many sequences", 2, 300, 70}}) {
    for (const SsdVariantName& named : kSsdVariants) {
      if (!is_wanted(options, named.name)) continue;
      const double error = error_of(named.variant, shape, Random::derived(options.seed, 1));
      const bool agrees = error < 5e-3;  // as in tests/kernels/ssd_test.cpp
      all_agree = all_agree && agrees;
      record["checks"].push_back({{"variant", named.name},
                                  {"heads", shape.heads},
                                  {"batch", shape.batch},
                                  {"length", shape.length},
                                  {"relative_l2", error}});
      fmt::print(stderr, "{:10} {}: relative L2 {:.2e}{}\n", named.name, shape.model, error,
                 agrees ? "" : "  DIFFERS");
    }
  }

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  std::uint64_t key = 1;
  for (const Shape& shape : all_shapes()) {
    record["shapes"].push_back(
        run_shape(shape, options, Random::derived(options.seed, ++key), stream));
  }
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << record.dump(1) << '\n';
    if (!file.flush()) throw Error(ErrorCode::io, "cannot write " + options.json);
  }
  return all_agree ? 0 : 1;
}

}  // namespace
}  // namespace icd

int main(int argc, char** argv) {
  icd::Options options;
  CLI::App app("Times the ways of the Mamba-2 prefill side by side.", "ssd_bench");
  app.add_option("--rounds", options.rounds, "Samples a way and shape")->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed, "Of all values");
  app.add_option("--variant", options.variants, "Only these, of kernels/ssd.h");
  app.add_option("--json", options.json, "File for the record with every sample");
  app.add_option("--commit", options.commit, "For the record: of this program's sources");
  app.add_option("--driver", options.driver, "For the record: NVIDIA's driver version");
  CLI11_PARSE(app, argc, argv);
  std::string command = "ssd_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    return icd::run(options, command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "ssd_bench: error: {}\n", error.what());
    return 1;
  }
}
