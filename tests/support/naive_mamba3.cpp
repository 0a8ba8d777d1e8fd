#include "support/naive_mamba3.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

namespace icd::testing {
namespace {

std::size_t count(std::int64_t n) { return static_cast<std::size_t>(n); }

double& element(Row& row, std::int64_t i) { return row[count(i)]; }
double element(const Row& row, std::int64_t i) { return row[count(i)]; }

/// What one token brings to one head.
struct HeadStep {
  std::vector<Row> B;  ///< (rank, d_state), turned
  std::vector<Row> C;
  std::vector<Row> x;  ///< (rank, headdim), times mimo_x
};

/// B or C of one head: normed by group, biased by head, turned by pair.
std::vector<Row> turned(const Row& projected, std::int64_t first, std::int64_t head,
                        const NaiveTensor& norm, const NaiveTensor& bias, const Row& angles,
                        const Mamba3Sizes& s) {
  const std::int64_t group = head / (s.heads / s.groups);
  std::vector<Row> result;
  for (std::int64_t r = 0; r < s.rank; ++r) {
    const std::int64_t begin = first + (r * s.groups + group) * s.d_state;
    Row row = rms_norm(part(projected, count(begin), count(s.d_state)), &norm);
    row = sum(row, part(bias.values, count((head * s.rank + r) * s.d_state), count(s.d_state)));
    for (std::int64_t pair = 0; pair < s.angles(); ++pair) {
      double& a = element(row, s.first_of_pair(pair));
      double& b = element(row, s.second_of_pair(pair));
      const double cosine = std::cos(element(angles, pair));
      const double sine = std::sin(element(angles, pair));
      const double turned_a = a * cosine - b * sine;
      b = a * sine + b * cosine;
      a = turned_a;
    }
    result.push_back(row);
  }
  return result;
}

/// (rank, headdim): channels of one head, times the head's row of a mimo_* for every rank.
std::vector<Row> spread(const Row& channels, const NaiveTensor* mimo, std::int64_t head,
                        const Mamba3Sizes& s) {
  const Row own = part(channels, count(head * s.headdim), count(s.headdim));
  if (!mimo) return {own};
  std::vector<Row> result;
  for (std::int64_t r = 0; r < s.rank; ++r) {
    result.push_back(
        product(own, part(mimo->values, count((head * s.rank + r) * s.headdim), count(s.headdim))));
  }
  return result;
}

}  // namespace

std::int64_t Mamba3Sizes::angles() const {
  return static_cast<std::int64_t>(static_cast<double>(d_state) * rope_fraction) / 2;
}

void make_mamba3(TensorMaker& maker, const std::string& mixer, const Mamba3Sizes& s) {
  maker.linear(mixer + "in_proj", s.rows(), s.d_model);
  maker.tensor(mixer + "dt_bias", {s.heads}, 0, 0.5);
  maker.tensor(mixer + "B_bias", {s.heads, s.rank, s.d_state}, 0.5, 0.5);
  maker.tensor(mixer + "C_bias", {s.heads, s.rank, s.d_state}, 0.5, 0.5);
  maker.norm(mixer + "B_norm", s.d_state);
  maker.norm(mixer + "C_norm", s.d_state);
  if (s.mimo()) {
    for (const char* name : {"mimo_x", "mimo_z", "mimo_o"}) {
      maker.tensor(mixer + name, {s.heads, s.rank, s.headdim}, 0.5, 0.5);
    }
  }
  maker.tensor(mixer + "D", {s.heads}, 0.5, 0.5);
  if (s.outproj_norm) maker.norm(mixer + "norm", s.d_inner());
  maker.linear(mixer + "out_proj", s.d_model, s.d_inner());
}

Rows naive_mamba3(const Rows& hidden, const Scope& mixer, const Mamba3Sizes& s) {
  const NaiveTensor& dt_bias = mixer.at("dt_bias");
  const NaiveTensor& D = mixer.at("D");
  const NaiveTensor* mimo_x = s.mimo() ? &mixer.at("mimo_x") : nullptr;
  const NaiveTensor* mimo_z = s.mimo() ? &mixer.at("mimo_z") : nullptr;
  const NaiveTensor* mimo_o = s.mimo() ? &mixer.at("mimo_o") : nullptr;
  const Rows projected = linear(hidden, mixer, "in_proj");
  Rows y(hidden.size(), Row(count(s.d_inner())));

  for (std::int64_t head = 0; head < s.heads; ++head) {
    Row state(count(s.headdim * s.d_state));
    Row angles(count(s.angles()));
    HeadStep before;
    for (std::size_t t = 0; t < hidden.size(); ++t) {
      const Row& row = projected[t];
      const double dt = softplus(element(row, s.dt_row() + head) + element(dt_bias.values, head));
      const double decay = std::exp(-dt * softplus(element(row, s.A_row() + head)));
      const double lambda = sigmoid(element(row, s.trap_row() + head));
      for (std::int64_t pair = 0; pair < s.angles(); ++pair) {
        element(angles, pair) +=
            dt * std::numbers::pi * std::tanh(element(row, s.angle_row() + pair));
      }
      const HeadStep now = {
          turned(row, s.B_row(), head, mixer.at("B_norm.weight"), mixer.at("B_bias"), angles, s),
          turned(row, s.C_row(), head, mixer.at("C_norm.weight"), mixer.at("C_bias"), angles, s),
          spread(part(row, count(s.x_row()), count(s.d_inner())), mimo_x, head, s)};
      for (double& h : state) h *= decay;
      const auto add = [&](const HeadStep& step, double factor) {
        for (std::size_t r = 0; r < step.B.size(); ++r) {
          for (std::int64_t p = 0; p < s.headdim; ++p) {
            for (std::int64_t n = 0; n < s.d_state; ++n) {
              element(state, p * s.d_state + n) +=
                  factor * element(step.B[r], n) * element(step.x[r], p);
            }
          }
        }
      };
      add(before, (1 - lambda) * dt * decay);
      add(now, lambda * dt);

      const std::vector<Row> z = spread(part(row, 0, count(s.d_inner())), mimo_z, head, s);
      for (std::int64_t r = 0; r < s.rank; ++r) {
        Row out = scaled(now.x[count(r)], element(D.values, head));
        for (std::int64_t p = 0; p < s.headdim; ++p) {
          for (std::int64_t n = 0; n < s.d_state; ++n) {
            element(out, p) += element(now.C[count(r)], n) * element(state, p * s.d_state + n);
          }
        }
        if (s.outproj_norm) {
          out = product(rms_norm(out, nullptr), part(mixer.at("norm.weight").values,
                                                     count(head * s.headdim), count(s.headdim)));
        }
        out = product(out, map(silu, z[count(r)]));
        for (std::int64_t p = 0; p < s.headdim; ++p) {
          const double o =
              mimo_o ? element(mimo_o->values, (head * s.rank + r) * s.headdim + p) : 1;
          element(y[t], head * s.headdim + p) += o * element(out, p);
        }
      }
      before = now;
    }
  }
  return linear(y, mixer, "out_proj");
}

std::map<std::string, std::function<void(NaiveTensors&)>> wrong_mamba3(const std::string& mixer,
                                                                       const Mamba3Sizes& s) {
  const std::string in_proj = mixer + "in_proj.weight";

  // An order of the d_state states in all ranks of the groups [0, groups), or with the norms and
  // biases in everything.
  const auto move_rows = [=](NaiveTensors& tensors, std::int64_t groups,
                             const std::vector<Index>& order) {
    for (const std::int64_t first : {s.B_row(), s.C_row()}) {
      for (std::int64_t r = 0; r < s.rank; ++r) {
        for (std::int64_t g = 0; g < groups; ++g) {
          move_axis(tensors, {in_proj, 0, count(first + (r * s.groups + g) * s.d_state)}, order);
        }
      }
    }
  };
  const auto move_states = [=](NaiveTensors& tensors, const std::vector<Index>& order) {
    move_rows(tensors, s.groups, order);
    move_axes(tensors,
              {{mixer + "B_norm.weight"},
               {mixer + "C_norm.weight"},
               {mixer + "B_bias", 2},
               {mixer + "C_bias", 2}},
              order);
  };
  // The order of states that takes pair k to where pair order[k] stands.
  const auto of_pairs = [=](const std::vector<Index>& order, const Mamba3Sizes& paired) {
    std::vector<Index> states(count(s.d_state));
    for (std::size_t n = 0; n < states.size(); ++n) states[n] = static_cast<Index>(n);
    for (std::size_t k = 0; k < order.size(); ++k) {
      const auto pair = static_cast<std::int64_t>(k);
      states[count(paired.first_of_pair(pair))] =
          static_cast<Index>(paired.first_of_pair(order[k]));
      states[count(paired.second_of_pair(pair))] =
          static_cast<Index>(paired.second_of_pair(order[k]));
    }
    return states;
  };
  const auto pairs = rotation(static_cast<Index>(s.angles()));
  Mamba3Sizes other = s;
  other.rank = s.mimo() ? 1 : 2;

  std::map<std::string, std::function<void(NaiveTensors&)>> wrong;
  wrong["d_state: any order"] = [=](NaiveTensors& tensors) {
    move_states(tensors, rotation(static_cast<Index>(s.d_state)));
    move_axis(tensors, {in_proj, 0, count(s.angle_row())}, pairs);
  };
  wrong["pairs without their angle rows"] = [=](NaiveTensors& tensors) {
    move_states(tensors, of_pairs(pairs, s));
  };
  wrong["pairs as the other of SISO and MIMO has them"] = [=](NaiveTensors& tensors) {
    move_states(tensors, of_pairs(pairs, other));
    move_axis(tensors, {in_proj, 0, count(s.angle_row())}, pairs);
  };
  wrong["the two states of a pair swapped"] = [=](NaiveTensors& tensors) {
    std::vector<Index> states = of_pairs({}, s);
    std::swap(states[count(s.first_of_pair(0))], states[count(s.second_of_pair(0))]);
    move_states(tensors, states);
  };
  if (2 * s.angles() < s.d_state) {
    wrong["states that are not rotated, in one group"] = [=](NaiveTensors& tensors) {
      std::vector<Index> states = of_pairs({}, s);
      const std::int64_t first = s.mimo() ? s.angles() : 2 * s.angles();
      std::swap(states[count(first)], states[count(first + 1)]);
      move_rows(tensors, 1, states);
    };
  }
  wrong["heads across groups"] = [=](NaiveTensors& tensors) {
    std::vector<Move> moves = {{in_proj, 0, 0, count(s.headdim)},
                               {in_proj, 0, count(s.x_row()), count(s.headdim)},
                               {in_proj, 0, count(s.dt_row())},
                               {in_proj, 0, count(s.A_row())},
                               {in_proj, 0, count(s.trap_row())},
                               {mixer + "dt_bias"},
                               {mixer + "D"},
                               {mixer + "B_bias"},
                               {mixer + "C_bias"},
                               {mixer + "out_proj.weight", 1, 0, count(s.headdim)}};
    if (s.outproj_norm) moves.push_back({mixer + "norm.weight", 0, 0, count(s.headdim)});
    if (s.mimo()) {
      for (const char* name : {"mimo_x", "mimo_z", "mimo_o"}) moves.push_back({mixer + name});
    }
    move_axes(tensors, moves, rotation(static_cast<Index>(s.heads)));
  };
  if (!s.mimo()) return wrong;

  // D adds what enters rank r to what leaves rank r.
  const auto move_rank = [=](NaiveTensors& tensors, std::int64_t first,
                             const std::vector<std::string>& names) {
    const auto ranks = rotation(static_cast<Index>(s.rank));
    move_axis(tensors, {in_proj, 0, count(first), count(s.groups * s.d_state)}, ranks);
    for (const std::string& name : names) move_axis(tensors, {mixer + name, 1}, ranks);
  };
  wrong["ranks in without ranks out"] = [=](NaiveTensors& tensors) {
    move_rank(tensors, s.B_row(), {"B_bias", "mimo_x"});
  };
  wrong["ranks out without ranks in"] = [=](NaiveTensors& tensors) {
    move_rank(tensors, s.C_row(), {"C_bias", "mimo_z", "mimo_o"});
  };
  return wrong;
}

}  // namespace icd::testing
