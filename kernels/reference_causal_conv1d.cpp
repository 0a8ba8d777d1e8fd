#include <vector>

#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {

void causal_conv1d(const CausalConv1d& args) {
  const std::int64_t before = args.width - 1;
  each_row(args.batch * args.channels, [&](std::int64_t r) {
    const std::int64_t b = r / args.channels;
    const std::int64_t c = r % args.channels;
    const Tokens tokens = tokens_of(args.starts, args.length, b);
    // What was ahead of the sequence, then the sequence: copied, as final_state may be
    // initial_state.
    std::vector<float> x(static_cast<std::size_t>(before + tokens.count));
    for (std::int64_t k = 0; k < before; ++k) {
      x[static_cast<std::size_t>(k)] =
          args.initial_state == nullptr ? 0 : load(args.type, args.initial_state, r * before + k);
    }
    for (std::int64_t t = 0; t < tokens.count; ++t) {
      x[static_cast<std::size_t>(before + t)] =
          load(args.type, args.x.data, place(args.x, tokens.row, tokens.first + t, c));
    }
    for (std::int64_t t = 0; t < tokens.count; ++t) {
      double sum = args.bias == nullptr ? 0 : load(args.type, args.bias, c);
      for (std::int64_t k = 0; k < args.width; ++k) {
        sum += double{load(args.type, args.weight, c * args.width + k)} *
               double{x[static_cast<std::size_t>(t + k)]};
      }
      store(args.type, args.y.data, place(args.y, tokens.row, tokens.first + t, c),
            static_cast<float>(args.silu != 0 ? silu(sum) : sum));
    }
    if (args.final_state == nullptr) return;
    for (std::int64_t k = 0; k < before; ++k) {
      store(args.type, args.final_state, r * before + k,
            x[static_cast<std::size_t>(tokens.count + k)]);
    }
  });
}

void causal_conv1d_update(const CausalConv1dUpdate& args) {
  each_row(args.batch * args.channels, [&](std::int64_t r) {
    const std::int64_t b = r / args.channels;
    const std::int64_t c = r % args.channels;
    const std::int64_t slot = args.slots == nullptr ? b : args.slots[b];
    if (slot < 0) return;
    const std::int64_t oldest = slot * args.state_slot + c * args.state_channel;
    const std::int64_t end = oldest + args.kept;
    const float x = load(args.type, args.x.data, place(args.x, b, 0, c));
    double sum = args.bias == nullptr ? 0 : load(args.type, args.bias, c);
    for (std::int64_t k = 0; k < args.width; ++k) {
      const bool is_new = k == args.width - 1;
      const float value = is_new ? x : load(args.type, args.state, end - args.width + 1 + k);
      sum += double{load(args.type, args.weight, c * args.width + k)} * double{value};
    }
    for (std::int64_t i = oldest; i + 1 < end; ++i) {
      store(args.type, args.state, i, load(args.type, args.state, i + 1));
    }
    if (args.kept > 0) store(args.type, args.state, end - 1, x);
    store(args.type, args.y.data, place(args.y, b, 0, c),
          static_cast<float>(args.silu != 0 ? silu(sum) : sum));
  });
}

}  // namespace icd::reference
