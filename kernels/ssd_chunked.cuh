#pragma once

#include <cstdint>

#include "kernels/mma.cuh"
#include "kernels/ssd.cuh"

// The chunked form of ssd on tensor cores. A chunk is 32 tokens i, j of a sequence; a tile is 64
// channels p of a head; n are the N states. With c_i the sum of log2(decay) up to token i of the
// chunk, and h the tile's state ahead of it:
//   y^T (p, i) = 2^c_i sum_n h (p, n) C (i, n) + sum_j<=i x (j, p) S (i, j)
//   S (i, j)   = 2^(c_i - c_j) dt_j sum_n C (i, n) B (j, n)
//   h (p, n)   = 2^c_31 h (p, n) + sum_j 2^(c_31 - c_j) dt_j x (j, p) B (j, n)
// All of it transposed, so that a state stays in the registers of its warp from the first token to
// the last: as an accumulator it has the layout of the left operand of its product with C. Powers
// are of differences that are at most 0. The right operands are rounded to the type: h, S and the
// weighted x; sums and the state itself are f32.
namespace icd {

constexpr int kSsdChunk = 32;     // 9.5 products of 16 x 8 x 16 a token and tile; 64: 10.5, 16: 10
constexpr int kSsdTile = 64;      // channels
constexpr int kSsdTileWarps = 2;  // with 32 channels each: half the reads of B and C that 16 need
constexpr int kSsdTileThreads = 32 * kSsdTileWarps;

// Which sequences are cut into segments. An item is kTiles tiles of a sequence; tiles of one
// sequence count fastest. Items from `whole` on are run by `segments` blocks each, which need what
// ssd_segments_kernel left.
struct SsdPlan {
  std::int64_t items;
  std::int64_t whole;
  int segments;
  int stages;     // chunks in shared memory, 2 or 3
  float* states;  // (items - whole, segments - 1, kTiles, N / 2, 64 threads, 4)
  float* decays;  // (items - whole, segments - 1, kTiles), log2
  std::uint32_t x_row, dt_row, z_row, B_row, C_row, y_row;  // bytes from a token to the next
};

// What the tokens of a chunk do to a head. Tokens behind the end have dt = 0.
struct SsdTable {
  float sum[kSsdChunk];     // c_i
  float dt[kSsdChunk];      // dt_j
  float decay[kSsdChunk];   // 2^c_i
  float weight[kSsdChunk];  // 2^(c_31 - c_j) dt_j
};

// Bytes of shared memory, by what is in them. Rows of 16-byte words are swizzled: word w of row r
// is at w ^ (r % 8), so that eight rows of a matrix lie in eight different banks.
template <int kStates, int kTiles>
struct SsdShared {
  static constexpr int kStatesRow = 2 * kStates;
  static constexpr int kChannelsRow = 2 * kSsdTile;
  static constexpr int kMaskRow = 2 * kSsdChunk;
  static constexpr int kB = 0;  // of a stage
  static constexpr int kX = kB + kSsdChunk * kStatesRow;
  static constexpr int kStateStage = kX + kTiles * kSsdChunk * kChannelsRow;  // of a first pass
  static constexpr int kC = kStateStage;
  static constexpr int kZ = kC + kSsdChunk * kStatesRow;
  static constexpr int kStage = kZ + kTiles * kSsdChunk * kChannelsRow;
  // Behind the stages: tables of two chunks, then S of every tile.
  static constexpr int kTables = 2 * kTiles * static_cast<int>(sizeof(SsdTable));
  static constexpr int kMasks = kTiles * kSsdChunk * kMaskRow;

