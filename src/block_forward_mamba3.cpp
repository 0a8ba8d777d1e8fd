#include <array>
#include <cmath>
#include <numbers>

#include "block_body.h"

// mamba3 and mamba3_mimo: sizes in, out, ngroups, heads_per_group, headdim (P), rope_angles (S);
//   the number of states (N) and the rank (M, 1 in mamba3) are read off B_bias. in_proj.weight has
//   the rows z, x (d_inner), B, C (M ngroups N, rank outermost), dd_dt, dd_A, trap (heads each),
//   angles (S); dt_bias, D (heads); B_bias, C_bias (heads, M, N); B_norm.weight, C_norm.weight (N);
//   out_proj.weight. mamba3_mimo has mimo_x, mimo_z, mimo_o (heads, M, P) besides; norm.weight
//   (d_inner), a norm of each head before the gate, where is_outproj_norm was set. Numbers:
//   norm_eps (1e-5), a_floor (1e-4), and softplus_a for models made before June 2026, when A =
//   -softplus(dd_A) became A = -f(dd_A), f(x) = 1 + x for x >= 0 and 1 / (1 - x) below.
//
// With one phase a head and angle, theta += pi tanh(angles) dt, that rotates B + B_bias into k
// and C + C_bias into q, the state of a head is
//   s = alpha s + (1 - lambda) dt alpha k'v' + lambda dt k v,
// where alpha = exp(dt A), lambda = sigmoid(trap), k' and v' are those of the token before, and a
// product is a sum over the ranks. Source: state-spaces/mamba, modules/mamba3.py, and the step
// references in its tests/ops.

namespace icd {
namespace {

template <typename Real>
class Mamba3 : public BlockBody<Real> {
 public:
  Mamba3(const BlockWeights<Real>& weights, const BlockMath<Real>& math)
      : math_(math),
        inputs_(weights.size("in")),
        outputs_(weights.size("out")),
        ngroups_(weights.size("ngroups")),
        heads_(ngroups_ * weights.size("heads_per_group")),
        headdim_(weights.size("headdim")),
        d_state_(weights.shape("B_bias", 3)[2]),
        rank_(weights.shape("B_bias", 3)[1]),
        angles_(weights.size("rope_angles")),
        d_inner_(heads_ * headdim_),
        is_mimo_(weights.type() == "mamba3_mimo"),
        softplus_a_(weights.is_set("softplus_a")),
        a_floor_(static_cast<Real>(weights.number("a_floor", 1e-4))),
        norm_eps_(weights.number("norm_eps", 1e-5)),
        dt_bias_(weights.tensor("dt_bias", {heads_})),
        b_bias_(weights.tensor("B_bias", {heads_, rank_, d_state_})),
        c_bias_(weights.tensor("C_bias", {heads_, rank_, d_state_})),
        b_norm_(weights.tensor("B_norm.weight", {d_state_})),
        c_norm_(weights.tensor("C_norm.weight", {d_state_})),
        d_(weights.tensor("D", {heads_})),
        out_norm_(weights.optional("norm.weight", {d_inner_})),
        mimo_x_(expansion(weights, "mimo_x")),
        mimo_z_(expansion(weights, "mimo_z")),
        mimo_o_(expansion(weights, "mimo_o")),
        offset_{.x = d_inner_,
                .b = 2 * d_inner_,
                .c = 2 * d_inner_ + rank_ * ngroups_ * d_state_,
                .dt = 2 * d_inner_ + 2 * rank_ * ngroups_ * d_state_},
        columns_(offset_.dt + 3 * heads_ + angles_),
        in_proj_(math.product(weights.tensor("in_proj.weight", {columns_, inputs_}),
                              weights.optional("in_proj.bias", {columns_}), columns_, inputs_)),
        out_proj_(math.product(weights.tensor("out_proj.weight", {outputs_, d_inner_}),
                               weights.optional("out_proj.bias", {outputs_}), outputs_, d_inner_)) {
  }

  void run(BatchShape shape, const Real* x, Real* y,
           const LayerObserver<Real>& /*observer*/) const override {
    const std::int64_t rows = shape.rows();
    Rows<Real> projected(rows, columns_);
    in_proj_->apply(x, inputs_, rows, projected[0], columns_);
    Rows<Real> decay(rows, heads_);
    math_.each(rows, [&](std::int64_t row) { prepare(projected[row], decay[row]); });
    Rows<Real> inner(rows, d_inner_);
    math_.each(shape.sequences * heads_, [&](std::int64_t task) {
      scan(shape.length, task % heads_, projected[task / heads_ * shape.length],
           decay[task / heads_ * shape.length], inner[task / heads_ * shape.length]);
    });
    out_proj_->apply(inner[0], d_inner_, rows, y, outputs_);
  }

