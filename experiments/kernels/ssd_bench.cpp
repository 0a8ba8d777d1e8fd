// ssd_bench [--rounds N] [--seed N] [--variant NAME]... [--json FILE] [--commit C] [--driver V]
//
// Checks every way of ssd against its reference on small calls, then times them side by side on
// shapes of the published Mamba-2 models, in bf16 with softplus, skip and gate. A table goes to
// standard error; with --json, the record with every sample to a file. Exit status 1 if an output
// differs.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "experiments/kernels/side_by_side.h"
#include "icd/bench_statistics.h"
#include "kernels/reference.h"
#include "kernels/ssd.h"

namespace icd::experiments {
namespace {

struct Options : TimingOptions {
  std::vector<std::string> variants;  ///< all of them if empty
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

std::unique_ptr<DeviceBuffer> normal_values(std::int64_t count, double deviation, Random& random) {
  auto buffer = std::make_unique<DeviceBuffer>(kBf16Bytes * count);
  fill_with_normal(*buffer, Random::derived(random.next(), 0), deviation);
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

bool is_wanted(const Options& options, std::string_view name) {
  return options.variants.empty() || std::find(options.variants.begin(), options.variants.end(),
                                               name) != options.variants.end();
}

Json run_shape(const Shape& shape, const Options& options, Random random) {
  const auto sets = static_cast<int>(sets_of(shape.bytes(), 16));
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
  const auto args_of = [&](std::int64_t call) {
    Ssd args = tensors[static_cast<std::size_t>(call % sets)]->args();
    weights.set(args);
    args.workspace = workspace.data();
    return args;
  };

  std::vector<Contender> contenders;
  for (const SsdVariantName& named : kSsdVariants) {
    if (!is_wanted(options, named.name) || !ssd_supports(args_of(0), named.variant)) continue;
    contenders.push_back({std::string(named.name), sets,
                          [&args_of, variant = named.variant](std::int64_t i, cudaStream_t stream) {
                            return ssd(args_of(i), stream, variant);
                          }});
  }
  const auto samples_us = side_by_side(contenders, options.rounds);

  const double floor_us = static_cast<double>(shape.bytes()) / 4.3e6;  // an H200 copies 4.3 TB/s
  Json record = {{"model", shape.model},     {"heads", shape.heads},
                 {"batch", shape.batch},     {"length", shape.length},
                 {"bytes", shape.bytes()},   {"sets", sets},
                 {"floor_us", floor_us},     {"workspace_bytes", workspace_bytes},
                 {"variants", Json::array()}};
  fmt::print(stderr, "{} (H {}), B {} L {}: {} sets, floor of bytes {:.1f} us\n", shape.model,
             shape.heads, shape.batch, shape.length, sets, floor_us);
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const double median_us = median(samples_us[i]);
    fmt::print(stderr, "  {:10} {:9.1f} us  [{:.1f}, {:.1f}]  {:.2f} x floor\n", contenders[i].name,
               median_us, quantile(samples_us[i], 0.05), quantile(samples_us[i], 0.95),
               median_us / floor_us);
    record["variants"].push_back(
        {{"name", contenders[i].name}, {"median_us", median_us}, {"samples_us", samples_us[i]}});
  }
  return record;
}

int run(const Options& options, const std::string& command) {
  Json record = record_of("icd-ssd-bench-1", command, options);
  record["checks"] = Json::array();
  record["shapes"] = Json::array();

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

  std::uint64_t key = 1;
  for (const Shape& shape : all_shapes()) {
    record["shapes"].push_back(run_shape(shape, options, Random::derived(options.seed, ++key)));
  }
  write_record(record, options);
  return all_agree ? 0 : 1;
}

}  // namespace
}  // namespace icd::experiments

int main(int argc, char** argv) {
  icd::experiments::Options options;
  options.rounds = 31;
  CLI::App app("Times the ways of the Mamba-2 prefill side by side.", "ssd_bench");
  app.add_option("--variant", options.variants, "Only these, of kernels/ssd.h");
  return icd::experiments::timing_main(app, options, argc, argv, [&](const std::string& command) {
    return icd::experiments::run(options, command);
  });
}
