#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {
namespace {

double step_size(const Ssd& args, double dt) {
  if (args.softplus != 0) dt = softplus(dt);
  if (args.dt_max == 0) return dt;
  const double least = args.dt_min;
  const double most = args.dt_max;
  return dt < least ? least : dt > most ? most : dt;  // NaN stays one
}

// One head of one sequence, token by token, with its state h (P, N) in double.
void run_head(const Ssd& args, std::int64_t b, std::int64_t head) {
  const auto type = args.type;
  const std::int64_t rows = args.head_dim;
  const std::int64_t states = args.states;
  const std::int64_t group = head / (args.heads / args.groups);
  const std::int64_t state_at = (b * args.heads + head) * rows * states;
  const auto [batch, first, count] = tokens_of(args.starts, args.length, b);

  std::vector<double> h(static_cast<std::size_t>(rows * states));
  if (args.initial_state != nullptr) {
    const float* from = args.initial_state + state_at;
    h.assign(from, from + rows * states);
  }
  std::vector<double> B(static_cast<std::size_t>(states));
  std::vector<double> C(B.size());
  for (std::int64_t token = first; token < first + count; ++token) {
    const double bias = args.dt_bias == nullptr ? 0 : args.dt_bias[head];
    const double dt =
        step_size(args, load(type, args.dt.data, place(args.dt, batch, token, head)) + bias);
    const double decay = std::exp(dt * args.A[head]);
    for (std::int64_t n = 0; n < states; ++n) {
      const std::int64_t state = group * states + n;
      B[static_cast<std::size_t>(n)] = load(type, args.B.data, place(args.B, batch, token, state));
      C[static_cast<std::size_t>(n)] = load(type, args.C.data, place(args.C, batch, token, state));
    }
    for (std::int64_t p = 0; p < rows; ++p) {
      const std::int64_t channel = head * rows + p;
      const double x = load(type, args.x.data, place(args.x, batch, token, channel));
      double y = args.D == nullptr ? 0 : args.D[head] * x;
      double* const row = h.data() + p * states;
      for (std::int64_t n = 0; n < states; ++n) {
        row[n] = decay * row[n] + dt * x * B[static_cast<std::size_t>(n)];
        y += C[static_cast<std::size_t>(n)] * row[n];
      }
      if (args.z.data != nullptr) {
        y *= silu(load(type, args.z.data, place(args.z, batch, token, channel)));
      }
      store(type, args.y.data, place(args.y, batch, token, channel), static_cast<float>(y));
    }
  }
  if (args.final_state != nullptr) {
    float* to = args.final_state + state_at;
    for (std::size_t i = 0; i < h.size(); ++i) to[i] = static_cast<float>(h[i]);
  }
}

}  // namespace

void ssd(const Ssd& args) {
  each_row(args.batch * args.heads,
           [&](std::int64_t row) { run_head(args, row / args.heads, row % args.heads); });
}

}  // namespace icd::reference