  static constexpr int bytes(int stages) { return stages * kStage + kTables + kMasks; }
  static constexpr int state_bytes(int stages) { return stages * kStateStage + kTables; }
};

// What a warp knows of its tile.
struct SsdTile {
  SsdTokens tokens;  // of its segment
  std::int64_t batch;
  std::int64_t channel;  // first of the tile, of all heads'
  std::int64_t head;
  std::int64_t group;
  int segment;
  int segments;
};

__device__ __forceinline__ SsdTile ssd_tile_of(const Ssd& args, std::int64_t item, int tiles,
                                               int tile, int segment, int segments) {
  const std::int64_t items = args.heads * args.head_dim / (kSsdTile * tiles);  // of a sequence
  SsdTile at;
  at.batch = item / items;
  at.channel = ((item - at.batch * items) * tiles + tile) * kSsdTile;
  at.head = at.channel / args.head_dim;
  at.group = at.head / (args.heads / args.groups);
  at.segment = segment;
  at.segments = segments;
  at.tokens = ssd_tokens(args, at.batch);
  // Segments are whole chunks; the last ones of a short sequence are empty.
  const std::int64_t chunks = (at.tokens.count + kSsdChunk - 1) / kSsdChunk;
  const std::int64_t length = (chunks + segments - 1) / segments * kSsdChunk;
  const std::int64_t begin = min(segment * length, at.tokens.count);
  at.tokens.first += begin;
  at.tokens.count = min(length, at.tokens.count - begin);
  return at;
}

// Token t of a tensor from its token 0.
__device__ __forceinline__ const unsigned char* ssd_at(const unsigned char* first, int t,
                                                       std::uint32_t row_bytes) {
  return first + static_cast<std::uint64_t>(static_cast<std::uint32_t>(t)) * row_bytes;
}

// A channel of token 0 of a tile's segment.
template <typename T>
__device__ __forceinline__ unsigned char* ssd_first(const Strided& tensor, const SsdTile& tile,
                                                    std::int64_t channel) {
  return reinterpret_cast<unsigned char*>(ssd_row<T>(tensor, tile.tokens, 0) + channel);
}

// Copies `kWords` words of 16 bytes of the tokens t0 to t0 + 31, as thread `thread` of `kThreads`;
// `first` is this thread's word, thread % kWords, of token 0. Without `kAll` there are zeros from
// token `count` on.
template <int kWords, int kThreads, bool kAll>
__device__ __forceinline__ void ssd_copy(const unsigned char* first, std::uint32_t row_bytes,
                                         int t0, int count, std::uint32_t shared,
                                         unsigned int thread) {
  constexpr unsigned int kRows = kThreads / kWords;
  const unsigned int word = thread % kWords;
  const unsigned int row = thread / kWords;
#pragma unroll
  for (unsigned int i = 0; i < kSsdChunk / kRows; ++i) {
    const unsigned int r = row + i * kRows;
    const int t = t0 + static_cast<int>(r);
    const std::uint32_t to = shared + (r * kWords + (word ^ (r % 8))) * 16;
    if (kAll) {
      copy_async(to, ssd_at(first, t, row_bytes));
    } else {
      copy_async(to, ssd_at(first, t < count ? t : 0, row_bytes), t < count);
    }
  }
}

// Fills a table with a warp. Returns c_31.
__device__ __forceinline__ float ssd_fill(SsdTable& table, const Ssd& args, float raw, float bias,
                                          float A_log2e, bool is_there) {
  const int lane = threadIdx.x % 32;
  const float dt = is_there ? ssd_step(args, raw, bias) : 0.0F;
  float sum = is_there ? dt * A_log2e : 0.0F;
  // 2^-256 is 0: beyond, larger sums would only lose the digits of what follows. NaN stays one.
  sum = sum < -256.0F ? -256.0F : sum;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    const float earlier = __shfl_up_sync(0xffffffffU, sum, by);
    if (lane >= by) sum += earlier;
  }
  const float last = __shfl_sync(0xffffffffU, sum, 31);
  table.sum[lane] = sum;
  table.dt[lane] = dt;
  table.decay[lane] = fast_exp2(sum);
  table.weight[lane] = fast_exp2(last - sum) * dt;
  return last;
}

// Where the words of a matrix's rows are that lane l addresses for load_matrices(): the lanes of
// matrices 1 and 3 take the second word of a row, those of 2 and 3 rows 8 to 15; or, `kIsTall`,
// those of 1 and 3 rows 8 to 15 and those of 2 and 3 the second word. kWords: of a row, and the
// period of its swizzle. Word 2 k of the row is at the place ^ 32 k, row r + 16 at + 16 rows.
template <int kRowBytes, bool kIsTall>
__device__ __forceinline__ std::uint32_t ssd_lane_place() {
  const int lane = threadIdx.x % 32;
  const int eighth = lane / 8;
  const int row = lane % 8 + 8 * (kIsTall ? eighth % 2 : eighth / 2);
  const int word = kIsTall ? eighth / 2 : eighth % 2;
  const int swizzle = kRowBytes == 64 ? row / 2 % 4 : row % 8;
  return static_cast<std::uint32_t>(row * kRowBytes + (word ^ swizzle) * 16);
}

