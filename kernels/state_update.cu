#include <algorithm>

#include "kernels/launch.h"
#include "kernels/state_update.cuh"
#include "kernels/state_update.h"

namespace icd {
namespace {

constexpr int kPlainThreads = 128;
// Strides and sizes to this are taken by the kernels that count bytes in 32 bits.
constexpr std::int64_t kMostBytes = std::int64_t{1} << 28;

// Whether rows of a (batch, ...) tensor can be read in vectors.
template <typename T, int kCount>
bool fits(const Strided& tensor) {
  constexpr int kAlign = alignof(Vector<T, kCount>);
  return tensor.channel == 1 && is_aligned(tensor.data, kAlign) &&
         tensor.batch % (kAlign / static_cast<int>(sizeof(T))) == 0;
}

template <typename Work>
cudaError_t with_types(std::int32_t type, std::int32_t state_type, const Work& work) {
  return with_type(type, [&](auto element) {
    return with_type(state_type, [&](auto state) { return work(element, state); });
  });
}

bool is_small(std::int64_t n) { return n >= -kMostBytes && n <= kMostBytes; }

RowsInBytes in_bytes(const Strided& tensor, std::int32_t type) {
  const std::int64_t bytes = element_bytes(type);
  return {static_cast<char*>(tensor.data), static_cast<std::int32_t>(tensor.batch * bytes),
          static_cast<std::int32_t>(tensor.channel * bytes)};
}

bool has_small_strides(const StateUpdate& args) {
  for (const Strided* t : {&args.u, &args.dt, &args.z, &args.B, &args.C, &args.y}) {
    if (!is_small(t->batch) || !is_small(t->channel)) return false;
  }
  return is_small(args.batch) && is_small(args.channels) &&
         is_small(args.channels * kFastStates * element_bytes(args.state_type));
}

std::int64_t updated_of(const StateUpdate& args) {
  return args.active != nullptr ? args.active_count : args.channels;
}

// How a launch is cut into blocks.
struct Cut {
  std::int64_t channel_blocks;
  std::int64_t rows;  // of the batch, of a block
};

// As many batch rows a block as still leave `blocks_of_each` blocks a multiprocessor: what the rows
// of a channel share is read seldom and no multiprocessor is idle. A multiple of what a thread has
// under way.
Cut cut_of(const StateUpdate& args) {
  const bool is_nd = args.state_layout == ICD_STATE_ND;
  const int vector = 16 / static_cast<int>(element_bytes(args.state_type));
  const int channels =
      is_nd ? kChannelThreads : kUpdateThreads * vector / kFastStates * kUpdateGroups;
  const int blocks_of_each = is_nd ? 5 : 10;
  const int rows_under_way = is_nd ? kChannelRows : kUpdateRows;
  const std::int64_t channel_blocks = quotient_up(updated_of(args), channels);
  const std::int64_t wanted = std::int64_t{multiprocessors()} * blocks_of_each;
  const std::int64_t rows = quotient_up(args.batch * channel_blocks, wanted);
  return {channel_blocks, quotient_up(rows, rows_under_way) * rows_under_way};
}

FastStateUpdate fast(const StateUpdate& args) {
  const Cut cut = cut_of(args);
  const std::int64_t state_bytes = element_bytes(args.state_type);
  FastStateUpdate f = {};
  f.batch = static_cast<std::int32_t>(args.batch);
  f.updated = static_cast<std::int32_t>(updated_of(args));
  f.channel_blocks = static_cast<std::int32_t>(cut.channel_blocks);
  f.piece = static_cast<std::int32_t>(cut.rows);
  f.slot_bytes = static_cast<std::int32_t>(args.channels * kFastStates * state_bytes);
  f.state_bytes = static_cast<std::int32_t>(args.channels * state_bytes);
  f.softplus = args.softplus;
  f.u = in_bytes(args.u, args.type);
  f.dt = in_bytes(args.dt, args.type);
  f.z = in_bytes(args.z, args.type);
  f.B = in_bytes(args.B, args.type);
  f.C = in_bytes(args.C, args.type);
  f.y = in_bytes(args.y, args.type);
  f.A = args.A;
  f.D = args.D;
  f.dt_bias = args.dt_bias;
  f.state = static_cast<char*>(args.state);
  f.slots = args.slots;
  f.active = args.active;
  return f;
}

// Returns cudaErrorNotSupported, without a launch, for what is left to the plain kernel.
template <typename T, typename S>
cudaError_t launch_fast(const StateUpdate& args, cudaStream_t stream) {
  if (args.states != kFastStates || !is_aligned(args.A) || !has_small_strides(args)) {
    return cudaErrorNotSupported;
  }
  if (args.state_layout == ICD_STATE_ND) {
    if (!fits<T, 4>(args.B) || !fits<T, 4>(args.C)) return cudaErrorNotSupported;
    const FastStateUpdate f = fast(args);
    const auto blocks = f.channel_blocks * quotient_up(f.batch, f.piece);
    channel_state_update_kernel<T, S>
        <<<static_cast<unsigned int>(blocks), kChannelThreads, 0, stream>>>(f);
    return cudaGetLastError();
  }
  constexpr int kVector = 16 / static_cast<int>(sizeof(S));
  if (!is_aligned(args.state) || !fits<T, kVector>(args.B) || !fits<T, kVector>(args.C)) {
    return cudaErrorNotSupported;
  }
  const FastStateUpdate f = fast(args);
  const auto blocks = f.channel_blocks * quotient_up(f.batch, f.piece);
  state_update_kernel<T, S><<<static_cast<unsigned int>(blocks), kUpdateThreads, 0, stream>>>(f);
  return cudaGetLastError();
}

template <typename T, typename S>
cudaError_t launch_fast(const HeadStateUpdate& args, cudaStream_t stream) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(S));
  if (args.states % kVector != 0 || args.states > 32 * kVector || !is_aligned(args.state) ||
      !fits<T, kVector>(args.B) || !fits<T, kVector>(args.C)) {
    return cudaErrorNotSupported;
  }
  const std::int64_t all = args.batch * args.heads;
  if (!is_small(all) || !is_small(args.head_dim)) return cudaErrorNotSupported;
  HeadPieces cut = {};
  cut.heads = static_cast<std::int32_t>(args.heads);
  cut.group_heads = static_cast<std::int32_t>(args.heads / args.groups);
  cut.lanes = power_of_two_from(args.states / kVector);
  cut.row_bytes = static_cast<std::int32_t>(args.states * static_cast<int>(sizeof(S)));
  // Small batches are cut into pieces of heads until every multiprocessor has its blocks.
  const std::int64_t wanted = std::int64_t{multiprocessors()} * 5;
  const std::int64_t teams = kHeadThreads / cut.lanes;
  cut.pieces = 1;
  while (all * cut.pieces < wanted && cut.pieces * teams < args.head_dim) cut.pieces *= 2;
  cut.rows = static_cast<std::int32_t>(quotient_up(args.head_dim, cut.pieces));
  head_state_update_kernel<T, S>
      <<<static_cast<unsigned int>(all * cut.pieces), kHeadThreads, 0, stream>>>(args, cut);
  return cudaGetLastError();
}