 private:
  /// Where stretches of in_proj's rows begin; z is at 0.
  struct Offsets {
    std::int64_t x;
    std::int64_t b;
    std::int64_t c;
    std::int64_t dt;  ///< then dd_A, trap, the angles
  };

  /// (heads, rank, headdim); 1 for a SISO mixer, which has none.
  std::vector<Real> expansion(const BlockWeights<Real>& weights, const char* role) const {
    if (is_mimo_) return weights.tensor(role, {heads_, rank_, headdim_});
    return std::vector<Real>(static_cast<std::size_t>(heads_ * rank_ * headdim_), Real(1));
  }

  /// One row: B and C to their norms, dd_dt to dt, trap to lambda; decay = exp(dt A).
  void prepare(Real* row, Real* decay) const {
    for (std::int64_t i = 0; i < rank_ * ngroups_; ++i) {
      Real* b = row + offset_.b + i * d_state_;
      Real* c = row + offset_.c + i * d_state_;
      math_.norm(b, b_norm_, {}, false, norm_eps_, b);
      math_.norm(c, c_norm_, {}, false, norm_eps_, c);
    }
    Real* dt = row + offset_.dt;
    Real* a = dt + heads_;
    Real* trap = a + heads_;
    add_scaled(dt, Real(1), dt_bias_.data(), heads_);
    math_.softplus(dt, heads_);
    if (softplus_a_) math_.softplus(a, heads_);
    for (std::int64_t h = 0; h < heads_; ++h) {
      if (!softplus_a_) a[h] = a[h] >= 0 ? 1 + a[h] : 1 / (1 - a[h]);
      decay[h] = -std::max(a[h], a_floor_) * dt[h];
      trap[h] = -trap[h];
    }
    math_.exp(decay, heads_);
    math_.exp(trap, heads_);
    for (std::int64_t h = 0; h < heads_; ++h) trap[h] = 1 / (1 + trap[h]);
  }

  /// What a head remembers besides its state, and room to compute the next token in.
  struct Memory {
    std::vector<double> phase;  ///< (angles)
    std::vector<Real> state;    ///< (d_state, headdim)
    std::vector<Real> k;        ///< (rank, d_state): of the token before
    std::vector<Real> v;        ///< (rank, headdim): of the token before
    std::vector<Real> q;        ///< (rank, d_state)
    std::vector<Real> scaled;   ///< (d_state)
    std::vector<Real> y;        ///< (headdim)
    std::vector<Real> gate;     ///< (headdim)
  };

  /// One head over one sequence; rows of `projected`, `decay` and `inner` follow each other.
  void scan(std::int64_t length, std::int64_t h, const Real* projected, const Real* decay,
            Real* inner) const {
    const auto room = [](std::int64_t size) {
      return std::vector<Real>(static_cast<std::size_t>(size));
    };
    Memory at = {.phase = std::vector<double>(static_cast<std::size_t>(angles_)),
                 .state = room(d_state_ * headdim_),
                 .k = room(rank_ * d_state_),
                 .v = room(rank_ * headdim_),
                 .q = room(rank_ * d_state_),
                 .scaled = room(d_state_),
                 .y = room(headdim_),
                 .gate = room(headdim_)};
    for (std::int64_t t = 0; t < length; ++t) {
      const Real* row = projected + t * columns_;
      const Real dt = row[offset_.dt + h];
      const Real lambda = row[offset_.dt + 2 * heads_ + h];
      const Real alpha = decay[t * heads_ + h];
      scale(at.state.data(), d_state_ * headdim_, alpha);
      write((1 - lambda) * dt * alpha, at);
      turn(row, h, dt, at);
      for (std::int64_t r = 0; r < rank_; ++r) {
        for (std::int64_t p = 0; p < headdim_; ++p) {
          at.v[static_cast<std::size_t>(r * headdim_ + p)] =
              row[offset_.x + h * headdim_ + p] * expanded(mimo_x_, h, r)[p];
        }
      }
      write(lambda * dt, at);
      read(row + h * headdim_, h, at, inner + t * d_inner_ + h * headdim_);
    }
  }

  const Real* expanded(const std::vector<Real>& expansion, std::int64_t h, std::int64_t r) const {
    return expansion.data() + (h * rank_ + r) * headdim_;
  }

  /// state += factor * (sum over ranks of k v^T).
  void write(Real factor, Memory& at) const {
    for (std::int64_t r = 0; r < rank_; ++r) {
      std::copy_n(at.k.data() + r * d_state_, d_state_, at.scaled.data());
      scale(at.scaled.data(), d_state_, factor);
      write_state(at.scaled.data(), at.v.data() + r * headdim_, d_state_, headdim_,
                  at.state.data());
    }
  }

