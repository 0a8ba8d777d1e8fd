#pragma once

#include "cpu_kernels.h"
#include "vector_math.h"

// The float kernels, written once over an instruction set `Isa`. Included by the files that
// are compiled with that set switched on. An Isa belongs to one file, so no instance of these
// templates is shared between files; and nothing of the standard library
// that is compiled here may reach a machine without the set (hence the builtins).

namespace icd {

template <typename Isa>
inline typename Isa::Float load(const float* from) {
  typename Isa::Float value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}

template <typename Isa>
inline void store(float* to, typename Isa::Float value) {
  __builtin_memcpy(to, &value, sizeof value);
}

template <typename Isa, int kRows>
void tile_of(const TileArguments& tile) {
  using Float = typename Isa::Float;
  constexpr int kVectors = Isa::kTileVectors;
  Float sum[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      sum[r][v] =
          tile.is_first ? Isa::broadcast(0.0F) : load<Isa>(tile.c + r * tile.ldc + v * Isa::kLanes);
    }
  }
  // The rows of c lie in pages of their own; they arrive while the sums are made.
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      __builtin_prefetch(tile.c + r * tile.ldc + v * Isa::kLanes, 1);
    }
  }
  const float* a = tile.a;
  const float* b = tile.b;
  for (std::int64_t k = 0; k < tile.depth; ++k) {
    Float column[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) column[v] = load<Isa>(b + v * Isa::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Float row = Isa::broadcast(a[r]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] = Isa::fma(row, column[v], sum[r][v]);
    }
    a += kRows;
    b += kVectors * Isa::kLanes;
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      store<Isa>(tile.c + r * tile.ldc + v * Isa::kLanes, sum[r][v]);
    }
  }
}

template <typename Isa, int kRows = Isa::kTileRows>
void run_tile(const TileArguments& tile, int rows) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return run_tile<Isa, kRows - 1>(tile, rows);
  }
  tile_of<Isa, kRows>(tile);
}

/// Transposes the rows of one tile; the number of rows is a constant for the compiler.
template <typename Isa, int kRows = Isa::kTileRows>
void pack_tile(const float* in, std::int64_t ld_in, int rows, std::int64_t depth, float* packed) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return pack_tile<Isa, kRows - 1>(in, ld_in, rows, depth, packed);
  }
  const float* from[kRows];
  for (int r = 0; r < kRows; ++r) from[r] = in + r * ld_in;
  for (std::int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) packed[k * kRows + r] = from[r][k];
  }
}

/// Sums term(in[i]) over a row. Sixteen partial sums, element i to sum i mod 16, then halves
/// onto halves: an order that does not depend on kLanes.
template <typename Isa, typename Term>
inline float sum_row(const float* in, std::int64_t channels, Term term) {
  using Float = typename Isa::Float;
  constexpr int kVectors = kChannelGroup / Isa::kLanes;
  Float sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = Isa::broadcast(0.0F);
  std::int64_t i = 0;
  for (; i + kChannelGroup <= channels; i += kChannelGroup) {
    for (int v = 0; v < kVectors; ++v) {
      sums[v] = term(load<Isa>(in + i + v * Isa::kLanes), sums[v]);
    }
  }
  float partial[kChannelGroup];
  __builtin_memcpy(partial, sums, sizeof partial);
  for (std::int64_t lane = 0; i < channels; ++i, ++lane) {
    partial[lane] = term(Isa::broadcast(in[i]), Isa::broadcast(partial[lane]))[0];
  }
  for (int half = kChannelGroup / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) partial[lane] += partial[lane + half];
  }
  return partial[0];
}

template <typename Isa>
void norm(const NormArguments& row) {
  using Float = typename Isa::Float;
  const auto count = static_cast<float>(row.channels);
  float mean = 0;
  if (row.is_centred) {
    mean = sum_row<Isa>(row.in, row.channels, [](Float x, Float sum) { return sum + x; }) / count;
  }
  const float squares = sum_row<Isa>(row.in, row.channels, [mean](Float x, Float sum) {
    const Float centred = x - mean;
    return Isa::fma(centred, centred, sum);
  });
  const float scale = 1.0F / __builtin_sqrtf(squares / count + row.epsilon);
  for (std::int64_t i = 0; i < row.channels; ++i) {
    const float value = (row.in[i] - mean) * scale * row.weight[i];
    row.out[i] = row.bias != nullptr ? value + row.bias[i] : value;
  }
}

