#include <algorithm>
#include <array>

#include "solvers.h"

namespace icd {
namespace {

constexpr std::array kSolvers = {
    Solver{"swap", "exchanges of pairs until none helps; the one to use", Reads::problem,
           solve_swap},
    Solver{"greedy", "the objective's own construction: where swap starts", Reads::problem,
           solve_greedy},
    Solver{"sort", "by the objective's own key, high first; as it is where it has none",
           Reads::problem, solve_sort},
    Solver{"anneal", "simulated annealing: random exchanges, for any objective; slow",
           Reads::problem, solve_anneal},
    Solver{"arrange", "short sum of weight times distance, by insertions into the spectral order",
           Reads::graph, solve_arrange},
    Solver{"leiden", "communities of any size, side by side", Reads::graph, solve_leiden},
    Solver{"louvain", "the same by the older algorithm, to compare with", Reads::graph,
           solve_louvain},
#ifdef ICD_WITH_METIS
    Solver{"metis", "recursive bisection by METIS, to compare with", Reads::graph, solve_metis},
#endif
    Solver{"spectral", "along the Fiedler vector of the normalised Laplacian", Reads::graph,
           solve_spectral},
    Solver{"rcm", "reverse Cuthill-McKee: small bandwidth; reads no weights", Reads::graph,
           solve_rcm},
    Solver{"king", "King's walk: a small profile; reads no weights", Reads::graph, solve_king},
    Solver{"sloan", "Sloan's walk: a small profile and front; reads no weights", Reads::graph,
           solve_sloan},
    Solver{"degree", "by the sum of weights, heavy first", Reads::graph, solve_degree},
    Solver{"random", "a seeded shuffle, to compare with", Reads::nothing, solve_random},
    Solver{"identity", "the order as it is, to compare with", Reads::nothing, solve_identity},
};

}  // namespace

std::span<const Solver> all_solvers() { return kSolvers; }

const Solver* find_solver(std::string_view name) noexcept {
  const auto found = std::find_if(kSolvers.begin(), kSolvers.end(),
                                  [&](const Solver& known) { return known.name == name; });
  return found != kSolvers.end() ? &*found : nullptr;
}

}  // namespace icd