cudaError_t launch_plain(const PlainStateUpdate& args, cudaStream_t stream) {
  // Teams along what is contiguous: states in (D, N), channels in (N, D).
  const int lanes =
      args.state_state == 1 ? power_of_two_from(std::min<std::int64_t>(args.states, 32)) : 1;
  const std::int64_t blocks = quotient_up(args.batch * args.updated, kPlainThreads / lanes);
  plain_state_update_kernel<<<grid_for(blocks), kPlainThreads, 0, stream>>>(args, lanes);
  return cudaGetLastError();
}

PlainStateUpdate plain(const StateUpdate& args) {
  const bool by_channel = args.state_layout == ICD_STATE_ND;
  PlainStateUpdate p = {};
  p.batch = args.batch;
  p.updated = updated_of(args);
  p.states = args.states;
  p.head_dim = 1;
  p.group_channels = args.channels;
  p.type = args.type;
  p.state_type = args.state_type;
  p.softplus = args.softplus;
  p.u = args.u;
  p.dt = args.dt;
  p.z = args.z;
  p.B = args.B;
  p.C = args.C;
  p.y = args.y;
  p.A = args.A;
  p.A_head = args.states;
  p.A_state = 1;
  p.D = args.D;
  p.dt_bias = args.dt_bias;
  p.state = args.state;
  p.state_slot = args.channels * args.states;
  p.state_channel = by_channel ? 1 : args.states;
  p.state_state = by_channel ? args.channels : 1;
  p.slots = args.slots;
  p.active = args.active;
  return p;
}

PlainStateUpdate plain(const HeadStateUpdate& args) {
  const std::int64_t channels = args.heads * args.head_dim;
  PlainStateUpdate p = {};
  p.batch = args.batch;
  p.updated = channels;
  p.states = args.states;
  p.head_dim = args.head_dim;
  p.group_channels = channels / args.groups;
  p.type = args.type;
  p.state_type = args.state_type;
  p.softplus = args.softplus;
  p.u = args.x;
  p.dt = args.dt;
  p.z = args.z;
  p.B = args.B;
  p.C = args.C;
  p.y = args.y;
  p.A = args.A;
  p.A_head = 1;
  p.A_state = 0;
  p.D = args.D;
  p.dt_bias = args.dt_bias;
  p.state = args.state;
  p.state_slot = channels * args.states;
  p.state_channel = args.states;
  p.state_state = 1;
  p.slots = args.slots;
  return p;
}

}  // namespace

cudaError_t state_update(const StateUpdate& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || updated_of(args) == 0)
    return cudaSuccess;  // an empty grid is a launch error
  const cudaError_t status = with_types(args.type, args.state_type, [&](auto element, auto state) {
    return launch_fast<decltype(element), decltype(state)>(args, stream);
  });
  return status == cudaErrorNotSupported ? launch_plain(plain(args), stream) : status;
}

std::int64_t state_update_pieces(const StateUpdate& args) {
  return quotient_up(args.batch, cut_of(args).rows);
}

cudaError_t head_state_update(const HeadStateUpdate& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.heads == 0 || args.head_dim == 0) return cudaSuccess;
  const cudaError_t status = with_types(args.type, args.state_type, [&](auto element, auto state) {
    return launch_fast<decltype(element), decltype(state)>(args, stream);
  });
  return status == cudaErrorNotSupported ? launch_plain(plain(args), stream) : status;
}

}  // namespace icd
