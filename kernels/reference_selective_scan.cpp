#include <vector>

#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {
namespace {

void scan_channel(const SelectiveScan& args, std::int64_t b, std::int64_t d, const Tokens& tokens) {
  const auto at = [&](const Strided& tensor, std::int64_t token, std::int64_t c) -> double {
    return load(args.type, tensor.data, place(tensor, tokens.row, token, c));
  };
  const std::int64_t first_state = (b * args.channels + d) * args.states;
  const float* A = args.A + d * args.states;
  std::vector<double> h(static_cast<std::size_t>(args.states), 0.0);
  if (args.initial_state != nullptr) {
    h.assign(args.initial_state + first_state, args.initial_state + first_state + args.states);
  }

  for (std::int64_t t = tokens.first; t < tokens.first + tokens.count; ++t) {
    const double u = at(args.u, t, d);
    double dt = at(args.dt, t, d);
    if (args.dt_bias != nullptr) dt += double{args.dt_bias[d]};
    if (args.softplus != 0) dt = softplus(dt);
    double y = args.D != nullptr ? double{args.D[d]} * u : 0;
    for (std::int64_t n = 0; n < args.states; ++n) {
      double& state = h[static_cast<std::size_t>(n)];
      state = std::exp(dt * double{A[n]}) * state + dt * u * at(args.B, t, n);
      y += state * at(args.C, t, n);
    }
    if (args.z.data != nullptr) y *= silu(at(args.z, t, d));
    store(args.type, args.y.data, place(args.y, tokens.row, t, d), static_cast<float>(y));
  }

  if (args.final_state != nullptr) {
    for (std::int64_t n = 0; n < args.states; ++n) {
      args.final_state[first_state + n] = static_cast<float>(h[static_cast<std::size_t>(n)]);
    }
  }
}

}  // namespace

void selective_scan(const SelectiveScan& args) {
  each_row(args.batch * args.channels, [&](std::int64_t row) {
    const std::int64_t b = row / args.channels;
    scan_channel(args, b, row % args.channels, tokens_of(args.starts, args.length, b));
  });
}

}  // namespace icd::reference
