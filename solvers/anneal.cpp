#include <algorithm>
#include <cstdint>
#include <utility>

#include "icd/random.h"
#include "plain_search.h"
#include "solvers.h"

namespace icd {
namespace {

constexpr std::int64_t kProposalsPerMember = 100;
constexpr std::int64_t kSamples = 100;  // of exchanges, to learn what one costs
constexpr int kTemperatures = 100;
constexpr double kCooling = 0.9333;        // 1000 times colder at the end
constexpr double kFirstTemperature = 0.3;  // of what an exchange costs: a good start is not molten

/// Exponential of mean 1, from comparisons of uniforms alone: a logarithm of libm's would not be
/// the same on every machine.
/// Source: J. von Neumann, "Various techniques used in connection with random digits", 1951.
double exponential(Random& random) {
  for (double whole = 0;; ++whole) {
    const double first = random.uniform();
    double last = first;
    bool odd = true;
    for (double next = random.uniform(); next < last; next = random.uniform()) {
      last = next;
      odd = !odd;
    }
    if (odd) return whole + first;
  }
}

}  // namespace

// Simulated annealing: random exchanges, for any objective. What improves is taken, what costs c
// with probability exp(-c / temperature), that is where an exponential variate is above
// c / temperature. From the objective's greedy order; at the end its own search, so that the
// result is a local optimum. Never worse than where it starts.
//
// Source  S. Kirkpatrick, C. D. Gelatt, M. P. Vecchi, "Optimization by simulated annealing",
//         Science 1983; N. Metropolis et al., 1953.
// Cost    100 V proposals of one swap_delta() each, or max_steps; O(V) more for what is taken.
//         A step is a proposal, then as the objective's search counts.
// Ties    are taken; the seed decides the rest.
Permutation solve_anneal(const Problem& problem, const SolveOptions& options) {
  const Index n = problem.size();
  if (n < 2) return Permutation::identity(n);
  Random random(options.seed);
  const auto any = [&] { return static_cast<Index>(random.below(static_cast<std::uint64_t>(n))); };
  const Permutation start = problem.greedy();
  Permutation order = start;

  const std::int64_t proposals = std::min(options.max_steps, kProposalsPerMember * n);
  double temperature = 0;
  for (std::int64_t sample = 0; sample < std::min(kSamples, proposals); ++sample) {
    const Index i = any();
    temperature += std::max(0.0, -problem.gain(0, problem.swap_delta(order, i, any())));
  }
  temperature *= kFirstTemperature / kSamples;

  const std::int64_t at_once = std::max<std::int64_t>(proposals / kTemperatures, 1);
  for (std::int64_t proposal = 1; proposal <= proposals; ++proposal) {
    const Index i = any();
    const Index j = any();
    const double cost = -problem.gain(0, problem.swap_delta(order, i, j));
    if (i != j && cost <= temperature * exponential(random)) order = exchanged(order, i, j);
    if (proposal % at_once == 0) temperature *= kCooling;
  }

  std::int64_t steps = options.max_steps - proposals;
  const auto search = problem.search(order);
  search->descend(steps);
  order = search->order();
  return problem.gain(problem.score(start), problem.score(order)) > 0 ? order : start;
}

}  // namespace icd
