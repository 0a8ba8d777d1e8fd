#pragma once

#include "icd/solver.h"

namespace icd {

// The algorithms behind the table of registry.cpp, one a file.

Permutation solve_identity(const Problem& problem, const SolveOptions& options);
Permutation solve_random(const Problem& problem, const SolveOptions& options);
Permutation solve_degree(const Problem& problem, const SolveOptions& options);
Permutation solve_rcm(const Problem& problem, const SolveOptions& options);
Permutation solve_spectral(const Problem& problem, const SolveOptions& options);
Permutation solve_greedy(const Problem& problem, const SolveOptions& options);
Permutation solve_sort(const Problem& problem, const SolveOptions& options);
Permutation solve_swap(const Problem& problem, const SolveOptions& options);

}  // namespace icd
