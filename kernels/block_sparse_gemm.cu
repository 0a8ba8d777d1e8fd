#include <type_traits>

#include "kernels/block_sparse_gemm.cuh"
#include "kernels/launch.h"

namespace icd {
namespace {

bool is_valid(const BlockSparseGemm& args) {
  return (args.block == 16 || args.block == 32 || args.block == 64) && args.tokens >= 0 &&
         args.rows >= 0 && args.columns >= 0 && args.rows % args.block == 0 &&
         args.columns % args.block == 0;
}

template <typename T, int b>
cudaError_t launch(const BlockSparseGemm& args, cudaStream_t stream) {
  const std::int64_t block_rows = args.rows / b;
  const std::int64_t blocks = block_rows * quotient_up(args.tokens, kTileTokens);
  if (blocks > kMaxGrid) return cudaErrorInvalidValue;
  const auto grid = static_cast<unsigned int>(blocks);
  if constexpr (!std::is_same_v<T, float>) {
    if (std::is_same_v<T, __half> || device_attribute(cudaDevAttrComputeCapabilityMajor) >= 8) {
      const bool is_wide = is_aligned(args.x) && is_aligned(args.values) && args.x_row % 8 == 0;
      block_sparse_mma_kernel<T, b><<<grid, kBlockThreads, 0, stream>>>(args, block_rows, is_wide);
      return cudaGetLastError();
    }
  }
  block_sparse_plain_kernel<T, b><<<grid, kBlockThreads, 0, stream>>>(args, block_rows);
  return cudaGetLastError();
}

}  // namespace

cudaError_t block_sparse_gemm(const BlockSparseGemm& args, cudaStream_t stream) {
  if (!is_valid(args)) return cudaErrorInvalidValue;
  if (args.tokens == 0 || args.rows == 0) return cudaSuccess;
  return with_type(args.type, [&](auto element) {
    using T = decltype(element);
    return args.block == 16   ? launch<T, 16>(args, stream)
           : args.block == 32 ? launch<T, 32>(args, stream)
                              : launch<T, 64>(args, stream);
  });
}

}  // namespace icd
