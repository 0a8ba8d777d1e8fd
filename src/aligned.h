#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace icd {

/// Allocates at cache lines: a 64-byte vector across two lines would load at half the speed.
template <typename T>
struct CacheLineAllocator {
  using value_type = T;
  static constexpr std::align_val_t kAlignment{64};

  CacheLineAllocator() = default;
  template <typename U>
  CacheLineAllocator(const CacheLineAllocator<U>& /*other*/) {}

  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), kAlignment)); }
  void deallocate(T* at, std::size_t n) { ::operator delete(at, n * sizeof(T), kAlignment); }

  friend bool operator==(const CacheLineAllocator&, const CacheLineAllocator&) { return true; }
};

using FloatBuffer = std::vector<float, CacheLineAllocator<float>>;

}  // namespace icd
