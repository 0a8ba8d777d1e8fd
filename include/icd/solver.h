#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "icd/permutation.h"
#include "icd/problem.h"

namespace icd {

struct SolveOptions {
  std::uint64_t seed = 0;              ///< the only source of randomness
  std::int64_t max_steps = 1'000'000;  ///< a budget of steps, not of seconds: runs repeat
  int starts = 0;                      ///< of solvers that start more than once; 0: their own
};

/// What a solver looks at.
enum class Reads {
  nothing,  ///< the number of members alone
  graph,    ///< Problem::graph(): how alike the members are
  problem,  ///< the objective itself
};

/// A way to order the members of an axis, as a row of a table.
struct Solver {
  std::string_view name;     ///< what follows --solver
  std::string_view summary;  ///< its line in `icd solve --list`
  Reads reads;

  /// An order of all members, in gather form. The same arguments give the same order on
  /// every machine and for every number of threads.
  Permutation (*solve)(const Problem& problem, const SolveOptions& options);
};

/// Every solver, in the order of `icd solve --list`.
std::span<const Solver> all_solvers();

/// nullptr if there is none of that name.
const Solver* find_solver(std::string_view name) noexcept;

}  // namespace icd
