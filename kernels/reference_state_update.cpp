#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {
namespace {

double step_size(std::int32_t type, const Strided& dt, std::int64_t b, std::int64_t channel,
                 const float* bias, bool is_softplus) {
  double delta = load(type, dt.data, place(dt, b, 0, channel));
  if (bias != nullptr) delta += static_cast<double>(bias[channel]);
  return is_softplus ? softplus(delta) : delta;
}

}  // namespace

void state_update(const StateUpdate& args) {
  const std::int64_t updated = args.active != nullptr ? args.active_count : args.channels;
  each_row(args.batch * updated, [&](std::int64_t row) {
    const std::int64_t b = row / updated;
    const std::int64_t slot = args.slots != nullptr ? args.slots[b] : b;
    if (slot < 0) return;
    const std::int64_t d = args.active != nullptr ? args.active[row % updated] : row % updated;

    const double u = load(args.type, args.u.data, place(args.u, b, 0, d));
    const double dt = step_size(args.type, args.dt, b, d, args.dt_bias, args.softplus != 0);
    double y = args.D != nullptr ? static_cast<double>(args.D[d]) * u : 0;
    for (std::int64_t n = 0; n < args.states; ++n) {
      const std::int64_t at = args.state_layout == ICD_STATE_DN
                                  ? (slot * args.channels + d) * args.states + n
                                  : (slot * args.states + n) * args.channels + d;
      const double A = args.A[d * args.states + n];
      const double B = load(args.type, args.B.data, place(args.B, b, 0, n));
      const double C = load(args.type, args.C.data, place(args.C, b, 0, n));
      const double h = std::exp(dt * A) * load(args.state_type, args.state, at) + dt * u * B;
      store(args.state_type, args.state, at, static_cast<float>(h));
      y += C * h;
    }
    if (args.z.data != nullptr) y *= silu(load(args.type, args.z.data, place(args.z, b, 0, d)));
    store(args.type, args.y.data, place(args.y, b, 0, d), static_cast<float>(y));
  });
}

void head_state_update(const HeadStateUpdate& args) {
  each_row(args.batch * args.heads, [&](std::int64_t row) {
    const std::int64_t b = row / args.heads;
    const std::int64_t head = row % args.heads;
    const std::int64_t slot = args.slots != nullptr ? args.slots[b] : b;
    if (slot < 0) return;
    const std::int64_t group = head / (args.heads / args.groups);

    const double dt = step_size(args.type, args.dt, b, head, args.dt_bias, args.softplus != 0);
    const double decay = std::exp(dt * static_cast<double>(args.A[head]));
    for (std::int64_t p = 0; p < args.head_dim; ++p) {
      const std::int64_t channel = head * args.head_dim + p;
      const double x = load(args.type, args.x.data, place(args.x, b, 0, channel));
      double y = args.D != nullptr ? static_cast<double>(args.D[head]) * x : 0;
      for (std::int64_t n = 0; n < args.states; ++n) {
        const std::int64_t at = (slot * args.heads * args.head_dim + channel) * args.states + n;
        const std::int64_t in_group = group * args.states + n;
        const double B = load(args.type, args.B.data, place(args.B, b, 0, in_group));
        const double C = load(args.type, args.C.data, place(args.C, b, 0, in_group));
        const double h = decay * load(args.state_type, args.state, at) + dt * x * B;
        store(args.state_type, args.state, at, static_cast<float>(h));
        y += C * h;
      }
      if (args.z.data != nullptr) {
        y *= silu(load(args.type, args.z.data, place(args.z, b, 0, channel)));
      }
      store(args.type, args.y.data, place(args.y, b, 0, channel), static_cast<float>(y));
    }
  });
}

}  // namespace icd::reference