// The state of 32 channels, as the accumulators of 2 x N / 8 products: element (r, n, e) of lane
// (g, t) is channel 16 r + g + 8 (e / 2), state 8 n + 2 t + e % 2.
template <int kStates>
struct SsdState {
  float h[2][kStates / 8][4];

  // Calls work(value, channel, state) for all that are this lane's.
  template <typename Work>
  __device__ __forceinline__ void each(const Work& work) {
    const int g = threadIdx.x % 32 / 4;
    const int t = threadIdx.x % 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int n = 0; n < kStates / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          work(h[r][n][e], 16 * r + g + 8 * (e / 2), 8 * n + 2 * t + e % 2);
        }
      }
    }
  }

  // Four neighbouring accumulators at a time, in the order of the registers.
  template <typename Work>
  __device__ __forceinline__ void each_quad(const Work& work) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int n = 0; n < kStates / 8; ++n) work(h[r][n], r * (kStates / 8) + n);
    }
  }

  // h = 2^c_31 h + x^T B over the chunk; x (j, p) weighted.
  template <typename T>
  __device__ __forceinline__ void advance(const std::uint32_t (&x)[2][2][4], std::uint32_t B,
                                          float decay) {
    each_quad([&](float(&four)[4], int) {
#pragma unroll
      for (float& value : four) value *= decay;
    });
    const std::uint32_t place = B + ssd_lane_place<2 * kStates, true>();
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int n = 0; n < kStates / 16; ++n) {
        std::uint32_t b[4];
        load_transposed(b, (place ^ (32 * n)) + k * 16 * 2 * kStates);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          multiply_add<T>(h[r][2 * n], x[r][k], b[0], b[1]);
          multiply_add<T>(h[r][2 * n + 1], x[r][k], b[2], b[3]);
        }
      }
    }
  }
};

// Calls work(words, place) for the 16 x 16 parts of a chunk of a tile that are the warp's: words
// [r][k] are channels 16 r and on of its 32, tokens 16 k and on, as the left operand of a product,
// transposed; its lane's row is at `place` from the tile's beginning.
template <typename Words, typename Work>
__device__ __forceinline__ void ssd_each_part(Words& words, const Work& work) {
  const int half = threadIdx.x / 32 % 2;
  const int lane = threadIdx.x % 32;
  const int row = lane % 8 + lane / 16 * 8;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int word = 4 * half + 2 * r + lane / 8 % 2;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      work(words[r][k], (16 * k + row) * 128 + ((word ^ (row % 8)) * 16));
    }
  }
}

// x^T of a chunk and the warp's channels, or z^T.
__device__ __forceinline__ void ssd_load_channels(std::uint32_t (&words)[2][2][4],
                                                  std::uint32_t tile) {
  ssd_each_part(words,
                [&](std::uint32_t(&part)[4], int place) { load_transposed(part, tile + place); });
}

// x (j, p) 2^(c_31 - c_j) dt_j, rounded again.
template <typename T>
__device__ __forceinline__ void ssd_weigh(std::uint32_t (&x)[2][2][4], const SsdTable& table) {
  const int t = threadIdx.x % 4;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int late = 0; late < 2; ++late) {
      const float2 weight =
          *reinterpret_cast<const float2*>(&table.weight[16 * k + 8 * late + 2 * t]);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
#pragma unroll
        for (int low = 0; low < 2; ++low) {
          std::uint32_t& pair = x[r][k][2 * late + low];
          const float2 two = unpacked_pair<T>(pair);
          pair = packed_pair<T>(two.x * weight.x, two.y * weight.y);
        }
      }
    }
  }
}

