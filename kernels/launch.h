#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

// What launchers work out on the host: sizes of grids, alignment, the device they run on.
namespace icd {

/// Blocks that a 1-D grid may have.
constexpr std::int64_t kMaxGrid = std::numeric_limits<std::int32_t>::max();

/// n / by, rounded up; n + by may be beyond 64 bits.
constexpr std::int64_t quotient_up(std::int64_t n, std::int64_t by) {
  return n / by + (n % by != 0);
}

/// The least power of two that is not less than n, and 1 at least.
constexpr int power_of_two_from(std::int64_t n) {
  int power = 1;
  while (power < n) power *= 2;
  return power;
}

/// A grid for kernels that stride over what the largest one leaves.
inline unsigned int grid_for(std::int64_t blocks) {
  return static_cast<unsigned int>(std::min(blocks, kMaxGrid));
}

/// Its low bits are 0 as far as the pointer is aligned.
inline std::uintptr_t address_bits(const void* pointer) {
  return reinterpret_cast<std::uintptr_t>(pointer);
}

/// nullptr is aligned.
inline bool is_aligned(const void* pointer, std::size_t bytes = 16) {
  return address_bits(pointer) % bytes == 0;
}

/// Of the current device; 0 where that cannot be told. Cheap enough for every launch.
inline int device_attribute(cudaDeviceAttr which) {
  int device = 0;
  int value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  return cudaDeviceGetAttribute(&value, which, device) == cudaSuccess ? value : 0;
}

/// 1 at least, so that work can be shared among them.
inline int multiprocessors() {
  return std::max(1, device_attribute(cudaDevAttrMultiProcessorCount));
}

}  // namespace icd