template <typename Isa>
void conv_silu(const ConvArguments& run) {
  using Float = typename Isa::Float;
  for (std::int64_t t = 0; t < run.length; ++t) {
    for (std::int64_t c = 0; c < run.channels; c += Isa::kLanes) {
      Float sum = load<Isa>(run.bias + c);
      for (std::int64_t tap = 0; tap < run.width; ++tap) {
        const std::int64_t from = t - (run.width - 1) + tap;
        const float* in = from < 0 ? run.history + (from + run.width - 1) * run.ld_history
                                   : run.in + from * run.ld_in;
        sum = Isa::fma(load<Isa>(run.weight + tap * run.ld_weight + c), load<Isa>(in + c), sum);
      }
      store<Isa>(run.out + t * run.ld_out + c, silu<Isa>(sum));
    }
  }
}

template <typename Isa>
void add_softplus(float* values, const float* bias, std::int64_t channels) {
  for (std::int64_t c = 0; c < channels; c += Isa::kLanes) {
    store<Isa>(values + c, softplus<Isa>(load<Isa>(values + c) + load<Isa>(bias + c)));
  }
}

inline constexpr std::int64_t kRowsAhead = 8;

/// One vector of channels through the whole sequence. kStates > 0: the states are held in
/// registers; 0: any number of them, in memory.
template <typename Isa, int kStates>
inline void scan_channels(const ScanArguments& run, std::int64_t channel) {
  using Float = typename Isa::Float;
  const std::int64_t states = kStates > 0 ? kStates : run.states;
  const float* a = run.a + channel;
  float* state = run.state + channel;
  const Float d = load<Isa>(run.d + channel);
  Float held[kStates > 0 ? kStates : 1];
  if constexpr (kStates > 0) {
#pragma GCC unroll 16
    for (int n = 0; n < kStates; ++n) held[n] = load<Isa>(state + n * run.ld_state);
  }
  for (std::int64_t t = 0; t < run.length; ++t) {
    const float* b = run.b + t * run.ld_bc;
    const float* c = run.c + t * run.ld_bc;
    // Every row lies in a page of its own, where the hardware does not look ahead. Without
    // this, half of the scan waits for z (perf, Sapphire Rapids, d_inner 1024).
    const std::int64_t ahead = t + kRowsAhead;
    if (ahead < run.length) {
      __builtin_prefetch(run.x + ahead * run.ld + channel);
      __builtin_prefetch(run.dt + ahead * run.ld + channel);
      __builtin_prefetch(run.z + ahead * run.ld_z + channel);
    }
    const Float x = load<Isa>(run.x + t * run.ld + channel);
    const Float dt = load<Isa>(run.dt + t * run.ld + channel);
    const Float input = dt * x;
    Float y = Isa::broadcast(0.0F);
    const auto advance = [&](std::int64_t n, Float s) {
      const Float decay = exp2_normal<Isa>(dt * load<Isa>(a + n * run.ld_a));
      s = Isa::fma(decay, s, input * Isa::broadcast(b[n]));
      y = Isa::fma(Isa::broadcast(c[n]), s, y);
      return s;
    };
    if constexpr (kStates > 0) {
#pragma GCC unroll 16
      for (int n = 0; n < kStates; ++n) held[n] = advance(n, held[n]);
    } else {
      for (std::int64_t n = 0; n < states; ++n) {
        store<Isa>(state + n * run.ld_state, advance(n, load<Isa>(state + n * run.ld_state)));
      }
    }
    const Float gate = silu<Isa>(load<Isa>(run.z + t * run.ld_z + channel));
    store<Isa>(run.y + t * run.ld + channel, Isa::fma(d, x, y) * gate);
  }
  if constexpr (kStates > 0) {
#pragma GCC unroll 16
    for (int n = 0; n < kStates; ++n) store<Isa>(state + n * run.ld_state, held[n]);
  }
}

template <typename Isa>
void scan(const ScanArguments& run) {
  for (std::int64_t channel = 0; channel < run.channels; channel += Isa::kLanes) {
    if (run.states == 16) {
      scan_channels<Isa, 16>(run, channel);
    } else {
      scan_channels<Isa, 0>(run, channel);
    }
  }
}

template <typename Isa>
void exp_all(float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += Isa::kLanes) {
    store<Isa>(values + i, exp<Isa>(load<Isa>(values + i)));
  }
}

template <typename Isa>
void silu_all(float* values, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += Isa::kLanes) {
    store<Isa>(values + i, silu<Isa>(load<Isa>(values + i)));
  }
}

template <typename Isa>
constexpr CpuKernels kernels_of(const char* name) {
  static_assert(kChannelGroup % Isa::kLanes == 0);
  return {.name = name,
          .tile_rows = Isa::kTileRows,
          .tile_columns = Isa::kTileVectors * Isa::kLanes,
          .pack = &pack_tile<Isa>,
          .tile = &run_tile<Isa>,
          .norm = &norm<Isa>,
          .conv_silu = &conv_silu<Isa>,
          .softplus = &add_softplus<Isa>,
          .scan = &scan<Isa>,
          .exp = &exp_all<Isa>,
          .silu = &silu_all<Isa>};
}

}  // namespace icd