// S of tokens 16 row and on against tokens 16 column and on, for every tile: C B^T once, then
// each tile's decays.
template <typename T, int kStates, int kTiles>
__device__ __forceinline__ void ssd_mask(int row, int column, std::uint32_t B, std::uint32_t C,
                                         const SsdTable* tables, unsigned char* masks) {
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  const std::uint32_t from_C = C + row * 16 * 2 * kStates + ssd_lane_place<2 * kStates, true>();
  const std::uint32_t from_B = B + column * 16 * 2 * kStates + ssd_lane_place<2 * kStates, false>();
  float products[2][4] = {};
#pragma unroll
  for (int k = 0; k < kStates / 16; ++k) {
    std::uint32_t a[4];
    std::uint32_t b[4];
    load_matrices(a, from_C ^ (32 * k));
    load_matrices(b, from_B ^ (32 * k));
    multiply_add<T>(products[0], a, b[0], b[1]);
    multiply_add<T>(products[1], a, b[2], b[3]);
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const SsdTable& table = tables[tile];
#pragma unroll
    for (int low = 0; low < 2; ++low) {
      const int i = 16 * row + 8 * low + g;
      const float sum = table.sum[i];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int j = 16 * column + 8 * n + 2 * t;
        const float2 sums = *reinterpret_cast<const float2*>(&table.sum[j]);
        const float2 dts = *reinterpret_cast<const float2*>(&table.dt[j]);
        const float first = products[n][2 * low] * (fast_exp2(sum - sums.x) * dts.x);
        const float second = products[n][2 * low + 1] * (fast_exp2(sum - sums.y) * dts.y);
        const std::uint32_t pair =
            packed_pair<T>(j <= i ? first : 0.0F, j + 1 <= i ? second : 0.0F);
        const int word = (j / 8) ^ (i / 2 % 4);
        *reinterpret_cast<std::uint32_t*>(masks + tile * kSsdChunk * 64 + i * 64 + word * 16 +
                                          4 * t) = pair;
      }
    }
  }
}

// y^T (p, i) += sum over j <= i of x (j, p) S (i, j).
template <typename T>
__device__ __forceinline__ void ssd_within(float (&y)[2][4][4], const std::uint32_t (&x)[2][2][4],
                                           std::uint32_t mask) {
  const std::uint32_t place = mask + ssd_lane_place<64, false>();
#pragma unroll
  for (int k = 0; k < 2; ++k) {
#pragma unroll
    for (int i = k; i < 2; ++i) {
      std::uint32_t b[4];
      load_matrices(b, (place ^ (32 * k)) + i * 16 * 64);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        multiply_add<T>(y[r][2 * i], x[r][k], b[0], b[1]);
        multiply_add<T>(y[r][2 * i + 1], x[r][k], b[2], b[3]);
      }
    }
  }
}

// ssd_within() where x has NaN or infinities: they would reach the tokens ahead of them, as 0 of
// the mask times NaN. So they are left out, and reach y of their own token and of those behind it
// as NaN: what infinities of both signs add up to in the recurrence.
template <typename T>
__device__ __forceinline__ void ssd_within_spoiled(float (&y)[2][4][4],
                                                   const std::uint32_t (&x)[2][2][4],
                                                   std::uint32_t mask,
                                                   const unsigned char* channels) {
  const int half = threadIdx.x / 32 % 2;
  const int g = threadIdx.x % 32 / 4;
  const int t = threadIdx.x % 4;
  std::uint32_t clean[2][2][4];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float2 two = unpacked_pair<T>(x[r][k][e]);
        clean[r][k][e] = (two.x - two.x == 0.0F ? x[r][k][e] & 0xFFFFU : 0U) |
                         (two.y - two.y == 0.0F ? x[r][k][e] & 0xFFFF0000U : 0U);
      }
    }
  }
  ssd_within<T>(y, clean, mask);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int low = 0; low < 2; ++low) {
      const int p = 32 * half + 16 * r + 8 * low + g;
      int first = kSsdChunk;
      for (int j = kSsdChunk - 1; j >= 0; --j) {
        const float value = to_float(
            *reinterpret_cast<const T*>(channels + j * 128 + ((p / 8) ^ (j % 8)) * 16 + p % 8 * 2));
        if (value - value != 0.0F) first = j;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (8 * i + 2 * t + e >= first) y[r][i][2 * low + e] = __int_as_float(0x7FFFFFFF);
        }
      }
    }
  }
}

