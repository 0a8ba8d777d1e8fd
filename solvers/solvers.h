#pragma once

#include "icd/solver.h"

namespace icd {

// The algorithms behind the table of registry.cpp, one a file.

Permutation solve_identity(const Graph& graph, const Objective& objective,
                           const SolveOptions& options);
Permutation solve_random(const Graph& graph, const Objective& objective,
                         const SolveOptions& options);
Permutation solve_degree(const Graph& graph, const Objective& objective,
                         const SolveOptions& options);
Permutation solve_rcm(const Graph& graph, const Objective& objective, const SolveOptions& options);
Permutation solve_spectral(const Graph& graph, const Objective& objective,
                           const SolveOptions& options);
Permutation solve_swap(const Graph& graph, const Objective& objective, const SolveOptions& options);

}  // namespace icd
