// burn_in_bench [--rounds N] [--channels D --length L] [--seed N] [--commit C] [--driver V]
//               [--json FILE]
//
// Times the selective scan of one sequence in chunks that start cold, where the channels of a tile
// forget fast enough, beside the whole scan: see burn_in.md. The outputs of chunks are held to
// those of the whole. A table goes to standard output, all samples to FILE. Exit status 1 if an
// output differs by more than roundings.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "experiments/kernels/side_by_side.h"
#include "experiments/scan/burn_in_plan.h"
#include "kernels/selective_scan.h"

namespace icd::experiments {
namespace {

constexpr std::int64_t kStates = 16;
constexpr std::array<std::int64_t, 4> kMostChunks = {2, 4, 8, 16};
// Relative L2. Sums in another order move one bf16 in a thousand or so to a neighbour, 1e-4 in all;
// a tenth of the burn-in would leave 2e-3.
constexpr double kAgrees = 4e-4;

struct Shape {
  std::int64_t channels;
  std::int64_t length;

  std::int64_t elements() const { return channels * length; }
};

struct Options : TimingOptions {
  Shape only = {0, 0};
};

constexpr std::array<Shape, 4> kShapes = {
    {{1536, 2048}, {1536, 16384}, {5120, 2048}, {5120, 16384}}};

/// Median steps of channels, log-uniform.
struct Mode {
  const char* name;
  double least;
  double most;
};

constexpr std::array<Mode, 3> kModes = {
    {{"1: initialised", 1e-3, 1e-1}, {"2: trained", 1e-5, 0.11}, {"3: all fast", 0.02, 0.2}}};

/// Values of the largest shape; those of others are the first of them.
struct Values {
  DeviceBuffer u, dt, z, B, C;
  std::vector<std::uint16_t> host_dt;