// What the two kernels share of a block: its place, its tile and the way of chunks into shared
// memory.
template <typename T, int kStates, int kTiles, bool kIsFirstPass>
struct SsdPipeline {
  using Shared = SsdShared<kStates, kTiles>;
  static constexpr int kThreads = kTiles * kSsdTileThreads;
  static constexpr unsigned int kStateWords = kStates / 8;
  static constexpr std::uint32_t kStage = kIsFirstPass ? Shared::kStateStage : Shared::kStage;

  __device__ __forceinline__ SsdPipeline(const Ssd& args, const SsdPlan& plan, const SsdTile& tile,
                                         unsigned char* shared_bytes)
      : count(static_cast<int>(tile.tokens.count)),
        shared(shared_address(shared_bytes)),
        stages_end(plan.stages * kStage) {
    const std::int64_t state = tile.group * kStates + threadIdx.x % kStateWords * 8;
    const std::int64_t channel = tile.channel + threadIdx.x % 8 * 8;
    B = ssd_first<T>(args.B, tile, state);
    x = ssd_first<T>(args.x, tile, channel);
    dt = ssd_first<T>(args.dt, tile, tile.head * args.dt.channel);
    if (kIsFirstPass) return;
    C = ssd_first<T>(args.C, tile, state);
    if (args.z.data != nullptr) z = ssd_first<T>(args.z, tile, channel);
  }

  // Starts the copies of a chunk, if there is one, and closes their group.
  __device__ __forceinline__ void copy(const SsdPlan& plan, int chunk) {
    const int t0 = chunk * kSsdChunk;
    if (t0 + kSsdChunk <= count) {
      copy_rows<true>(plan, t0);
    } else if (t0 < count) {
      copy_rows<false>(plan, t0);
    }
    close_copies();
    copied_at = copied_at + kStage == stages_end ? 0 : copied_at + kStage;
  }

  // Waits for the next chunk, for all threads: the one ahead of it is done with, too. Returns where
  // its stage begins.
  __device__ __forceinline__ std::uint32_t wait(const SsdPlan& plan) {
    if (plan.stages == 3) {
      wait_for_copies<1>();
    } else {
      wait_for_copies<0>();
    }
    __syncthreads();
    const std::uint32_t at = read_at;
    read_at = read_at + kStage == stages_end ? 0 : read_at + kStage;
    return at;
  }

  // The lane's dt of a chunk, 0 behind the last token.
  __device__ __forceinline__ float step(const SsdPlan& plan, int chunk) const {
    const int t = chunk * kSsdChunk + static_cast<int>(threadIdx.x % 32);
    if (t >= count) return 0.0F;
    return to_float(*reinterpret_cast<const T*>(ssd_at(dt, t, plan.dt_row)));
  }

  template <bool kAll>
  __device__ __forceinline__ void copy_rows(const SsdPlan& plan, int t0) const {
    const unsigned int thread = threadIdx.x % kSsdTileThreads;
    const std::uint32_t to = shared + copied_at;
    const std::uint32_t to_channels =
        to + threadIdx.x / kSsdTileThreads * kSsdChunk * Shared::kChannelsRow;
    ssd_copy<kStateWords, kThreads, kAll>(B, plan.B_row, t0, count, to + Shared::kB, threadIdx.x);
    ssd_copy<8, kSsdTileThreads, kAll>(x, plan.x_row, t0, count, to_channels + Shared::kX, thread);
    if (kIsFirstPass) return;
    ssd_copy<kStateWords, kThreads, kAll>(C, plan.C_row, t0, count, to + Shared::kC, threadIdx.x);
    if (z != nullptr) {
      ssd_copy<8, kSsdTileThreads, kAll>(z, plan.z_row, t0, count, to_channels + Shared::kZ,
                                         thread);
    }
  }

  int count;  // tokens
  std::uint32_t shared;
  std::uint32_t stages_end;
  std::uint32_t copied_at = 0;  // the stage of the next chunk to copy, and of the next to read
  std::uint32_t read_at = 0;
  const unsigned char* B;  // of token 0: this thread's word, and dt of its head
  const unsigned char* x;
  const unsigned char* dt;
  const unsigned char* C = nullptr;
  const unsigned char* z = nullptr;
};

