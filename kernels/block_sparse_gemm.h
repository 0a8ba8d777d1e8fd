#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/args.h"

namespace icd {

/// y = x W^T for a W of which only some blocks are stored (block compressed sparse row). Blocks are
/// `block` rows and columns wide. Pointers of a call lie on one device, or all in host memory for
/// the reference. Time follows the number of stored blocks; the sum of a row takes them in order.
struct BlockSparseGemm {
  std::int64_t tokens = 0;
  std::int64_t rows = 0;     ///< of W; a multiple of block
  std::int64_t columns = 0;  ///< of W; a multiple of block
  std::int32_t block = 16;   ///< 16, 32 or 64
  std::int32_t type = ICD_F32;
  const void* x = nullptr;  ///< (tokens, columns)
  std::int64_t x_row = 0;   ///< elements from row to row
  void* y = nullptr;        ///< (tokens, rows)
  std::int64_t y_row = 0;
  const std::int32_t* starts = nullptr;  ///< (rows / block + 1): stored blocks of a row of blocks
  const std::int32_t* columns_of = nullptr;  ///< (stored): which column of blocks each is in
  const void* values = nullptr;              ///< (stored, block, block), row-major
};

/// Device pointers. Returns the status of the launch, cudaErrorInvalidValue for sizes that do not
/// fit; does not synchronise, allocates nothing, and succeeds where there is nothing to do. Sums in
/// f32. Fastest with f16 and bf16 (tensor cores; bf16 from compute capability 8.0), x and values
/// aligned to 16 bytes and x_row to 8 elements.
cudaError_t block_sparse_gemm(const BlockSparseGemm& args, cudaStream_t stream);

namespace reference {

/// The same on host pointers, as a plain loop in double.
void block_sparse_gemm(const BlockSparseGemm& args);

}  // namespace reference
}  // namespace icd
