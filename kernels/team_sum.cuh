#pragma once

// Sums over teams of `lanes` neighbouring threads of a warp; lanes is a power of two up to 32. All
// threads of the warp take part, and those of a team get the same bits.
namespace icd {

template <int kCount>
__device__ __forceinline__ void sum_over_team(float (&values)[kCount], int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      values[i] += __shfl_xor_sync(0xFFFFFFFFU, values[i], offset);
    }
  }
}

__device__ __forceinline__ float sum_over_team(float value, int lanes) {
  float values[1] = {value};
  sum_over_team(values, lanes);
  return values[0];
}

}  // namespace icd