  /// k and q of this token: biased B and C, turned by the phase, which moves on.
  void turn(const Real* row, std::int64_t h, Real dt, Memory& at) const {
    const Real* angles = row + offset_.dt + 3 * heads_;
    const std::int64_t group = h / (heads_ / ngroups_);
    for (std::int64_t r = 0; r < rank_; ++r) {
      const std::int64_t from = (r * ngroups_ + group) * d_state_;
      const std::int64_t bias = (h * rank_ + r) * d_state_;
      for (std::int64_t n = 0; n < d_state_; ++n) {
        const auto to = static_cast<std::size_t>(r * d_state_ + n);
        at.k[to] = row[offset_.b + from + n] + b_bias_[static_cast<std::size_t>(bias + n)];
        at.q[to] = row[offset_.c + from + n] + c_bias_[static_cast<std::size_t>(bias + n)];
      }
    }
    for (std::int64_t i = 0; i < angles_; ++i) {
      double& phase = at.phase[static_cast<std::size_t>(i)];
      phase += std::tanh(static_cast<double>(angles[i])) * std::numbers::pi * dt;
      phase = std::remainder(phase, 2 * std::numbers::pi);
      const Real cosine = static_cast<Real>(std::cos(phase));
      const Real sine = static_cast<Real>(std::sin(phase));
      // SISO kernels turn neighbours, MIMO kernels the two halves.
      const std::int64_t first = is_mimo_ ? i : 2 * i;
      const std::int64_t second = is_mimo_ ? i + d_state_ / 2 : 2 * i + 1;
      for (std::int64_t r = 0; r < rank_; ++r) {
        for (Real* values : {at.k.data() + r * d_state_, at.q.data() + r * d_state_}) {
          const Real a = values[first];
          const Real b = values[second];
          values[first] = a * cosine - b * sine;
          values[second] = a * sine + b * cosine;
        }
      }
    }
  }

  /// out = sum over ranks of mimo_o (q s + D v) SiLU(z mimo_z), the bracket normalised if there is
  /// a norm.
  void read(const Real* z, std::int64_t h, Memory& at, Real* out) const {
    std::fill_n(out, headdim_, Real(0));
    for (std::int64_t r = 0; r < rank_; ++r) {
      read_state(at.q.data() + r * d_state_, at.state.data(), d_state_, headdim_, at.y.data());
      add_scaled(at.y.data(), d_[static_cast<std::size_t>(h)], at.v.data() + r * headdim_,
                 headdim_);
      if (!out_norm_.empty()) {
        math_.norm(at.y.data(), rows_of(out_norm_, h * headdim_, headdim_), {}, false, norm_eps_,
                   at.y.data());
      }
      for (std::int64_t p = 0; p < headdim_; ++p) {
        at.gate[static_cast<std::size_t>(p)] = z[p] * expanded(mimo_z_, h, r)[p];
      }
      math_.silu(at.gate.data(), headdim_);
      for (std::int64_t p = 0; p < headdim_; ++p) {
        const auto i = static_cast<std::size_t>(p);
        out[p] += at.y[i] * at.gate[i] * expanded(mimo_o_, h, r)[p];
      }
    }
  }

  const BlockMath<Real>& math_;
  std::int64_t inputs_;
  std::int64_t outputs_;
  std::int64_t ngroups_;
  std::int64_t heads_;
  std::int64_t headdim_;
  std::int64_t d_state_;
  std::int64_t rank_;
  std::int64_t angles_;
  std::int64_t d_inner_;
  bool is_mimo_;
  bool softplus_a_;
  Real a_floor_;
  double norm_eps_;
  std::vector<Real> dt_bias_;
  std::vector<Real> b_bias_;
  std::vector<Real> c_bias_;
  std::vector<Real> b_norm_;
  std::vector<Real> c_norm_;
  std::vector<Real> d_;
  std::vector<Real> out_norm_;  // empty: no norm
  std::vector<Real> mimo_x_;
  std::vector<Real> mimo_z_;
  std::vector<Real> mimo_o_;
  Offsets offset_;
  std::int64_t columns_;
  std::unique_ptr<Product<Real>> in_proj_;
  std::unique_ptr<Product<Real>> out_proj_;
};

}  // namespace

template <typename Real>
std::unique_ptr<BlockBody<Real>> mamba3_body(const BlockWeights<Real>& weights,
                                             const BlockMath<Real>& math) {
  return std::make_unique<Mamba3<Real>>(weights, math);
}

template std::unique_ptr<BlockBody<float>> mamba3_body(const BlockWeights<float>&,
                                                       const BlockMath<float>&);
template std::unique_ptr<BlockBody<double>> mamba3_body(const BlockWeights<double>&,
                                                        const BlockMath<double>&);

}  // namespace icd
