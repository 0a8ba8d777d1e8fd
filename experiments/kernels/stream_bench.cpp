// stream_bench [--rounds N] [--only TEXT] [--seed N] [--commit C] [--driver V] [--json FILE]
//
// Times what only streams its tensors through (causal_conv1d, its update, rms_norm) beside
// cudaMemcpyAsync of as many bytes, in bf16, on the shapes of mamba-130m and mamba-2.8b. A table
// goes to standard output, all samples to FILE. Agreement with the reference is the tests' matter.
//
// A contender is a CUDA graph of its call on one set of tensors after the other, as many as L2
// cannot hold; how they take turns is in side_by_side.h. "again" is the kernel once more, which
// shows what is noise.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/kernels/beside_copy.h"
#include "icd/permutation.h"
#include "kernels/causal_conv1d.h"
#include "kernels/rms_norm.h"

namespace icd::experiments {
namespace {

constexpr std::int64_t kBytes = kBf16Bytes;
constexpr std::int64_t kWidth = 4;
constexpr std::int64_t kMostColumns = 5120;

struct Options : TimingOptions {
  std::string only;
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

Json run_case(const Case& c, const Options& options, DeviceBuffer& arena) {
  Json record = {
      {"name", c.name},           {"model", c.shape.model},       {"batch", c.shape.batch},
      {"length", c.shape.length}, {"channels", c.shape.channels}, {"type", "bf16"},
      {"bytes", c.bytes}};
  const Arena sets = {arena.data(), c.set_bytes, sets_of(c.set_bytes)};
  const std::string columns =
      beside_copy(c.name, c.bytes, sets, sets, c.bytes, c.call, options.rounds, record);
  fmt::print("{:25} {:5} {:3} {:5} {}\n", c.name, c.shape.model, c.shape.batch, c.shape.length,
             columns);
  std::fflush(stdout);
  return record;
}

int run(const Options& options, const std::string& command) {
  Json record = record_of("icd-stream-bench-1", command, options);
  record["cases"] = Json::array();

  Random random(options.seed);
  DeviceBuffer weights(kMostColumns * (kWidth + 1) * kBytes);
  DeviceBuffer norm_weights(kMostColumns * 4);
  fill_with_normal(weights, Random::derived(options.seed, 1));
  fill_with_normal(norm_weights, Random::derived(options.seed, 2));
  std::vector<Index> orders;
  for (const Index columns : {Index{1536}, Index{kMostColumns}}) {
    const Permutation order = random_permutation(columns, random);
    orders.insert(orders.end(), order.gather().begin(), order.gather().end());
  }
  const auto device_orders = on_device(orders);

  std::vector<Case> cases =
      all_cases({weights.data(), weights.data() + kMostColumns * kWidth * kBytes,
                 reinterpret_cast<const float*>(norm_weights.data()),
                 reinterpret_cast<const std::int32_t*>(device_orders->data())});
  std::erase_if(cases,
                [&](const Case& c) { return c.name.find(options.only) == std::string::npos; });
  std::int64_t arena_bytes = 0;
  for (const Case& c : cases)
    arena_bytes = std::max(arena_bytes, sets_of(c.set_bytes) * c.set_bytes);
  DeviceBuffer arena(std::max<std::int64_t>(arena_bytes, kBytes));

  fmt::print("{:25} {:5} {:>3} {:>5} {}\n", "bf16", "shape", "B", "L", copy_columns());
  for (const Case& c : cases) {
    fill_with_normal(arena, Random::derived(options.seed, 3));
    record["cases"].push_back(run_case(c, options, arena));
  }
  write_record(record, options);
  return 0;
}

}  // namespace
}  // namespace icd::experiments

int main(int argc, char** argv) {
  icd::experiments::Options options;
  CLI::App app("Times kernels that only stream their tensors beside a copy.", "stream_bench");
  app.add_option("--only", options.only, "Cases whose name contains this");
  return icd::experiments::timing_main(app, options, argc, argv, [&](const std::string& command) {
    return icd::experiments::run(options, command);
  });
}
