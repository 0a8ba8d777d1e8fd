#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

// Both move bytes, so they serve every dtype. Arrays are row-major and packed, on the device;
// in and out do not overlap. `source` is a permutation in gather form (any table of places
// does) and is not checked here. Both return the status of the launch, do not synchronise,
// allocate nothing, and succeed without a launch where there is nothing to move. A negative
// size is cudaErrorInvalidValue.
namespace icd {

/// out[r, :] = in[source[r], :] for r in [0, rows).
///
/// in, out  device, (rows, row_bytes), at any address
/// source   device, (rows)
///
/// Fastest where in, out and row_bytes are multiples of 16.
cudaError_t gather_rows(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                        std::int64_t row_bytes, cudaStream_t stream);

/// out[r, c] = in[r, source[c]] for r in [0, rows), c in [0, columns).
///
/// in, out  device, (rows, columns) elements, aligned to their size, else
/// cudaErrorMisalignedAddress source   device, (columns)
///
/// element_bytes is 1, 2, 4, 8 or 16, else cudaErrorInvalidValue. Fastest where all three
/// pointers and the length of a row are multiples of 16 bytes and a row is no longer than 48 KiB.
cudaError_t gather_columns(const void* in, const std::int32_t* source, void* out, std::int64_t rows,
                           std::int32_t columns, int element_bytes, cudaStream_t stream);

}  // namespace icd
