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
Permutation solve_king(const Problem& problem, const SolveOptions& options);
Permutation solve_sloan(const Problem& problem, const SolveOptions& options);
Permutation solve_louvain(const Problem& problem, const SolveOptions& options);
Permutation solve_leiden(const Problem& problem, const SolveOptions& options);
Permutation solve_arrange(const Problem& problem, const SolveOptions& options);
Permutation solve_anneal(const Problem& problem, const SolveOptions& options);
Permutation solve_metis(const Problem& problem, const SolveOptions& options);  // where it is found
Permutation solve_swap(const Problem& problem, const SolveOptions& options);

}  // namespace icd
