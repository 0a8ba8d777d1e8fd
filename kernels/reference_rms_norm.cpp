#include <cmath>
#include <vector>

#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {

void rms_norm(const RmsNorm& args) {
  if (args.columns == 0) return;
  const std::int64_t group = args.group == 0 ? args.columns : args.group;
  each_row(args.rows, [&](std::int64_t r) {
    std::vector<double> values(static_cast<std::size_t>(args.columns));
    const auto gate = [&](std::int64_t c) {
      return silu(load(args.type, args.z, r * args.z_row + c));
    };
    for (std::int64_t c = 0; c < args.columns; ++c) {
      double x = load(args.type, args.x, r * args.x_row + c);
      const std::int64_t at = r * args.columns + c;
      if (args.residual != nullptr) x += load(args.residual_type, args.residual, at);
      if (args.residual_out != nullptr) {
        store(args.residual_type, args.residual_out, at, static_cast<float>(x));
      }
      if (args.z != nullptr && args.norm_before_gate == 0) x *= gate(c);
      values[static_cast<std::size_t>(c)] = x;
    }
    std::vector<double> rms(static_cast<std::size_t>(args.columns / group));
    for (std::int64_t g = 0; g < args.columns / group; ++g) {
      double squares = 0;
      for (std::int64_t c = g * group; c < (g + 1) * group; ++c) {
        squares += values[static_cast<std::size_t>(c)] * values[static_cast<std::size_t>(c)];
      }
      rms[static_cast<std::size_t>(g)] =
          std::sqrt(squares / static_cast<double>(group) + double{args.eps});
    }
    for (std::int64_t c = 0; c < args.columns; ++c) {
      const std::int64_t from = args.order == nullptr ? c : args.order[c];
      double y =
          values[static_cast<std::size_t>(from)] / rms[static_cast<std::size_t>(from / group)];
      if (args.weight != nullptr) y *= double{args.weight[from]};
      if (args.z != nullptr && args.norm_before_gate != 0) y *= gate(from);
      store(args.type, args.y, r * args.y_row + c, static_cast<float>(y));
    }
  });
}

}  // namespace icd::reference
