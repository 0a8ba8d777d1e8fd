// decode_bench [--rounds N] [--only TEXT] [--seed N] [--commit C] [--driver V] [--json FILE]
//
// Times what runs once a token (state_update, head_state_update, skip_zero_gemv) and the
// block-sparse product beside cudaMemcpyAsync of as many bytes. A table goes to standard output,
// all samples to FILE. Agreement with the reference is the tests' matter.
//
// A contender is a CUDA graph of its call on one set of tensors (a layer) after the other, more
// than L2 holds; how they take turns is in side_by_side.h. "again" is the kernel once more, which
// shows what is noise. "needs" are the bytes that a call has
// to move, "sectors" those of the sectors of 32 bytes that they lie in: what an order can change.
// The copy moves as many bytes as the sectors hold.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "experiments/kernels/beside_copy.h"
#include "kernels/block_sparse_gemm.h"
#include "kernels/skip_zero_gemv.h"
#include "kernels/state_update.h"

namespace icd::experiments {
namespace {

constexpr std::int64_t kBytes = kBf16Bytes;
constexpr std::int64_t kSector = 32;

struct Options : TimingOptions {
  std::string only;
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

// Bytes of the sectors that hold the active ones of `all` neighbouring elements, which are parts of
// a sector or whole ones.
std::int64_t sectors_of(Active active, std::int64_t all, std::int64_t element) {
  const std::int64_t step = active == Active::spread ? 4 * element : element;
  return active_of(active, all) * std::min(step, std::max(element, kSector));
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

// Sets of the case, and apart from them those that are copied.
struct Arenas {
  DeviceBuffer sets;
  DeviceBuffer copies;
};

std::int64_t copy_bytes(const Case& c) { return (c.sectors / 2 + 255) / 256 * 512; }

Json run_case(const Case& c, const Options& options, Arenas& arenas) {
  const Arena sets = {arenas.sets.data(), c.set_bytes, sets_of(c.set_bytes)};
  const Arena copies = {arenas.copies.data(), copy_bytes(c), sets_of(copy_bytes(c))};
  for (std::int64_t i = 0; i < sets.sets; ++i) c.prepare(sets.at(i));
  Json record = {
      {"name", c.name}, {"shape", c.shape}, {"needs_bytes", c.needs}, {"sector_bytes", c.sectors}};
  const std::string columns =
      beside_copy(c.name, c.sectors, sets, copies, copy_bytes(c), c.call, options.rounds, record);
  fmt::print("{:42} {:17} {:8.2f} {:8.2f} {}\n", c.name, c.shape,
             1e-6 * static_cast<double>(c.needs), 1e-6 * static_cast<double>(c.sectors), columns);
  std::fflush(stdout);
  return record;
}

int run(const Options& options, const std::string& command) {
  Json record = record_of("icd-decode-bench-1", command, options);
  record["cases"] = Json::array();

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
  fill_with_normal(arenas.copies, Random::derived(options.seed, 4));

  fmt::print("{:42} {:17} {:>8} {:>8} {}\n", "bf16", "shape", "needs MB", "sectors",
             copy_columns());
  for (const Case& c : cases) {
    fill_with_normal(arenas.sets, Random::derived(options.seed, 3));
    record["cases"].push_back(run_case(c, options, arenas));
  }
  write_record(record, options);
  return 0;
}

}  // namespace
}  // namespace icd::experiments

int main(int argc, char** argv) {
  icd::experiments::Options options;
  CLI::App app("Times the kernels of decoding, and a block-sparse product, beside a copy.",
               "decode_bench");
  app.add_option("--only", options.only, "Cases whose name contains this");
  return icd::experiments::timing_main(app, options, argc, argv, [&](const std::string& command) {
    return icd::experiments::run(options, command);
  });
}