// y^T (p, i) = 2^c_i sum_n h (p, n) C (i, n): channel 16 r + g + 8 (e / 2), token 8 i + 2 t + e
// % 2.
template <typename T, int kStates>
__device__ __forceinline__ void ssd_before(float (&y)[2][4][4], const SsdState<kStates>& state,
                                           std::uint32_t C, const SsdTable& table) {
  const int t = threadIdx.x % 4;
  const std::uint32_t place = C + ssd_lane_place<2 * kStates, false>();
#pragma unroll
  for (int k = 0; k < kStates / 16; ++k) {
    std::uint32_t h[2][4];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float(&four)[4] = state.h[r][2 * k + e / 2];
        h[r][e] = packed_pair<T>(four[e % 2 * 2], four[e % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t c[4];
      load_matrices(c, (place ^ (32 * k)) + i * 16 * 2 * kStates);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        multiply_add<T>(y[r][2 * i], h[r], c[0], c[1]);
        multiply_add<T>(y[r][2 * i + 1], h[r], c[2], c[3]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 decay = *reinterpret_cast<const float2*>(&table.decay[8 * i + 2 * t]);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        y[r][i][2 * low] *= decay.x;
        y[r][i][2 * low + 1] *= decay.y;
      }
    }
  }
}

// Calls work(y, y of the next token, their pair of `words`) for all of a warp's y.
template <typename T, typename Work>
__device__ __forceinline__ void ssd_each_pair(float (&y)[2][4][4],
                                              const std::uint32_t (&words)[2][2][4],
                                              const Work& work) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        work(y[r][i][2 * low], y[r][i][2 * low + 1],
             unpacked_pair<T>(words[r][i / 2][i % 2 * 2 + low]));
      }
    }
  }
}

// Writes y of a chunk through `channels`, where x was, so that rows leave in whole sectors; a warp
// touches its own channels alone. `first`: of token 0, the word of 8 channels that is the lane's.
template <typename T>
__device__ __forceinline__ void ssd_write(const float (&y)[2][4][4], unsigned char* channels,
                                          unsigned char* first, std::uint32_t row_bytes, int t0,
                                          int count) {
  std::uint32_t words[2][2][4];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int low = 0; low < 2; ++low) {
        words[r][i / 2][i % 2 * 2 + low] = packed_pair<T>(y[r][i][2 * low], y[r][i][2 * low + 1]);
      }
    }
  }
  __syncwarp();
  const std::uint32_t tile = shared_address(channels);
  ssd_each_part(words,
                [&](std::uint32_t(&part)[4], int place) { store_transposed(part, tile + place); });
  __syncwarp();
  const int half = threadIdx.x / 32 % 2;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int token = 8 * i + lane / 4 % 2 * 4 + lane / 8;  // neighbours 4 apart: other banks
    const int word = 4 * half + lane % 4;
    if (t0 + token < count) {
      *reinterpret_cast<uint4*>(first +
                                std::uint64_t{row_bytes} * static_cast<std::uint32_t>(t0 + token)) =
          *reinterpret_cast<const uint4*>(channels + token * 128 + (word ^ (token % 8)) * 16);
    }
  }
}

