// decode_bench [--rounds N] [--only TEXT] [--seed N] [--commit C] [--driver V] [--json FILE]
//
// Times what runs once a token (state_update, head_state_update, skip_zero_gemv) and the
// block-sparse product beside cudaMemcpyAsync of as many bytes. A table goes to standard output,
// all samples to FILE. Agreement with the reference is the tests' matter.
//
// A contender is a CUDA graph of its call on one set of tensors (a layer) after the other, more
// than L2 holds, timed between events. Contenders take turns, in reversed order every other round;
// "again" is the kernel once more, which shows what is noise. "needs" are the bytes that a call has
// to move, "sectors" those of the sectors of 32 bytes that they lie in: what an order can change.
// The copy moves as many bytes as the sectors hold.

#include <cuda_runtime_api.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
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

#include "icd/bench_statistics.h"
#include "icd/random.h"
#include "kernels/block_sparse_gemm.h"
#include "kernels/cuda_error.h"
#include "kernels/device.h"
#include "kernels/device_buffer.h"
#include "kernels/element.h"
#include "kernels/skip_zero_gemv.h"
#include "kernels/state_update.h"

namespace icd {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kBytes = 2;  // of a bf16
constexpr std::int64_t kSector = 32;

struct Options {
  int rounds = 41;
  std::string only;
  std::uint64_t seed = 7;
  std::string commit;
  std::string driver;
  std::string json;
};

struct Case {
  std::string name;
  std::string shape;
  std::int64_t needs;                          // bytes
  std::int64_t sectors;                        // bytes of them
  std::int64_t set_bytes;                      // what its tensors take
  std::function<void(std::uint8_t*)> prepare;  // what may not be any bf16
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

template <typename Value>
std::shared_ptr<DeviceBuffer> on_device(const std::vector<Value>& values) {
  const auto bytes = static_cast<std::int64_t>(values.size() * sizeof(Value));
  auto buffer = std::make_shared<DeviceBuffer>(bytes);
  check(cudaMemcpy(buffer->data(), values.data(), static_cast<std::size_t>(bytes),
                   cudaMemcpyHostToDevice),
        "cudaMemcpy");
  return buffer;
}

void copy_in(std::uint8_t* to, const DeviceBuffer& from) {
  check(
      cudaMemcpy(to, from.data(), static_cast<std::size_t>(from.bytes()), cudaMemcpyDeviceToDevice),
      "cudaMemcpy");
}

// Which channels or columns are active.
enum class Active { all, clustered, spread };  // a quarter: neighbours, or every fourth

const char* text(Active active) {
  return active == Active::all         ? "all"
         : active == Active::clustered ? "25 % clustered"
                                       : "25 % spread";
}
std::int64_t active_of(Active active, std::int64_t all) {
  return active == Active::all ? all : all / 4;
}
std::vector<std::int32_t> active_list(Active active, std::int64_t all) {
  std::vector<std::int32_t> list;
  const std::int64_t step = active == Active::spread ? 4 : 1;
  for (std::int64_t i = 0; i < active_of(active, all); ++i) {
    list.push_back(static_cast<std::int32_t>(i * step));
  }
  return list;
}

// Bytes of the sectors that hold the active ones of `all` neighbouring elements.
std::int64_t sectors_of(Active active, std::int64_t all, std::int64_t element) {
  const std::int64_t step = active == Active::spread ? 4 * element : element;
  return active_of(active, all) * std::min(step, kSector);
}

// A whole number a state, as an untrained model has it: states stay bounded over many calls.
std::vector<float> decays(std::int64_t channels, std::int64_t states) {
  std::vector<float> A;
  for (std::int64_t i = 0; i < channels * states; ++i) {
    A.push_back(-static_cast<float>(i % states + 1));
  }
  return A;
}

Case update_case(std::int64_t batch, std::int64_t channels, std::int32_t state_type,
                 std::int32_t layout, Active active) {
  constexpr std::int64_t kStates = 16;
  const std::int64_t state_bytes = element_bytes(state_type);
  const std::int64_t rows = batch * channels * kBytes;
  Carver set;
  const std::int64_t state = set.take(batch * channels * kStates * state_bytes);
  const std::int64_t A = set.take(channels * kStates * 4);
  const std::int64_t u = set.take(rows);
  const std::int64_t dt = set.take(rows);
  const std::int64_t z = set.take(rows);
  const std::int64_t y = set.take(rows);
  const std::int64_t B = set.take(batch * kStates * kBytes);
  const std::int64_t C = set.take(batch * kStates * kBytes);
  StateUpdate args = {};
  args.batch = batch;
  args.channels = channels;
  args.states = kStates;
  args.type = ICD_BF16;
  args.softplus = 1;
  args.state_type = state_type;
  args.state_layout = layout;
  args.u = args.dt = args.z = args.y = {nullptr, channels, 0, 1};
  args.B = args.C = {nullptr, kStates, 0, 1};
  std::shared_ptr<DeviceBuffer> list;
  if (active != Active::all) {
    list = on_device(active_list(active, channels));
    args.active = reinterpret_cast<const std::int32_t*>(list->data());
    args.active_count = active_of(active, channels);
  }
  const auto decay = on_device(decays(channels, kStates));

  const std::int64_t updated = active_of(active, channels);
  const std::int64_t shared = updated * kStates * 4 + 2 * batch * kStates * kBytes;
  const bool by_channel = layout == ICD_STATE_ND;
  const std::int64_t state_sectors = by_channel
                                         ? kStates * sectors_of(active, channels, state_bytes)
                                         : sectors_of(active, channels, kStates * state_bytes);
  return {fmt::format("state_update {} {} {}", by_channel ? "[N][D]" : "[D][N]",
                      state_type == ICD_F32 ? "f32" : "bf16", text(active)),
          fmt::format("B {} D {}", batch, channels),
          batch * updated * (2 * kStates * state_bytes + 4 * kBytes) + shared,
          batch * (2 * state_sectors + 4 * sectors_of(active, channels, kBytes)) + shared,
          set.taken(),
          [=](std::uint8_t* at) { copy_in(at + A, *decay); },
          [=](std::uint8_t* at, cudaStream_t stream) {
            (void)list;  // lives as long as the case
            StateUpdate here = args;
            here.state = at + state;
            here.A = reinterpret_cast<const float*>(at + A);
            here.u.data = at + u;
            here.dt.data = at + dt;
            here.z.data = at + z;
            here.y.data = at + y;
            here.B.data = at + B;
            here.C.data = at + C;
            return state_update(here, stream);
          }};
}

Case head_case(std::int64_t batch, std::int32_t state_type) {
  constexpr std::int64_t kHeads = 80;  // of mamba2-2.7b
  constexpr std::int64_t kHeadDim = 64;
  constexpr std::int64_t kStates = 128;
  constexpr std::int64_t kChannels = kHeads * kHeadDim;
  const std::int64_t state_bytes = element_bytes(state_type);
  Carver set;
  const std::int64_t state = set.take(batch * kChannels * kStates * state_bytes);
  const std::int64_t x = set.take(batch * kChannels * kBytes);
  const std::int64_t z = set.take(batch * kChannels * kBytes);
  const std::int64_t y = set.take(batch * kChannels * kBytes);
  const std::int64_t dt = set.take(batch * kHeads * kBytes);
  const std::int64_t B = set.take(batch * kStates * kBytes);
  const std::int64_t C = set.take(batch * kStates * kBytes);
  HeadStateUpdate args = {};
  args.batch = batch;
  args.heads = kHeads;
  args.head_dim = kHeadDim;
  args.groups = 1;
  args.states = kStates;
  args.type = ICD_BF16;
  args.softplus = 1;
  args.state_type = state_type;
  args.x = args.z = args.y = {nullptr, kChannels, 0, 1};
  args.dt = {nullptr, kHeads, 0, 1};
  args.B = args.C = {nullptr, kStates, 0, 1};
  const auto decay = on_device(decays(kHeads, 1));
  args.A = reinterpret_cast<const float*>(decay->data());
  const std::int64_t needs = batch * (kChannels * (2 * kStates * state_bytes + 3 * kBytes) +
                                      kHeads * kBytes + 2 * kStates * kBytes);
  return {fmt::format("head_state_update {}", state_type == ICD_F32 ? "f32" : "bf16"),
          fmt::format("B {} 80x64x128", batch),
          needs,
          needs,
          set.taken(),
          [](std::uint8_t*) {},
          [=](std::uint8_t* at, cudaStream_t stream) {
            (void)decay;  // lives as long as the case
            HeadStateUpdate here = args;
            here.state = at + state;
            here.x.data = at + x;
            here.z.data = at + z;
            here.y.data = at + y;
            here.dt.data = at + dt;
            here.B.data = at + B;
            here.C.data = at + C;
            return head_state_update(here, stream);
          }};
}

Case gemv_case(std::int64_t rows, std::int64_t columns, std::int32_t input_major, Active active) {
  SkipZeroGemv args = {};
  args.rows = rows;
  args.columns = columns;
  args.type = ICD_BF16;
  args.input_major = input_major;
  Carver set;
  const std::int64_t W = set.take(rows * columns * kBytes);
  const std::int64_t x = set.take(columns * kBytes);
  const std::int64_t y = set.take(rows * kBytes);
  const std::int64_t workspace = set.take(skip_zero_gemv_workspace(args));
  std::vector<std::uint16_t> values(static_cast<std::size_t>(columns));
  for (const std::int32_t c : active_list(active, columns)) {
    values[static_cast<std::size_t>(c)] = to_bfloat(1);
  }
  const auto vector = on_device(values);
  const std::int64_t others = (rows + columns) * kBytes;
  const std::int64_t fetched = input_major != 0 ? active_of(active, columns) * rows * kBytes
                                                : rows * sectors_of(active, columns, kBytes);
  return {fmt::format("skip_zero_gemv {} {}", input_major != 0 ? "input-major" : "row-major",
                      text(active)),
          fmt::format("{} x {}", rows, columns),
          active_of(active, columns) * rows * kBytes + others,
          fetched + others,
          set.taken(),
          [=](std::uint8_t* at) { copy_in(at + x, *vector); },
          [=](std::uint8_t* at, cudaStream_t stream) {
            SkipZeroGemv here = args;
            here.W = at + W;
            here.x = at + x;
            here.y = at + y;
            here.workspace = at + workspace;
            return skip_zero_gemv(here, stream);
          }};
}

Case block_case(std::int64_t tokens, std::int32_t block, int percent, Random random) {
  constexpr std::int64_t kRows = 2560;
  constexpr std::int64_t kColumns = 5120;
  std::vector<std::int32_t> starts = {0};
  std::vector<std::int32_t> columns_of;
  for (std::int64_t r = 0; r < kRows / block; ++r) {
    for (std::int32_t c = 0; c < kColumns / block; ++c) {
      if (random.below(100) < static_cast<std::uint64_t>(percent)) columns_of.push_back(c);
    }
    starts.push_back(static_cast<std::int32_t>(columns_of.size()));
  }
  const auto device_starts = on_device(starts);
  const auto device_columns = on_device(columns_of);
  const auto stored = static_cast<std::int64_t>(columns_of.size());
  Carver set;
  const std::int64_t values = set.take(stored * block * block * kBytes);
  const std::int64_t x = set.take(tokens * kColumns * kBytes);
  const std::int64_t y = set.take(tokens * kRows * kBytes);
  BlockSparseGemm args;
  args.tokens = tokens;
  args.rows = kRows;
  args.columns = kColumns;
  args.block = block;
  args.type = ICD_BF16;
  args.x_row = kColumns;
  args.y_row = kRows;
  args.starts = reinterpret_cast<const std::int32_t*>(device_starts->data());
  args.columns_of = reinterpret_cast<const std::int32_t*>(device_columns->data());
  const std::int64_t needs = stored * block * block * kBytes + tokens * (kRows + kColumns) * kBytes;
  return {fmt::format("block_sparse_gemm {0}x{0} {1} %", block, percent),
          fmt::format("{} x 2560 x 5120", tokens),
          needs,
          needs,
          set.taken(),
          [](std::uint8_t*) {},
          [=](std::uint8_t* at, cudaStream_t stream) {
            (void)device_starts;  // both live as long as the case
            (void)device_columns;
            BlockSparseGemm here = args;
            here.values = at + values;
            here.x = at + x;
            here.y = at + y;
            return block_sparse_gemm(here, stream);
          }};
}

std::vector<Case> all_cases(std::uint64_t seed) {
  constexpr std::array kActive = {Active::all, Active::clustered, Active::spread};
  std::vector<Case> cases;
  for (const std::int32_t layout : {ICD_STATE_DN, ICD_STATE_ND}) {
    for (const std::int32_t state_type : {ICD_BF16, ICD_F32}) {
      for (const Active active : kActive) {
        for (const std::int64_t channels : {1536, 5120}) {
          for (const std::int64_t batch : {1, 8, 64}) {
            cases.push_back(update_case(batch, channels, state_type, layout, active));
          }
        }
      }
    }
  }
  for (const std::int32_t state_type : {ICD_BF16, ICD_F32}) {
    for (const std::int64_t batch : {1, 8, 64}) cases.push_back(head_case(batch, state_type));
  }
  for (const std::int32_t input_major : {0, 1}) {
    for (const Active active : kActive) {
      cases.push_back(gemv_case(2560, 5120, input_major, active));
      cases.push_back(gemv_case(5120, 10240, input_major, active));
    }
  }
  for (const std::int64_t tokens : {64, 1024}) {
    for (const std::int32_t block : {16, 32, 64}) {
      for (const int percent : {12, 25, 50, 100}) {
        cases.push_back(block_case(tokens, block, percent, Random::derived(seed, 5)));
      }
    }
  }
  return cases;
}

// bf16 from a normal distribution, and of pairs of them f32 that are as harmless. The period is
// odd, so that rows differ.
void fill(DeviceBuffer& buffer, Random random) {
  std::vector<std::uint16_t> some(
      static_cast<std::size_t>(std::min<std::int64_t>(1'000'003, buffer.bytes() / kBytes)));
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
std::int64_t sets_of(std::int64_t set_bytes) {
  constexpr std::int64_t kBeyondL2 = 240'000'000;
  return std::clamp<std::int64_t>(kBeyondL2 / set_bytes + 1, 1, 512);
}

// Sets of the case, and apart from them those that are copied.
struct Arenas {
  DeviceBuffer sets;
  DeviceBuffer copies;
};

std::int64_t copy_bytes(const Case& c) { return (c.sectors / 2 + 255) / 256 * 512; }

Json run_case(const Case& c, const Options& options, Arenas& arenas, cudaStream_t stream) {
  constexpr std::array<const char*, 3> kContenders = {"copy", "kernel", "again"};
  const std::int64_t sets = sets_of(c.set_bytes);
  const std::int64_t copies = sets_of(copy_bytes(c));
  for (std::int64_t i = 0; i < sets; ++i) c.prepare(arenas.sets.data() + i * c.set_bytes);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");  // the stream does not wait for it
  // About 300 us a sample, so that a launch and the clock's half microsecond do not show.
  const double guess_us = std::max(2.5, static_cast<double>(c.sectors) / 4e6);
  const auto calls = std::max<std::int64_t>(sets, static_cast<std::int64_t>(300 / guess_us));
  const auto copy = [&] {
    const std::int64_t half = copy_bytes(c) / 2;
    for (std::int64_t i = 0; i < calls; ++i) {
      std::uint8_t* at = arenas.copies.data() + i % copies * copy_bytes(c);
      check(cudaMemcpyAsync(at + half, at, static_cast<std::size_t>(half), cudaMemcpyDeviceToDevice,
                            stream),
            "cudaMemcpyAsync");
    }
  };
  const auto kernel = [&] {
    for (std::int64_t i = 0; i < calls; ++i) {
      check(c.call(arenas.sets.data() + i % sets * c.set_bytes, stream), c.name.c_str());
    }
  };
  std::array<Graph, 3> graphs = {Graph(stream, copy), Graph(stream, kernel), Graph(stream, kernel)};

  for (Graph& graph : graphs) graph.time_us();
  std::array<std::vector<double>, 3> samples_us;
  for (int round = 0; round < options.rounds; ++round) {
    for (std::size_t k = 0; k < graphs.size(); ++k) {
      const std::size_t i = round % 2 == 0 ? k : graphs.size() - 1 - k;
      samples_us[i].push_back(graphs[i].time_us() / static_cast<double>(calls));
    }
  }

  const double copy_us = median(samples_us[0]);
  const double kernel_us = median(samples_us[1]);
  const PairedRatio of_copy = paired_ratio(samples_us[1], samples_us[0]);
  const PairedRatio again = paired_ratio(samples_us[1], samples_us[2]);
  const double tb_per_s = static_cast<double>(c.sectors) / kernel_us * 1e-6;
  fmt::print(
      "{:42} {:17} {:8.2f} {:8.2f} {:9.2f} {:6.2f} {:9.2f} {:6.1f} [{:5.1f}, {:5.1f}] {:6.3f}\n",
      c.name, c.shape, 1e-6 * static_cast<double>(c.needs), 1e-6 * static_cast<double>(c.sectors),
      kernel_us, tb_per_s, copy_us, 100 * of_copy.median, 100 * of_copy.low, 100 * of_copy.high,
      again.median);
  std::fflush(stdout);

  Json record = {{"name", c.name},
                 {"shape", c.shape},
                 {"needs_bytes", c.needs},
                 {"sector_bytes", c.sectors},
                 {"sets", sets},
                 {"calls_in_sample", calls},
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
  Json record = {{"schema", "icd-decode-bench-1"},
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

  std::vector<Case> cases = all_cases(options.seed);
  std::erase_if(cases,
                [&](const Case& c) { return c.name.find(options.only) == std::string::npos; });
  std::int64_t set_bytes = kBytes;
  std::int64_t copied_bytes = kBytes;
  for (const Case& c : cases) {
    set_bytes = std::max(set_bytes, sets_of(c.set_bytes) * c.set_bytes);
    copied_bytes = std::max(copied_bytes, sets_of(copy_bytes(c)) * copy_bytes(c));
  }
  Arenas arenas = {DeviceBuffer(set_bytes), DeviceBuffer(copied_bytes)};
  fill(arenas.copies, Random::derived(options.seed, 4));

  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  fmt::print("{:42} {:17} {:>8} {:>8} {:>9} {:>6} {:>9} {:>6} {:16} {:>6}\n", "bf16", "shape",
             "needs MB", "sectors", "us", "TB/s", "copy us", "% copy", " 95 %", "again");
  for (const Case& c : cases) {
    fill(arenas.sets, Random::derived(options.seed, 3));
    record["cases"].push_back(run_case(c, options, arenas, stream));
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
  CLI::App app("Times the kernels of decoding, and a block-sparse product, beside a copy.",
               "decode_bench");
  app.add_option("--rounds", options.rounds, "Samples of a contender")->check(CLI::PositiveNumber);
  app.add_option("--only", options.only, "Cases whose name contains this");
  app.add_option("--seed", options.seed, "Of inputs and blocks");
  app.add_option("--commit", options.commit, "For the record: of this program's sources");
  app.add_option("--driver", options.driver, "For the record: NVIDIA's driver version");
  app.add_option("--json", options.json, "All samples go to this file");
  CLI11_PARSE(app, argc, argv);
  std::string command = "decode_bench";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    return icd::run(options, command);
  } catch (const std::exception& error) {
    fmt::print(stderr, "decode_bench: error: {}\n", error.what());
    return 1;
  }
}
