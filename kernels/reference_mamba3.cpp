#include <cmath>
#include <numbers>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/element.h"
#include "kernels/reference.h"
#include "kernels/reference_math.h"

namespace icd::reference {
namespace {

using Values = std::vector<double>;

/// One head of one sequence, token by token.
class Head {
 public:
  Head(const Mamba3Scan& args, std::int64_t b, std::int64_t h)
      : args_(args), b_(b), h_(h), N_(args.states), P_(args.head_dim), R_(args.rank) {
    const std::int64_t row = b * args.heads + h;
    for (const auto& [values, from, count] : {std::tuple{&state_, args.state, P_ * N_},
                                              {&k_, args.last_k, R_ * N_},
                                              {&v_, args.last_v, R_ * P_},
                                              {&phase_, args.phase, args.angles}}) {
      values->assign(static_cast<std::size_t>(count), 0.0);
      if (args.state != nullptr) values->assign(from + row * count, from + (row + 1) * count);
    }
    q_ = k_;
  }

  void step(std::int64_t t) {
    const double dt = head_value(args_.dt, t);
    const double alpha = std::exp(head_value(args_.decay, t));
    const double trap = head_value(args_.trap, t);
    for (double& s : state_) s *= alpha;
    add_products((1 - trap) * dt * alpha);
    load_token(t, dt);
    add_products(trap * dt);
    write_output(t);
  }

  void keep() const {
    const std::int64_t row = b_ * args_.heads + h_;
    for (const auto& [values, to] : {std::pair{&state_, args_.state},
                                     {&k_, args_.last_k},
                                     {&v_, args_.last_v},
                                     {&phase_, args_.phase}}) {
      for (std::size_t i = 0; i < values->size(); ++i) {
        to[row * static_cast<std::int64_t>(values->size()) + static_cast<std::int64_t>(i)] =
            static_cast<float>((*values)[i]);
      }
    }
  }

 private:
  static double& at(Values& values, std::int64_t i) { return values[static_cast<std::size_t>(i)]; }

  double head_value(const Strided& tensor, std::int64_t t) const {
    return load(ICD_F32, tensor.data, place(tensor, b_, t, h_));
  }
  double channel(const Strided& tensor, std::int64_t t, std::int64_t p) const {
    return load(args_.type, tensor.data, place(tensor, b_, t, h_ * P_ + p));
  }
  /// Of mimo_x, mimo_z, mimo_o, which are all ones where there are none.
  double expansion(const float* mimo, std::int64_t r, std::int64_t p) const {
    return mimo != nullptr ? double{mimo[(h_ * R_ + r) * P_ + p]} : 1.0;
  }

  /// state += factor * sum over ranks of v k^T.
  void add_products(double factor) {
    for (std::int64_t r = 0; r < R_; ++r) {
      for (std::int64_t p = 0; p < P_; ++p) {
        const double scaled = factor * at(v_, r * P_ + p);
        for (std::int64_t n = 0; n < N_; ++n) at(state_, p * N_ + n) += scaled * at(k_, r * N_ + n);
      }
    }
  }

  /// k, q and v of token t; the phases move on.
  void load_token(std::int64_t t, double dt) {
    const std::int64_t group = h_ / (args_.heads / args_.groups);
    for (std::int64_t r = 0; r < R_; ++r) {
      for (std::int64_t n = 0; n < N_; ++n) {
        const std::int64_t c = (r * args_.groups + group) * N_ + n;
        const std::int64_t bias = (h_ * R_ + r) * N_ + n;
        at(k_, r * N_ + n) =
            load(args_.type, args_.B.data, place(args_.B, b_, t, c)) + double{args_.B_bias[bias]};
        at(q_, r * N_ + n) =
            load(args_.type, args_.C.data, place(args_.C, b_, t, c)) + double{args_.C_bias[bias]};
      }
      for (std::int64_t p = 0; p < P_; ++p) {
        at(v_, r * P_ + p) = channel(args_.x, t, p) * expansion(args_.mimo_x, r, p);
      }
    }
    for (std::int64_t i = 0; i < args_.angles; ++i) {
      const double turn = load(ICD_F32, args_.turn.data, place(args_.turn, b_, t, i));
      double& phase = at(phase_, i);
      phase = std::remainder(phase + turn * dt, 2 * std::numbers::pi);
      const std::int64_t first = args_.is_mimo != 0 ? i : 2 * i;
      const std::int64_t second = args_.is_mimo != 0 ? i + N_ / 2 : 2 * i + 1;
      for (std::int64_t r = 0; r < R_; ++r) {
        for (Values* values : {&k_, &q_}) {
          double& a = at(*values, r * N_ + first);
          double& b = at(*values, r * N_ + second);
          const double turned = a * std::cos(phase) - b * std::sin(phase);
          b = a * std::sin(phase) + b * std::cos(phase);
          a = turned;
        }
      }
    }
  }

  void write_output(std::int64_t t) {
    Values y(static_cast<std::size_t>(P_));
    Values bracket(static_cast<std::size_t>(P_));
    const double D = args_.D != nullptr ? double{args_.D[h_]} : 0.0;
    for (std::int64_t r = 0; r < R_; ++r) {
      double squares = 0;
      for (std::int64_t p = 0; p < P_; ++p) {
        double& sum = at(bracket, p);
        sum = args_.D != nullptr ? D * at(v_, r * P_ + p) : 0.0;
        for (std::int64_t n = 0; n < N_; ++n) sum += at(q_, r * N_ + n) * at(state_, p * N_ + n);
        squares += sum * sum;
      }
      const double scale =
          1 / std::sqrt(squares / static_cast<double>(P_) + double{args_.norm_eps});
      for (std::int64_t p = 0; p < P_; ++p) {
        double value = at(bracket, p);
        if (args_.norm != nullptr) value *= scale * double{args_.norm[h_ * P_ + p]};
        if (args_.z.data != nullptr) {
          value *= silu(channel(args_.z, t, p) * expansion(args_.mimo_z, r, p));
        }
        at(y, p) += value * expansion(args_.mimo_o, r, p);
      }
    }
    for (std::int64_t p = 0; p < P_; ++p) {
      store(args_.type, args_.y.data, place(args_.y, b_, t, h_ * P_ + p),
            static_cast<float>(at(y, p)));
    }
  }

  const Mamba3Scan& args_;
  std::int64_t b_;
  std::int64_t h_;
  std::int64_t N_;
  std::int64_t P_;
  std::int64_t R_;
  Values state_;  // (P, N)
  Values k_;      // (R, N): of the token before, then of this one
  Values q_;      // (R, N)
  Values v_;      // (R, P): as k
  Values phase_;  // (angles)
};

}  // namespace

void mamba3(const Mamba3Scan& args) {
  each_row(args.batch * args.heads, [&](std::int64_t row) {
    Head head(args, row / args.heads, row % args.heads);
    for (std::int64_t t = 0; t < args.length; ++t) head.step(t);
    if (args.state != nullptr) head.keep();
  });
}

}  // namespace icd::reference