// Grid: plan.whole blocks, and plan.segments for every other item. Block: kTiles x 64.
// Shared: SsdShared::bytes(plan.stages).
template <typename T, int kStates, int kTiles>
__global__ void __launch_bounds__(kTiles* kSsdTileThreads, 4 / kTiles)
    ssd_chunked_kernel(const __grid_constant__ Ssd args, const __grid_constant__ SsdPlan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shared = SsdShared<kStates, kTiles>;
  constexpr int kWarps = kTiles * kSsdTileWarps;
  extern __shared__ __align__(1024) unsigned char shared[];
  unsigned char* const behind = shared + plan.stages * Shared::kStage;
  auto* const tables = reinterpret_cast<SsdTable(*)[kTiles]>(behind);  // of even and odd chunks
  unsigned char* const masks = behind + Shared::kTables;

  const int warp = threadIdx.x / 32;
  const int own = warp / kSsdTileWarps;   // tile of this warp
  const int half = warp % kSsdTileWarps;  // of its channels
  const std::int64_t block = blockIdx.x;
  const bool is_cut = block >= plan.whole;
  const std::int64_t item = is_cut ? plan.whole + (block - plan.whole) / plan.segments : block;
  const SsdTile tile = ssd_tile_of(
      args, item, kTiles, own, is_cut ? static_cast<int>((block - plan.whole) % plan.segments) : 0,
      is_cut ? plan.segments : 1);
  const float bias = args.dt_bias == nullptr ? 0.0F : args.dt_bias[tile.head];
  const float A_log2e = args.A[tile.head] * kLog2E;
  const float D = args.D == nullptr ? 0.0F : args.D[tile.head];
  const std::int64_t state_at =
      (tile.batch * args.heads * args.head_dim + tile.channel + 32 * half) * kStates;
  unsigned char* const to_y =
      ssd_first<T>(args.y, tile, tile.channel + 32 * half + threadIdx.x % 4 * 8);
  SsdPipeline<T, kStates, kTiles, false> pipeline(args, plan, tile, shared);
  const int count = pipeline.count;

  pipeline.copy(plan, 0);
  if (plan.stages == 3) pipeline.copy(plan, 1);

  SsdState<kStates> state;
  state.each([&](float& value, int p, int n) {
    value = args.initial_state == nullptr ? 0.0F : args.initial_state[state_at + p * kStates + n];
  });
  // A segment starts from what those ahead of it leave.
  for (int s = 0; s < tile.segment; ++s) {
    const std::int64_t at = ((item - plan.whole) * (plan.segments - 1) + s) * kTiles + own;
    const float decay = fast_exp2(plan.decays[at]);
    const auto* left = reinterpret_cast<const float4*>(plan.states) +
                       at * (kSsdTile * kStates / 4) + threadIdx.x % kSsdTileThreads;
    state.each_quad([&](float(&four)[4], int quad) {
      const float4 more = left[quad * kSsdTileThreads];
      four[0] = fmaf(four[0], decay, more.x);
      four[1] = fmaf(four[1], decay, more.y);
      four[2] = fmaf(four[2], decay, more.z);
      four[3] = fmaf(four[3], decay, more.w);
    });
  }

  // A tile's first warp keeps its tables, a chunk ahead, from dt that was read two ahead.
  const auto fill_table = [&](int chunk, float dt) {
    ssd_fill(tables[chunk % 2][own], args, dt, bias, A_log2e,
             chunk * kSsdChunk + static_cast<int>(threadIdx.x % 32) < count);
  };
  float next_dt = 0.0F;
  if (half == 0) {
    fill_table(0, pipeline.step(plan, 0));
    next_dt = pipeline.step(plan, 1);
  }

  for (int chunk = 0; chunk * kSsdChunk < count; ++chunk) {
    const std::uint32_t stage = pipeline.wait(plan);
    pipeline.copy(plan, chunk + plan.stages - 1);
    const std::uint32_t B = pipeline.shared + stage + Shared::kB;
    const std::uint32_t C = pipeline.shared + stage + Shared::kC;
    const std::uint32_t channels_at = stage + own * kSsdChunk * Shared::kChannelsRow;
    unsigned char* const channels = shared + channels_at + Shared::kX;
    const SsdTable& table = tables[chunk % 2][own];

    // The three 16 x 16 parts of S on and below the diagonal, by warps that take turns.
    for (int part = (warp + chunk) % kWarps; part < 3; part += kWarps) {
      ssd_mask<T, kStates, kTiles>(part > 0 ? 1 : 0, part > 1 ? 1 : 0, B, C, tables[chunk % 2],
                                   masks);
    }
    if (half == 0) {
      fill_table(chunk + 1, next_dt);
      next_dt = pipeline.step(plan, chunk + 2);
    }
    float y[2][4][4] = {};
    ssd_before<T>(y, state, C, table);

    __syncthreads();  // S is there for all
    std::uint32_t x[2][2][4];
    ssd_load_channels(x, shared_address(channels));
    std::uint32_t mark = 0;
#pragma unroll
    for (int k = 0; k < 16; ++k) mark = marked<T>(mark, x[k / 8][k / 4 % 2][k % 4]);
    const std::uint32_t mask = shared_address(masks + own * kSsdChunk * Shared::kMaskRow);
    if (__any_sync(0xffffffffU, (mark & 0x7FFF7FFFU) != 0)) {
      ssd_within_spoiled<T>(y, x, mask, channels);
    } else {
      ssd_within<T>(y, x, mask);
    }
    ssd_each_pair<T>(y, x, [&](float& first, float& second, float2 two) {
      first = fmaf(D, two.x, first);
      second = fmaf(D, two.y, second);
    });
    if (pipeline.z != nullptr) {
      std::uint32_t z[2][2][4];
      ssd_load_channels(z, pipeline.shared + channels_at + Shared::kZ);
      ssd_each_pair<T>(y, z, [](float& first, float& second, float2 two) {
        first *= silu(two.x);
        second *= silu(two.y);
      });
    }
    ssd_write<T>(y, channels, to_y, plan.y_row, chunk * kSsdChunk, count);

    ssd_weigh<T>(x, table);
    state.template advance<T>(x, B, table.decay[kSsdChunk - 1]);
  }

  if (args.final_state != nullptr && tile.segment + 1 == tile.segments) {
    state.each(
        [&](float& value, int p, int n) { args.final_state[state_at + p * kStates + n] = value; });
  }
#endif
}

