#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {

void skip_zero_gemv(const SkipZeroGemv& args) {
  each_row(args.rows, [&](std::int64_t r) {
    double sum = 0;
    for (std::int64_t c = 0; c < args.columns; ++c) {
      const double x = load(args.type, args.x, c);
      if (x == 0) continue;
      const std::int64_t at = args.input_major != 0 ? c * args.rows + r : r * args.columns + c;
      sum += static_cast<double>(load(args.type, args.W, at)) * x;
    }
    store(args.type, args.y, r, static_cast<float>(sum));
  });
}

}  // namespace icd::reference
