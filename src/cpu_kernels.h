#pragma once

#include <array>
#include <cstdint>

namespace icd {

/// The instruction sets that the float kernels are compiled for.
enum class CpuPath { plain, avx2, avx512 };

inline constexpr std::array kCpuPaths = {CpuPath::plain, CpuPath::avx2, CpuPath::avx512};

/// Every path treats channels in groups of this many: activations inside a layer have rows
/// of a multiple of it, so that no kernel has a ragged end.
inline constexpr int kChannelGroup = 16;

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

/// One product of a packed block of rows and a packed panel of columns, added to or put
/// into c: c[r][j] = sum over k of a[k][r] * b[k][j], one fused multiply-add after the other,
/// from k = 0 on.
struct TileArguments {
  std::int64_t depth = 0;
  const float* a = nullptr;  ///< (depth, rows)
  const float* b = nullptr;  ///< (depth, columns of the tile)
  float* c = nullptr;        ///< (rows, columns), rows ldc apart
  std::int64_t ldc = 0;
  bool is_first = true;  ///< start the chains at 0; else at what c holds
};

/// Root mean square or LayerNorm of one row.
struct NormArguments {
  const float* in = nullptr;      ///< (channels)
  const float* weight = nullptr;  ///< (channels)
  const float* bias = nullptr;    ///< (channels) or null
  float* out = nullptr;           ///< (channels)
  std::int64_t channels = 0;
  float epsilon = 0;
  bool is_centred = false;  ///< LayerNorm: subtract the mean first
};

/// Causal depthwise convolution and SiLU of one sequence, over a run of channels.
struct ConvArguments {
  std::int64_t length = 0;
  std::int64_t channels = 0;  ///< a multiple of kChannelGroup
  std::int64_t width = 0;     ///< d_conv
  const float* in = nullptr;  ///< (length, channels), rows ld_in apart
  std::int64_t ld_in = 0;
  const float* history = nullptr;  ///< (width - 1, channels), rows ld_history apart
  std::int64_t ld_history = 0;
  const float* weight = nullptr;  ///< (width, channels), rows ld_weight apart
  std::int64_t ld_weight = 0;
  const float* bias = nullptr;  ///< (channels)
  float* out = nullptr;         ///< (length, channels), rows ld_out apart
  std::int64_t ld_out = 0;
};

/// The selective scan of one sequence over a run of channels, gate included:
/// s = 2^(dt a) s + dt x B;  y = (C . s + d x) SiLU(z).
struct ScanArguments {
  std::int64_t length = 0;
  std::int64_t channels = 0;  ///< a multiple of kChannelGroup
  std::int64_t states = 0;    ///< d_state
  const float* x = nullptr;   ///< (length, channels), rows ld apart
  const float* dt = nullptr;  ///< as x
  float* y = nullptr;         ///< as x; may be x
  std::int64_t ld = 0;
  const float* z = nullptr;  ///< (length, channels), rows ld_z apart
  std::int64_t ld_z = 0;
  const float* b = nullptr;  ///< (length, states), rows ld_bc apart
  const float* c = nullptr;  ///< as b
  std::int64_t ld_bc = 0;
  const float* a = nullptr;  ///< (states, channels), rows ld_a apart; A / ln 2
  std::int64_t ld_a = 0;
  const float* d = nullptr;  ///< (channels)
  float* state = nullptr;    ///< (states, channels), rows ld_state apart; in and out
  std::int64_t ld_state = 0;
};

/// The float kernels of one path. They are serial, check nothing, and compute the same bits
/// on every path: the same operations in the same order for each element.
struct CpuKernels {
  const char* name = "";
  int tile_rows = 0;  ///< rows of a full tile; a tile may have fewer
  int tile_columns = 0;
  /// (rows, depth), rows ld_in apart, to (depth, rows), for TileArguments::a.
  void (*pack)(const float* in, std::int64_t ld_in, int rows, std::int64_t depth, float* packed);
  void (*tile)(const TileArguments& tile, int rows);
  void (*norm)(const NormArguments& row);
  void (*conv_silu)(const ConvArguments& run);
  void (*softplus)(float* values, const float* bias, std::int64_t channels);  ///< (x + bias)
  void (*scan)(const ScanArguments& run);
  void (*exp)(float* values, std::int64_t count);   ///< count: a multiple of kChannelGroup
  void (*silu)(float* values, std::int64_t count);  ///< as exp
};

/// Can this machine run the path?
bool is_supported(CpuPath path) noexcept;

/// The widest path this machine can run.
CpuPath best_cpu_path() noexcept;

const CpuKernels& cpu_kernels(CpuPath path) noexcept;

}  // namespace icd