// What the segments of cut items leave of a state of 0, and by how much they decay what was there.
// Grid: (plan.items - plan.whole) (plan.segments - 1). Block: kTiles x 64.
// Shared: SsdShared::state_bytes(plan.stages).
template <typename T, int kStates, int kTiles>
__global__ void __launch_bounds__(kTiles* kSsdTileThreads, 4 / kTiles)
    ssd_segments_kernel(const __grid_constant__ Ssd args, const __grid_constant__ SsdPlan plan) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
  using Shared = SsdShared<kStates, kTiles>;
  extern __shared__ __align__(1024) unsigned char shared[];
  auto* const tables =
      reinterpret_cast<SsdTable(*)[kTiles]>(shared + plan.stages * Shared::kStateStage);
  const int own = threadIdx.x / kSsdTileThreads;
  const bool keeps_table = threadIdx.x / 32 % kSsdTileWarps == 0;
  const std::int64_t block = blockIdx.x;
  const SsdTile tile = ssd_tile_of(args, plan.whole + block / (plan.segments - 1), kTiles, own,
                                   static_cast<int>(block % (plan.segments - 1)), plan.segments);
  const float bias = args.dt_bias == nullptr ? 0.0F : args.dt_bias[tile.head];
  const float A_log2e = args.A[tile.head] * kLog2E;
  SsdPipeline<T, kStates, kTiles, true> pipeline(args, plan, tile, shared);
  const int count = pipeline.count;

  pipeline.copy(plan, 0);
  if (plan.stages == 3) pipeline.copy(plan, 1);

  float sum = 0.0F;
  const auto fill_table = [&](int chunk, float dt) {
    sum += ssd_fill(tables[chunk % 2][own], args, dt, bias, A_log2e,
                    chunk * kSsdChunk + static_cast<int>(threadIdx.x % 32) < count);
  };
  float next_dt = 0.0F;
  if (keeps_table) {
    fill_table(0, pipeline.step(plan, 0));
    next_dt = pipeline.step(plan, 1);
  }
  SsdState<kStates> state = {};
  for (int chunk = 0; chunk * kSsdChunk < count; ++chunk) {
    const std::uint32_t stage = pipeline.shared + pipeline.wait(plan);
    pipeline.copy(plan, chunk + plan.stages - 1);
    const SsdTable& table = tables[chunk % 2][own];
    if (keeps_table) {
      fill_table(chunk + 1, next_dt);
      next_dt = pipeline.step(plan, chunk + 2);
    }
    std::uint32_t x[2][2][4];
    ssd_load_channels(x, stage + own * kSsdChunk * Shared::kChannelsRow + Shared::kX);
    ssd_weigh<T>(x, table);
    state.template advance<T>(x, stage + Shared::kB, table.decay[kSsdChunk - 1]);
  }

  const std::int64_t at = block * kTiles + own;
  auto* left = reinterpret_cast<float4*>(plan.states) + at * (kSsdTile * kStates / 4) +
               threadIdx.x % kSsdTileThreads;
  state.each_quad([&](float(&four)[4], int quad) {
    left[quad * kSsdTileThreads] = {four[0], four[1], four[2], four[3]};
  });
  if (threadIdx.x % kSsdTileThreads == 0) plan.decays[at] = sum;
#endif
}

}  // namespace icd
