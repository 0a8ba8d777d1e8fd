#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "icd/graph.h"
#include "icd/objective.h"
#include "icd/permutation.h"

namespace icd {

struct SolveOptions {
  Blocks blocks = {};
  std::uint64_t seed = 0;              ///< the only source of randomness
  std::int64_t max_steps = 1'000'000;  ///< a budget of steps, not of seconds: runs repeat
};

/// A way to order a graph's vertices, as a row of a table.
struct Solver {
  std::string_view name;     ///< what follows --solver
  std::string_view summary;  ///< its line in `icd solve --list`
  bool reads_graph;          ///< false for those that need the number of vertices alone

  /// An order of all of graph's vertices, in gather form. The same arguments give the
  /// same order on every machine and for every number of threads.
  Permutation (*solve)(const Graph& graph, const Objective& objective, const SolveOptions& options);
};

/// Every solver, in the order of `icd solve --list`.
std::span<const Solver> all_solvers();

/// nullptr if there is none of that name.
const Solver* find_solver(std::string_view name) noexcept;

}  // namespace icd
