#include <algorithm>

#include "kernels/bench_device.h"
#include "kernels/element.cuh"

namespace icd {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxBlocks = 132 * 16;  // kernels stride over what is left
constexpr int kWarps = kThreads / 32;

unsigned int grid_for(std::int64_t count) {
  return static_cast<unsigned int>(
      std::min<std::int64_t>((count + kThreads - 1) / kThreads, kMaxBlocks));
}

// SplitMix64's finisher; source: see icd/random.h.
__device__ __forceinline__ std::uint64_t mixed(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

template <typename T>
__global__ void fill_kernel(T* data, std::int64_t count, std::uint64_t seed, float mean,
                            float deviation) {
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kThreads) {
    const std::uint64_t bits = mixed(mixed(seed) + static_cast<std::uint64_t>(i));
    const auto sum = static_cast<std::int32_t>((bits & 0xFFFF) + ((bits >> 16) & 0xFFFF) +
                                               ((bits >> 32) & 0xFFFF) + (bits >> 48));
    // four uniforms of 16 bits have the deviation 65536 / sqrt(3)
    const float bell = static_cast<float>(sum - 2 * 65535) * (1.7320508F / 65536);
    data[i] = from_float<T>(fmaf(deviation, bell, mean));
  }
}

__global__ void read_kernel(const uint4* data, std::int64_t words, std::uint32_t* sink) {
  std::uint32_t all = 0xFFFFFFFFU;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < words;
       i += std::int64_t{gridDim.x} * kThreads) {
    const uint4 word = data[i];
    all &= word.x & word.y & word.z & word.w;
  }
  if (all == 0xDEADBEEFU) *sink = all;
}

// One thread. Ends whatever the clocks do: clock64 counts the cycles in which this loop runs.
__global__ void clock_kernel(std::int64_t* out) {
  const auto now = [] {
    std::uint64_t ns;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
    return static_cast<std::int64_t>(ns);
  };
  const std::int64_t first_ns = now();
  const std::int64_t first = clock64();
  std::int64_t last = first;
  for (int i = 0; i < 100000 && last - first < 50000; ++i) last = clock64();
  const std::int64_t last_ns = now();
  out[0] = last - first;
  out[1] = last_ns - first_ns;
}

template <typename T>
__global__ void difference_kernel(const T* a, const T* b, std::int64_t count, double* sums) {
  __shared__ double shared[2][kWarps];
  double difference = 0;
  double norm = 0;
  for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count;
       i += std::int64_t{gridDim.x} * kThreads) {
    const float x = to_float(a[i]);
    const float y = to_float(b[i]);
    if (isfinite(x) && isfinite(y)) {
      difference += (double{x} - y) * (double{x} - y);
      norm += double{y} * y;
    } else if (__float_as_uint(x) != __float_as_uint(y)) {
      difference = INFINITY;
    }
  }
  for (int offset = 16; offset > 0; offset /= 2) {
    difference += __shfl_down_sync(0xFFFFFFFFU, difference, offset);
    norm += __shfl_down_sync(0xFFFFFFFFU, norm, offset);
  }
  const int warp = threadIdx.x / 32;
  if (threadIdx.x % 32 == 0) {
    shared[0][warp] = difference;
    shared[1][warp] = norm;
  }
  __syncthreads();
  if (threadIdx.x < 2) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[threadIdx.x][w];
    atomicAdd(&sums[threadIdx.x], sum);
  }
}

// Grid: any 1-D. A warp's 32 elements are neighbours in a row of `out` unless the row ends.
__global__ void gather_kernel(const std::uint16_t* __restrict__ in,
                              const std::int32_t* __restrict__ source,
                              std::uint16_t* __restrict__ out, std::int64_t rows,
                              std::int64_t columns) {
  const std::int64_t chunks = (columns + kThreads - 1) / kThreads;  // of a row
  for (std::int64_t item = blockIdx.x; item < rows * chunks; item += gridDim.x) {
    const std::int64_t r = item / chunks;
    const std::int64_t c = (item - r * chunks) * kThreads + threadIdx.x;
    if (c < columns) out[r * columns + c] = in[r * columns + source[c]];
  }
}

}  // namespace

cudaError_t fill_bell(void* data, std::int32_t type, std::int64_t count, std::uint64_t seed,
                      float mean, float deviation, cudaStream_t stream) {
  if (count < 0) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    fill_kernel<<<grid_for(count), kThreads, 0, stream>>>(static_cast<decltype(zero)*>(data), count,
                                                          seed, mean, deviation);
    return cudaGetLastError();
  });
}

cudaError_t read_through(const void* data, std::int64_t bytes, std::uint32_t* sink,
                         cudaStream_t stream) {
  const std::int64_t words = bytes / static_cast<std::int64_t>(sizeof(uint4));
  if (bytes < 0) return cudaErrorInvalidValue;
  if (words == 0) return cudaSuccess;
  read_kernel<<<grid_for(words), kThreads, 0, stream>>>(static_cast<const uint4*>(data), words,
                                                        sink);
  return cudaGetLastError();
}

cudaError_t probe_clock(std::int64_t* out, cudaStream_t stream) {
  clock_kernel<<<1, 1, 0, stream>>>(out);
  return cudaGetLastError();
}

cudaError_t add_differences(std::int32_t type, const void* a, const void* b, std::int64_t count,
                            double* sums, cudaStream_t stream) {
  if (count < 0) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  return with_type(type, [&](auto zero) {
    using T = decltype(zero);
    difference_kernel<<<grid_for(count), kThreads, 0, stream>>>(
        static_cast<const T*>(a), static_cast<const T*>(b), count, sums);
    return cudaGetLastError();
  });
}

cudaError_t gather_directly(const std::uint16_t* in, const std::int32_t* source, std::uint16_t* out,
                            std::int64_t rows, std::int64_t columns, cudaStream_t stream) {
  if (rows < 0 || columns < 0) return cudaErrorInvalidValue;
  if (rows == 0 || columns == 0) return cudaSuccess;
  const std::int64_t items = rows * ((columns + kThreads - 1) / kThreads);
  gather_kernel<<<static_cast<unsigned int>(std::min<std::int64_t>(items, 1 << 20)), kThreads, 0,
                  stream>>>(in, source, out, rows, columns);
  return cudaGetLastError();
}

}  // namespace icd
