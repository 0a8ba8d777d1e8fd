#include <algorithm>
#include <array>

#include "solvers.h"

namespace icd {
namespace {

constexpr std::array<Solver, 6> kSolvers = {{
    {"swap", "pair swaps between equal blocks until none helps; the one to use", true, solve_swap},
    {"spectral", "along the Fiedler vector of the normalised Laplacian", true, solve_spectral},
    {"rcm", "reverse Cuthill-McKee: small bandwidth; reads no weights", true, solve_rcm},
    {"degree", "by the sum of weights, heavy first", true, solve_degree},
    {"random", "a seeded shuffle, to compare with", false, solve_random},
    {"identity", "the order as it is, to compare with", false, solve_identity},
}};

}  // namespace

std::span<const Solver> all_solvers() { return kSolvers; }

const Solver* find_solver(std::string_view name) noexcept {
  const auto found = std::find_if(kSolvers.begin(), kSolvers.end(),
                                  [&](const Solver& known) { return known.name == name; });
  return found != kSolvers.end() ? &*found : nullptr;
}

}  // namespace icd
