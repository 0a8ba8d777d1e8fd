#include "row_kernels.h"

#include <cstring>
#include <limits>

namespace icd {
namespace {

using Float4 [[gnu::vector_size(16)]] = float;
using Float8 [[gnu::vector_size(32)]] = float;
using Float16 [[gnu::vector_size(64)]] = float;

template <typename Vector>
inline constexpr Index kLanes = sizeof(Vector) / sizeof(float);

// Forced inline, so that everything is compiled for the instructions of its caller. Vectors are
// no results and no values of parameters: those would be passed otherwise by each caller. In the
// form a < b ? b : a the larger number is one instruction on every path.
template <typename Vector>
[[gnu::always_inline]] inline void load(Vector& lanes, const float* from) {
  std::memcpy(&lanes, from, sizeof(lanes));
}

template <typename Vector>
[[gnu::always_inline]] inline void store(float* to, const Vector& lanes) {
  std::memcpy(to, &lanes, sizeof(lanes));
}

template <typename Vector>
[[gnu::always_inline]] inline float sum_of_group(
    const Vector (&parts)[kRowGroup / kLanes<Vector>]) {
  float lanes[kRowGroup];
  std::memcpy(lanes, parts, sizeof(lanes));
  for (Index half = kRowGroup / 2; half > 0; half /= 2) {
    for (Index lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

/// One tile of add_maxima: kSeats by kOffers sums in registers.
template <typename Vector, int kSeats, int kOffers>
[[gnu::always_inline]] inline void maxima_of_tile(const MaximaArguments& all, Index seat,
                                                  Index member) {
  constexpr Index kParts = kRowGroup / kLanes<Vector>;
  const float* held[kSeats];
  const float* offered[kOffers];
  for (int i = 0; i < kSeats; ++i) held[i] = all.held[seat + i];
  for (int j = 0; j < kOffers; ++j) offered[j] = all.offered + (member + j) * all.ld;
  Vector sum[kSeats][kOffers][kParts] = {};
  for (Index r = 0; r < all.rows; r += kRowGroup) {
#pragma GCC unroll 4
    for (Index part = 0; part < kParts; ++part) {
      const Index at = r + part * kLanes<Vector>;
      Vector own[kSeats];
#pragma GCC unroll 4
      for (int i = 0; i < kSeats; ++i) load(own[i], held[i] + at);
#pragma GCC unroll 4
      for (int j = 0; j < kOffers; ++j) {
        Vector other;
        load(other, offered[j] + at);
#pragma GCC unroll 4
        for (int i = 0; i < kSeats; ++i) sum[i][j][part] += own[i] < other ? other : own[i];
      }
    }
  }
  for (int i = 0; i < kSeats; ++i) {
    for (int j = 0; j < kOffers; ++j) all.out[seat + i][member + j] += sum_of_group(sum[i][j]);
  }
}

template <typename Vector, int kSeats, int kOffers>
[[gnu::always_inline]] inline void maxima_of_seats(const MaximaArguments& all, Index seat) {
  Index member = 0;
  for (; member + kOffers <= all.members; member += kOffers) {
    maxima_of_tile<Vector, kSeats, kOffers>(all, seat, member);
  }
  for (; member < all.members; ++member) maxima_of_tile<Vector, kSeats, 1>(all, seat, member);
}

template <typename Vector, int kSeats, int kOffers>
[[gnu::always_inline]] inline void add_maxima(const MaximaArguments& all) {
  Index seat = 0;
  for (; seat + kSeats <= all.seats; seat += kSeats) {
    maxima_of_seats<Vector, kSeats, kOffers>(all, seat);
  }
  for (; seat < all.seats; ++seat) maxima_of_seats<Vector, 1, kOffers>(all, seat);
}

template <typename Vector>
[[gnu::always_inline]] inline void add_clips(const ClipArguments& all) {
  constexpr Index kParts = kMemberGroup / kLanes<Vector>;
  // Registers for a group of members; a row is a few cache lines at a time.
  for (Index first = 0; first < all.members; first += kMemberGroup) {
    Vector sum[kParts];
    for (Index part = 0; part < kParts; ++part) {
      load(sum[part], all.out + first + part * kLanes<Vector>);
    }
    for (Index c = 0; c < all.count; ++c) {
      const Clip clip = all.clips[c];
      const float* numbers = all.numbers + clip.row * all.ld + first;
      const Vector low = clip.low - Vector{};
      const Vector high = clip.high - Vector{};
#pragma GCC unroll 16
      for (Index part = 0; part < kParts; ++part) {
        Vector x;
        load(x, numbers + part * kLanes<Vector>);
        x = x < low ? low : x;
        x = x < high ? x : high;
        sum[part] += x - low;
      }
    }
    for (Index part = 0; part < kParts; ++part) {
      store(all.out + first + part * kLanes<Vector>, sum[part]);
    }
  }
}

template <typename Vector>
[[gnu::always_inline]] inline void best_partners(const PartnerArguments& all) {
  using Mask = decltype(Vector{} < Vector{});
  constexpr Index kParts = kMemberGroup / kLanes<Vector>;
  const Vector never = Vector{} - std::numeric_limits<float>::infinity();
  alignas(64) float mirrored[kMemberGroup][kMemberGroup];  // [v][u] = table[u][v]
  Vector own[kParts];
  Vector block[kParts];
  Vector gain[kParts] = {};
  Mask partner[kParts];
  for (Index part = 0; part < kParts; ++part) {
    load(own[part], all.own + all.first + part * kLanes<Vector>);
    load(block[part], all.block + all.first + part * kLanes<Vector>);
    partner[part] = Mask{} - 1;
  }
  const Index seats = all.n - all.first < kMemberGroup ? all.n - all.first : kMemberGroup;
  for (Index begin = 0; begin < all.n; begin += kMemberGroup) {
    const Index end = all.n - begin < kMemberGroup ? all.n : begin + kMemberGroup;
    for (Index i = 0; i < seats; ++i) {
      const float* row = all.table + (all.first + i) * all.ld + begin;
      for (Index j = 0; j < kMemberGroup; ++j) mirrored[j][i] = row[j];
    }
    for (Index v = begin; v < end; ++v) {
      const float* row = all.table + v * all.ld + all.first;
      const Vector own_v = Vector{} + all.own[v];
      const Vector block_v = Vector{} + all.block[v];
      const Mask number = Mask{} + v;
#pragma GCC unroll 16
      for (Index part = 0; part < kParts; ++part) {
        Vector there;
        Vector here;
        load(there, &mirrored[v - begin][part * kLanes<Vector>]);
        load(here, row + part * kLanes<Vector>);
        here = here + there - (own[part] + own_v);
        here = block[part] == block_v ? never : here;
        partner[part] = here > gain[part] ? number : partner[part];
        gain[part] = here > gain[part] ? here : gain[part];
      }
    }
  }
  std::memcpy(all.gain, gain, sizeof(gain));
  std::memcpy(all.partner, partner, sizeof(partner));
}

template <typename Vector>
[[gnu::always_inline]] inline void thresholds(const float* const* columns, Index count, Index kept,
                                              Index rows, float* const* out) {
  for (Index r = 0; r < rows; r += kLanes<Vector>) {
    Vector largest[16] = {};  // the kept + 1 largest, falling
    for (Index c = 0; c < count; ++c) {
      Vector x;
      load(x, columns[c] + r);
      for (Index k = 0; k <= kept; ++k) {
        const Vector here = largest[k];
        largest[k] = here < x ? x : here;
        x = here < x ? here : x;
      }
    }
    const Vector last_in = largest[kept - 1];
    const Vector first_out = largest[kept];
    for (Index c = 0; c < count; ++c) {
      Vector x;
      load(x, columns[c] + r);
      x = x < last_in ? last_in : first_out;
      store(out[c] + r, x);
    }
  }
}

// The tiles fill the registers of each: 16 of 32, 8 of 16 and 8 of 16.
[[gnu::target("avx512f")]] void add_maxima_avx512(const MaximaArguments& arguments) {
  add_maxima<Float16, 4, 4>(arguments);
}
[[gnu::target("avx512f")]] void add_clips_avx512(const ClipArguments& arguments) {
  add_clips<Float16>(arguments);
}
[[gnu::target("avx512f")]] void best_partners_avx512(const PartnerArguments& arguments) {
  best_partners<Float16>(arguments);
}
[[gnu::target("avx512f")]] void thresholds_avx512(const float* const* columns, Index count,
                                                  Index kept, Index rows, float* const* out) {
  thresholds<Float16>(columns, count, kept, rows, out);
}

[[gnu::target("avx2")]] void add_maxima_avx2(const MaximaArguments& arguments) {
  add_maxima<Float8, 2, 2>(arguments);
}
[[gnu::target("avx2")]] void add_clips_avx2(const ClipArguments& arguments) {
  add_clips<Float8>(arguments);
}
[[gnu::target("avx2")]] void best_partners_avx2(const PartnerArguments& arguments) {
  best_partners<Float8>(arguments);
}
[[gnu::target("avx2")]] void thresholds_avx2(const float* const* columns, Index count, Index kept,
                                             Index rows, float* const* out) {
  thresholds<Float8>(columns, count, kept, rows, out);
}

void add_maxima_sse2(const MaximaArguments& arguments) { add_maxima<Float4, 2, 1>(arguments); }
void add_clips_sse2(const ClipArguments& arguments) { add_clips<Float4>(arguments); }
void best_partners_sse2(const PartnerArguments& arguments) { best_partners<Float4>(arguments); }
void thresholds_sse2(const float* const* columns, Index count, Index kept, Index rows,
                     float* const* out) {
  thresholds<Float4>(columns, count, kept, rows, out);
}

constexpr RowKernels kSse2 = {add_maxima_sse2, add_clips_sse2, best_partners_sse2, thresholds_sse2};
constexpr RowKernels kAvx2 = {add_maxima_avx2, add_clips_avx2, best_partners_avx2, thresholds_avx2};
constexpr RowKernels kAvx512 = {add_maxima_avx512, add_clips_avx512, best_partners_avx512,
                                thresholds_avx512};

}  // namespace

const RowKernels& row_kernels(VectorPath path) noexcept {
  switch (path) {
    case VectorPath::avx512:
      return kAvx512;
    case VectorPath::avx2:
      return kAvx2;
    case VectorPath::sse2:
      break;
  }
  return kSse2;
}

}  // namespace icd
