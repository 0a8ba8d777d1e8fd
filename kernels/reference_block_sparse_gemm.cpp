#include "kernels/block_sparse_gemm.h"
#include "kernels/element.h"
#include "kernels/reference_math.h"

namespace icd::reference {

void block_sparse_gemm(const BlockSparseGemm& args) {
  const std::int64_t b = args.block;
  each_row(args.tokens, [&](std::int64_t t) {
    for (std::int64_t r = 0; r < args.rows; ++r) {
      double sum = 0;
      for (std::int64_t k = args.starts[r / b]; k < args.starts[r / b + 1]; ++k) {
        for (std::int64_t c = 0; c < b; ++c) {
          const std::int64_t column = args.columns_of[k] * b + c;
          sum += static_cast<double>(load(args.type, args.values, (k * b + r % b) * b + c)) *
                 static_cast<double>(load(args.type, args.x, t * args.x_row + column));
        }
      }
      store(args.type, args.y, t * args.y_row + r, static_cast<float>(sum));
    }
  });
}

}  // namespace icd::reference
