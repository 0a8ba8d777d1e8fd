#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Small kernels of the benchmark runner. As all launchers they return the status of the launch, do
// not synchronise, allocate nothing, and succeed without a launch where there is nothing to do.
namespace icd {

/// data[i] = mean + deviation * x_i, where x_i is a bell within 3.47 deviations (the sum of four
/// uniforms, scaled) that depends on seed and i only. data: device, (count) elements of `type`.
cudaError_t fill_bell(void* data, std::int32_t type, std::int64_t count, std::uint64_t seed,
                      float mean, float deviation, cudaStream_t stream);

/// Reads bytes [0, bytes) through the caches, so that they hold these and nothing else.
/// sink: device, written if every word is 0xdeadbeef, which no caller's is.
cudaError_t read_through(const void* data, std::int64_t bytes, std::uint32_t* sink,
                         cudaStream_t stream);

/// out[0] = cycles of one multiprocessor's clock64 and out[1] = nanoseconds of %globaltimer between
/// two moments some 25 us apart (50000 cycles); their quotient is the clock. out: device, (2).
cudaError_t probe_clock(std::int64_t* out, cudaStream_t stream);

/// Adds sum (a - b)^2 to sums[0] and sum b^2 to sums[1], over elements of which one is not finite
/// +infinity to sums[0] unless both have the same bits. a, b: device, (count) of `type`; sums:
/// device, (2).
cudaError_t add_differences(std::int32_t type, const void* a, const void* b, std::int64_t count,
                            double* sums, cudaStream_t stream);

/// out[r, c] = in[r, source[c]], read from global memory by the thread that writes it: the positive
/// control, whose sectors per request are those of the order. in, out: device, (rows, columns)
/// elements of 2 bytes; source: device, (columns).
cudaError_t gather_directly(const std::uint16_t* in, const std::int32_t* source, std::uint16_t* out,
                            std::int64_t rows, std::int64_t columns, cudaStream_t stream);

}  // namespace icd