  Values(const Shape& largest, std::uint64_t seed)
      : u(kBf16Bytes * largest.elements()),
        dt(kBf16Bytes * largest.elements()),
        z(kBf16Bytes * largest.elements()),
        B(kBf16Bytes * largest.length * kStates),
        C(kBf16Bytes * largest.length * kStates),
        host_dt(static_cast<std::size_t>(largest.elements())) {
    fill_with_normal(u, Random::derived(seed, 1));
    fill_with_normal(dt, Random::derived(seed, 2), 0.5);
    fill_with_normal(z, Random::derived(seed, 3));
    fill_with_normal(B, Random::derived(seed, 4));
    fill_with_normal(C, Random::derived(seed, 5));
    check(
        cudaMemcpy(host_dt.data(), dt.data(), host_dt.size() * kBf16Bytes, cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  }
};

/// The parameters of a layer in host memory.
struct Weights {
  std::vector<float> A;        ///< (channels, kStates)
  std::vector<float> D;        ///< (channels)
  std::vector<float> bias;     ///< (channels)
  std::vector<float> slowest;  ///< (channels): the least |A|

  /// Slowest channels first, or as they come.
  Weights(const Mode& mode, std::int64_t channels, bool is_sorted, Random random) {
    struct Channel {
      std::array<float, kStates> A;
      float D, step, slowest;
    };
    std::vector<Channel> all(static_cast<std::size_t>(channels));
    for (Channel& channel : all) {
      channel.step =
          static_cast<float>(mode.least * std::pow(mode.most / mode.least, random.uniform()));
      channel.D = static_cast<float>(random.normal());
      channel.slowest = INFINITY;
      for (std::size_t n = 0; n < kStates; ++n) {
        const double rate = static_cast<double>(n + 1) * std::exp(0.3 * random.normal());
        channel.A[n] = -static_cast<float>(rate);
        channel.slowest = std::min(channel.slowest, -channel.A[n]);
      }
    }
    if (is_sorted) {
      std::stable_sort(all.begin(), all.end(), [](const Channel& a, const Channel& b) {
        return a.step * a.slowest < b.step * b.slowest;
      });
    }
    for (const Channel& channel : all) {
      A.insert(A.end(), channel.A.begin(), channel.A.end());
      D.push_back(channel.D);
      bias.push_back(std::log(std::expm1(channel.step)));
      slowest.push_back(channel.slowest);
    }
  }
};

/// Sets of tensors that L2 cannot hold between them, with the same values.
class Sets {
 public:
  Sets(const Shape& shape, const Values& values)
      : shape_(shape), count_(sets_of(4 * kBf16Bytes * shape.elements())) {
    const std::int64_t tensor = kBf16Bytes * shape.elements();
    const std::int64_t states = kBf16Bytes * shape.length * kStates;
    Carver carver;
    u_ = carver.take(tensor);
    dt_ = carver.take(tensor);
    z_ = carver.take(tensor);
    B_ = carver.take(states);
    C_ = carver.take(states);
    y_ = carver.take(tensor);
    chunks_ = carver.take(tensor + tensor / 2);  // burn-in adds no more than half
    set_bytes_ = carver.taken();
    memory_ = std::make_unique<DeviceBuffer>(count_ * set_bytes_);
    for (std::int64_t s = 0; s < count_; ++s) {
      const auto copy = [&](std::int64_t to, const DeviceBuffer& from, std::int64_t bytes) {
        check(cudaMemcpy(at(s, to), from.data(), static_cast<std::size_t>(bytes),
                         cudaMemcpyDeviceToDevice),
              "cudaMemcpy");
      };
      copy(u_, values.u, tensor);
      copy(dt_, values.dt, tensor);
      copy(z_, values.z, tensor);
      copy(B_, values.B, states);
      copy(C_, values.C, states);
    }
  }

  std::int64_t count() const { return count_; }
  std::uint8_t* y(std::int64_t set) const { return at(set, y_); }
  std::uint8_t* chunks(std::int64_t set) const { return at(set, chunks_); }

  /// The whole scan, but for parameters.
  SelectiveScan args(std::int64_t set) const {
    const auto strided = [&](std::int64_t from, std::int64_t channels) {
      return Strided{at(set, from), shape_.length * channels, channels, 1};
    };
    SelectiveScan args = {};
    args.batch = 1;
    args.length = shape_.length;
    args.channels = shape_.channels;
    args.states = kStates;
    args.type = ICD_BF16;
    args.softplus = 1;
    args.u = strided(u_, shape_.channels);
    args.dt = strided(dt_, shape_.channels);
    args.z = strided(z_, shape_.channels);
    args.B = strided(B_, kStates);
    args.C = strided(C_, kStates);
    args.y = strided(y_, shape_.channels);
    return args;
  }

 private:
  std::uint8_t* at(std::int64_t set, std::int64_t tensor) const {
    return memory_->data() + set * set_bytes_ + tensor;
  }

  Shape shape_;
  std::int64_t count_;
  std::int64_t u_, dt_, z_, B_, C_, y_, chunks_;
  std::int64_t set_bytes_;
  std::unique_ptr<DeviceBuffer> memory_;
};

/// A stream beside another one.
class Side {
 public:
  explicit Side(int priority) {
    check(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, priority),
          "cudaStreamCreateWithPriority");
    check(cudaEventCreateWithFlags(&reached_, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  }
  ~Side() {
    cudaEventDestroy(reached_);
    cudaStreamDestroy(stream_);
  }
  Side(const Side&) = delete;
  Side& operator=(const Side&) = delete;

  cudaStream_t stream() const { return stream_; }
  /// Lets `to` go on when what is in `from` by now is done. The event is this stream's.
  void follow(cudaStream_t to, cudaStream_t from) {
    check(cudaEventRecord(reached_, from), "cudaEventRecord");
    check(cudaStreamWaitEvent(to, reached_, 0), "cudaStreamWaitEvent");
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t reached_ = nullptr;
};

/// The calls of a plan, each on a stream of its own, whole tiles first and with priority.
class SideBySide {
 public:
  /// `design`: of chunks; automatic is what as many channels in one call would take. Whole tiles
  /// are left to automatic.
  SideBySide(std::shared_ptr<const Sets> sets, const SelectiveScan& parameters,
             std::vector<ChannelRange> plan, ScanVariant design)
      : sets_(std::move(sets)), parameters_(parameters), plan_(std::move(plan)) {
    std::stable_partition(plan_.begin(), plan_.end(),
                          [](const ChannelRange& range) { return range.cut.chunks == 1; });
    SelectiveScan together = whole(0);
    together.workspace = sets_->y(0);  // it is only asked whether there is one
    together.channels = 0;
    for (const ChannelRange& range : plan_) together.channels += range.sequences();
    design_ = design == ScanVariant::automatic ? selective_scan_choice(together) : design;
    int least = 0;
    int greatest = 0;
    check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "cudaDeviceGetStreamPriorityRange");
    std::int64_t used = 0;
    for (const ChannelRange& range : plan_) {
      const bool is_cut = range.cut.chunks > 1;
      sides_.push_back(std::make_unique<Side>(is_cut ? least : greatest));
      outputs_.push_back(used);
      if (is_cut) used += range.sequences() * range.cut.tokens() * kBf16Bytes;
      workspaces_.push_back(std::make_unique<DeviceBuffer>(
          selective_scan_workspace(args_of(0, outputs_.size() - 1), design_of(range)) + 1));
    }
  }

  ScanVariant design() const { return design_; }

  cudaError_t call(std::int64_t set, cudaStream_t stream) const {
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      Side& side = *sides_[i];
      side.follow(side.stream(), stream);
      const cudaError_t status =
          selective_scan(args_of(set, i), design_of(plan_[i]), side.stream());
      if (status != cudaSuccess) return status;
    }
    for (const auto& side : sides_) side->follow(stream, side->stream());
    return cudaSuccess;
  }

  /// (length, channels): the outputs of set 0, when all work is done.
  std::vector<std::uint16_t> outputs(const Shape& shape) const {
    std::vector<std::uint16_t> all(static_cast<std::size_t>(shape.elements()));
    const auto copy = [](std::vector<std::uint16_t>& to, const std::uint8_t* from) {
      check(cudaMemcpy(to.data(), from, to.size() * kBf16Bytes, cudaMemcpyDeviceToHost),
            "cudaMemcpy");
    };
    copy(all, sets_->y(0));
    for (std::size_t i = 0; i < plan_.size(); ++i) {
      const ChannelRange& range = plan_[i];
      if (range.cut.chunks == 1) continue;
      std::vector<std::uint16_t> chunks(
          static_cast<std::size_t>(range.sequences() * range.cut.tokens()));
      copy(chunks, sets_->chunks(0) + outputs_[i]);
      reference::each_row(shape.length, [&](std::int64_t t) {
        const std::int64_t k = range.cut.chunk_of(t);
        const std::int64_t row = k * range.cut.tokens() + t - k * range.cut.chunk;
        std::copy_n(chunks.begin() + row * range.channels, range.channels,
                    all.begin() + t * shape.channels + range.first);
      });
    }
    return all;
  }

 private:
  SelectiveScan whole(std::int64_t set) const {
    SelectiveScan args = sets_->args(set);
    args.A = parameters_.A;
    args.D = parameters_.D;
    args.dt_bias = parameters_.dt_bias;
    return args;
  }

  SelectiveScan args_of(std::int64_t set, std::size_t i) const {
    const ChannelRange& range = plan_[i];
    SelectiveScan args = whole(set);
    args.channels = range.channels;
    for (Strided* tensor : {&args.u, &args.dt, &args.z, &args.y}) {
      tensor->data = static_cast<std::uint8_t*>(tensor->data) + range.first * kBf16Bytes;
    }
    args.A += range.first * kStates;
    args.D += range.first;
    args.dt_bias += range.first;
    if (i < workspaces_.size()) args.workspace = workspaces_[i]->data();
    if (range.cut.chunks == 1) return args;
    args.batch = range.cut.chunks;
    args.length = range.cut.tokens();
    for (Strided* tensor : {&args.u, &args.dt, &args.z, &args.B, &args.C}) {
      tensor->batch = range.cut.chunk * tensor->token;
    }
    args.y = {sets_->chunks(set) + outputs_[i], args.length * range.channels, range.channels, 1};
    return args;
  }

  ScanVariant design_of(const ChannelRange& range) const {
    return range.cut.chunks == 1 ? ScanVariant::automatic : design_;
  }

  std::shared_ptr<const Sets> sets_;
  SelectiveScan parameters_;
  std::vector<ChannelRange> plan_;
  ScanVariant design_ = ScanVariant::automatic;
  std::vector<std::unique_ptr<Side>> sides_;
  std::vector<std::int64_t> outputs_;  // of chunks, in bytes
  std::vector<std::unique_ptr<DeviceBuffer>> workspaces_;
};

const char* name_of(ScanVariant variant) {
  for (const NamedScanVariant& named : kScanVariants) {
    if (named.variant == variant) return named.name;
  }
  return "?";
}

struct Difference {
  double relative_l2;
  double largest;  ///< over the root mean square of what was expected
  double changed;  ///< share of the outputs
};

Difference difference_of(const std::vector<std::uint16_t>& found,
                         const std::vector<std::uint16_t>& expected, const Shape& shape) {
  struct Row {
    double difference = 0;
    double norm = 0;
    double largest = 0;
    std::int64_t changed = 0;
  };
  std::vector<Row> rows(static_cast<std::size_t>(shape.length));
  reference::each_row(shape.length, [&](std::int64_t t) {
    Row row;
    for (std::int64_t i = t * shape.channels; i < (t + 1) * shape.channels; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const double y = from_bfloat(expected[at]);
      const double difference = std::fabs(from_bfloat(found[at]) - y);
      row.norm += y * y;
      row.difference += difference * difference;
      if (!(difference <= row.largest)) row.largest = difference;  // NaN, too
      if (found[at] != expected[at]) ++row.changed;
    }
    rows[static_cast<std::size_t>(t)] = row;
  });
  Row all;
  for (const Row& row : rows) {
    all.difference += row.difference;
    all.norm += row.norm;
    if (!(row.largest <= all.largest)) all.largest = row.largest;
    all.changed += row.changed;
  }
  const auto elements = static_cast<double>(shape.elements());
  return {std::sqrt(all.difference / all.norm), all.largest / std::sqrt(all.norm / elements),
          static_cast<double>(all.changed) / elements};
}

Json json_of(const std::vector<ChannelRange>& plan) {
  Json ranges = Json::array();
  for (const ChannelRange& range : plan) {
    ranges.push_back({{"first", range.first},
                      {"channels", range.channels},
                      {"chunks", range.cut.chunks},
                      {"chunk", range.cut.chunk},
                      {"burn_in", range.cut.burn_in}});
  }
  return ranges;
}

/// Times of `first` over those of `second`, round by round: median, and 5 % and 95 % of rounds.
std::array<double, 3> ratio_of(const std::vector<double>& first,
                               const std::vector<double>& second) {
  std::vector<double> ratios;
  for (std::size_t i = 0; i < first.size(); ++i) ratios.push_back(first[i] / second[i]);
  return {quantile(ratios, 0.5), quantile(ratios, 0.05), quantile(ratios, 0.95)};
}

/// One shape, statistics and order. Adds to `agree` whether all outputs do.
Json run_case(const Shape& shape, const Mode& mode, bool is_sorted, const Values& values,
              std::shared_ptr<const Sets> sets, const Options& options, bool& agree) {
  const Weights weights(mode, shape.channels, is_sorted, Random::derived(options.seed, 6));
  const Forgetting forgetting(shape.length, values.host_dt, weights.bias, weights.slowest);
  std::vector<std::pair<std::int64_t, std::vector<ChannelRange>>> plans;  // by most chunks
  std::int64_t cut = 0;
  double work = 1;  // over that of the whole, least of the plans
  for (const std::int64_t most : kMostChunks) {
    const auto plan = plan_of(forgetting, most);
    if (is_whole(plan) || (!plans.empty() && plans.back().second == plan)) {
      continue;
    }
    if (plans.empty()) {
      std::int64_t tokens = 0;
      for (const ChannelRange& range : plan) {
        if (range.cut.chunks > 1) cut += range.channels;
        tokens += range.sequences() * range.cut.tokens();
      }
      work = static_cast<double>(tokens) / static_cast<double>(shape.elements());
    }
    plans.emplace_back(most, plan);
  }
  const double share = static_cast<double>(cut) / static_cast<double>(shape.channels);
  const std::string order = is_sorted ? "sorted" : "random";
  fmt::print("D {} L {}, mode {}, {}: {:.0f} % of channels in chunks\n", shape.channels,
             shape.length, mode.name, order, 100 * share);
  Json record = {{"channels", shape.channels}, {"length", shape.length},
                 {"mode", mode.name},          {"order", order},
                 {"share_in_chunks", share},   {"least_work", work},
                 {"sets", sets->count()},      {"contenders", Json::array()}};
  if (plans.empty()) return record;

  const auto A = on_device(weights.A);
  const auto D = on_device(weights.D);
  const auto bias = on_device(weights.bias);
  const auto floats = [](DeviceBuffer& buffer) {
    return reinterpret_cast<const float*>(buffer.data());
  };
  SelectiveScan parameters = {};
  parameters.A = floats(*A);
  parameters.D = floats(*D);
  parameters.dt_bias = floats(*bias);

  const double expected_us = 9e-6 * static_cast<double>(shape.elements()) + 20;
  const std::int64_t calls =
      sets->count() *
      (static_cast<std::int64_t>(400 / (expected_us * static_cast<double>(sets->count()))) + 1);
  std::vector<Contender> contenders;
  std::vector<Json> notes;
  const auto add = [&](const std::string& name, const std::vector<ChannelRange>& plan,
                       ScanVariant design) {
    const auto variant = std::make_shared<SideBySide>(sets, parameters, plan, design);
    contenders.push_back({name, calls, [variant, sets](std::int64_t i, cudaStream_t stream) {
                            return variant->call(i % sets->count(), stream);
                          }});
    notes.push_back({{"name", name}, {"design", name_of(variant->design())}});
    return variant;
  };
  const Cut uncut = {1, shape.length, 0};
  const std::vector<ChannelRange> all_whole = {{0, shape.channels, uncut}};
  const auto whole = add("automatic", all_whole, ScanVariant::automatic);
  add("automatic again", all_whole, ScanVariant::automatic);
  const auto outputs_of = [&](const SideBySide& variant) {
    const auto elements = static_cast<std::size_t>(shape.elements());
    check(cudaMemset(sets->y(0), 0xff, elements * kBf16Bytes), "cudaMemset");
    check(cudaMemset(sets->chunks(0), 0xff, (elements + elements / 2) * kBf16Bytes), "cudaMemset");
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    check(variant.call(0, nullptr), "selective_scan");
    check(cudaDeviceSynchronize(), "selective_scan");
    return variant.outputs(shape);
  };
  const std::vector<std::uint16_t> expected = outputs_of(*whole);

  std::vector<ChannelRange> remembering;  // what every plan leaves whole
  for (const ChannelRange& range : plans.front().second) {
    if (range.cut.chunks == 1) remembering.push_back(range);
  }
  if (!remembering.empty()) add("whole tiles alone", remembering, ScanVariant::automatic);
  const std::size_t first_cut = contenders.size();
  for (const auto& [most, plan] : plans) {
    std::vector<ScanVariant> tried;
    for (const ScanVariant design :
         {ScanVariant::automatic, ScanVariant::roles_4_32, ScanVariant::roles_8_16}) {
      const auto variant = add(fmt::format("{} chunks, {}", most, name_of(design)), plan, design);
      if (std::find(tried.begin(), tried.end(), variant->design()) != tried.end()) {
        contenders.pop_back();
        notes.pop_back();
        continue;
      }
      notes.back()["plan"] = json_of(plan);
      tried.push_back(variant->design());
      if (tried.size() > 1) continue;  // of the other designs tests say that they agree
      const Difference difference = difference_of(outputs_of(*variant), expected, shape);
      notes.back()["relative_l2"] = difference.relative_l2;
      notes.back()["largest_difference"] = difference.largest;
      notes.back()["changed"] = difference.changed;
      if (!(difference.relative_l2 < kAgrees)) {
        agree = false;
        fmt::print("  {} DIFFERS: relative L2 {:.2e}, largest {:.2e}\n", contenders.back().name,
                   difference.relative_l2, difference.largest);
      }
    }
  }

  const auto samples_us = side_by_side(contenders, options.rounds);
  std::size_t best = first_cut;
  for (std::size_t i = 0; i < contenders.size(); ++i) {
    const double median = quantile(samples_us[i], 0.5);
    const auto ratio = ratio_of(samples_us[0], samples_us[i]);
    if (i >= first_cut && median < quantile(samples_us[best], 0.5)) best = i;
    notes[i]["median_us"] = median;
    notes[i]["speedup"] = ratio;
    notes[i]["samples_us"] = samples_us[i];
    const bool is_checked = notes[i].contains("relative_l2");
    fmt::print("  {:26} {:17} {:8.1f} us  {:.3f}x [{:.3f}, {:.3f}]{}\n", contenders[i].name,
               notes[i]["design"].get<std::string>(), median, ratio[0], ratio[1], ratio[2],
               is_checked ? fmt::format("  relative L2 {:.1e}, largest {:.1e}",
                                        notes[i]["relative_l2"].get<double>(),
                                        notes[i]["largest_difference"].get<double>())
                          : "");
    record["contenders"].push_back(notes[i]);
  }
  record["best"] = contenders[best].name;
  record["best_speedup"] = notes[best]["speedup"];
  fmt::print("  best: {}, {:.3f}x\n", contenders[best].name,
             notes[best]["speedup"][0].get<double>());
  return record;
}

int run(const Options& options, const std::string& command) {
  Json record = record_of("icd-burn-in-bench-1", command, options);
  record["cases"] = Json::array();
  std::vector<Shape> shapes(kShapes.begin(), kShapes.end());
  if (options.only.elements() > 0) shapes = {options.only};
  const Shape& largest =
      *std::max_element(shapes.begin(), shapes.end(),
                        [](const Shape& a, const Shape& b) { return a.elements() < b.elements(); });
  const Values values(largest, options.seed);
  bool agree = true;
  for (const Shape& shape : shapes) {
    const auto sets = std::make_shared<const Sets>(shape, values);
    for (const Mode& mode : kModes) {
      for (const bool is_sorted : {true, false}) {
        record["cases"].push_back(run_case(shape, mode, is_sorted, values, sets, options, agree));
      }
    }
  }
  write_record(record, options);
  return agree ? 0 : 1;
}

}  // namespace
}  // namespace icd::experiments

int main(int argc, char** argv) {
  icd::experiments::Options options;
  options.rounds = 31;
  CLI::App app("Times scans in chunks that start cold beside whole ones.", "burn_in_bench");
  auto* channels = app.add_option("--channels", options.only.channels, "Only this size: channels")
                       ->check(CLI::PositiveNumber);
  app.add_option("--length", options.only.length, "... and tokens, a multiple of 4")
      ->check(CLI::PositiveNumber)
      ->needs(channels);
  return icd::experiments::timing_main(app, options, argc, argv, [&](const std::string& command) {
    return icd::experiments::run(options, command);
  });
}
