#include <algorithm>
#include <limits>

#include "kernels/state_update.cuh"
#include "kernels/state_update.h"

namespace icd {
namespace {

constexpr int kPlainThreads = 128;

std::int64_t quotient_up(std::int64_t n, std::int64_t by) { return n / by + (n % by != 0); }

unsigned int grid_for(std::int64_t blocks) {
  return static_cast<unsigned int>(
      std::min<std::int64_t>(blocks, std::numeric_limits<std::int32_t>::max()));
}

int multiprocessors() {
  int device = 0;
  int count = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 1;
  if (cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device) != cudaSuccess) {
    return 1;
  }
  return std::max(count, 1);
}

bool is_aligned(const void* pointer, std::size_t bytes) {
  return reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0;
}

// Whether rows of a (batch, channels) tensor can be read in packs.
template <typename T, int kCount>
bool fits(const Strided& tensor) {
  constexpr int kAlign = Pack<T, kCount>::kAlign;
  return tensor.channel == 1 && is_aligned(tensor.data, kAlign) &&
         tensor.batch % (kAlign / static_cast<int>(sizeof(T))) == 0;
}

// The least power of two that is not less than n, 32 at most.
int lanes_for(std::int64_t n) {
  int lanes = 1;
  while (lanes < 32 && lanes < n) lanes *= 2;
  return lanes;
}

// Batch rows a block: as many as still leave `blocks_of_each` blocks a multiprocessor, so that what
// a channel's rows share is read seldom and no device is idle; a multiple of what is under way.
std::int64_t batch_piece(std::int64_t batch, std::int64_t channel_blocks, int blocks_of_each,
                         int rows_under_way) {
  const std::int64_t wanted = std::int64_t{multiprocessors()} * blocks_of_each;
  const std::int64_t rows = quotient_up(batch * channel_blocks, wanted);
  return quotient_up(rows, rows_under_way) * rows_under_way;
}

template <typename Work>
cudaError_t with_types(std::int32_t type, std::int32_t state_type, const Work& work) {
  return with_type(type, [&](auto element) {
    return with_type(state_type, [&](auto state) { return work(element, state); });
  });
}

template <typename T, typename S>
bool is_fast(const StateUpdate& args) {
  if (!is_aligned(args.A, 16)) return false;
  if (args.state_layout == ICD_STATE_ND) {
    return args.states == kChannelStates && fits<T, 4>(args.B) && fits<T, 4>(args.C);
  }
  constexpr int kVector = 16 / static_cast<int>(sizeof(S));
  return args.states % kVector == 0 && args.states <= 32 * kVector && is_aligned(args.state, 16) &&
         fits<T, kVector>(args.B) && fits<T, kVector>(args.C);
}

template <typename T, typename S>
cudaError_t launch_fast(const StateUpdate& args, std::int64_t updated, cudaStream_t stream) {
  if (args.state_layout == ICD_STATE_ND) {
    const std::int64_t channel_blocks = quotient_up(updated, kChannelThreads);
    const std::int64_t piece = batch_piece(args.batch, channel_blocks, 6, kChannelRows);
    const std::int64_t blocks = channel_blocks * quotient_up(args.batch, piece);
    channel_state_update_kernel<T, S>
        <<<grid_for(blocks), kChannelThreads, 0, stream>>>(args, updated, channel_blocks, piece);
    return cudaGetLastError();
  }
  const int lanes = lanes_for(args.states * static_cast<int>(sizeof(S)) / 16);
  const std::int64_t channel_blocks = quotient_up(updated, kUpdateThreads / lanes);
  const std::int64_t piece = batch_piece(args.batch, channel_blocks, 10, kUpdateRows);
  const std::int64_t blocks = channel_blocks * quotient_up(args.batch, piece);
  state_update_kernel<T, S><<<grid_for(blocks), kUpdateThreads, 0, stream>>>(
      args, updated, channel_blocks, piece, lanes);
  return cudaGetLastError();
}

template <typename T, typename S>
bool is_fast(const HeadStateUpdate& args) {
  constexpr int kVector = 16 / static_cast<int>(sizeof(S));
  return args.states % kVector == 0 && args.states <= 32 * kVector && is_aligned(args.state, 16) &&
         fits<T, kVector>(args.B) && fits<T, kVector>(args.C);
}

template <typename T, typename S>
cudaError_t launch_fast(const HeadStateUpdate& args, cudaStream_t stream) {
  const int lanes = lanes_for(args.states * static_cast<int>(sizeof(S)) / 16);
  const std::int64_t teams = kHeadThreads / lanes;
  // Small batches are cut into pieces of heads until every multiprocessor has its blocks.
  const std::int64_t wanted = std::int64_t{multiprocessors()} * 5;
  std::int64_t pieces = 1;
  while (args.batch * args.heads * pieces < wanted && pieces * teams < args.head_dim) pieces *= 2;
  head_state_update_kernel<T, S>
      <<<grid_for(args.batch * args.heads * pieces), kHeadThreads, 0, stream>>>(args, pieces,
                                                                                lanes);
  return cudaGetLastError();
}

cudaError_t launch_plain(const PlainStateUpdate& args, cudaStream_t stream) {
  // Teams along what is contiguous: states in (D, N), channels in (N, D).
  const int lanes = args.state_state == 1 ? lanes_for(args.states) : 1;
  const std::int64_t blocks = quotient_up(args.batch * args.updated, kPlainThreads / lanes);
  plain_state_update_kernel<<<grid_for(blocks), kPlainThreads, 0, stream>>>(args, lanes);
  return cudaGetLastError();
}

PlainStateUpdate plain(const StateUpdate& args, std::int64_t updated) {
  const bool by_channel = args.state_layout == ICD_STATE_ND;
  PlainStateUpdate p = {};
  p.batch = args.batch;
  p.updated = updated;
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
  const std::int64_t updated = args.active != nullptr ? args.active_count : args.channels;
  if (args.batch == 0 || updated == 0) return cudaSuccess;  // an empty grid is a launch error
  return with_types(args.type, args.state_type, [&](auto element, auto state) {
    using T = decltype(element);
    using S = decltype(state);
    return is_fast<T, S>(args) ? launch_fast<T, S>(args, updated, stream)
                               : launch_plain(plain(args, updated), stream);
  });
}

cudaError_t head_state_update(const HeadStateUpdate& args, cudaStream_t stream) {
  if (!why_not(args).empty()) return cudaErrorInvalidValue;
  if (args.batch == 0 || args.heads == 0 || args.head_dim == 0) return cudaSuccess;
  return with_types(args.type, args.state_type, [&](auto element, auto state) {
    using T = decltype(element);
    using S = decltype(state);
    return is_fast<T, S>(args) ? launch_fast<T, S>(args, stream)
                               : launch_plain(plain(args), stream);
  });
}

}  // namespace icd
