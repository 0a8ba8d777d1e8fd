#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "icd/graph.h"
#include "icd/objective.h"
#include "icd/permutation.h"

namespace icd::experiments {

/// One of the ways to order that are compared.
struct Method {
  std::string_view name;
  std::function<Permutation(const Graph& graph, Blocks blocks)> solve;
};

/// Solvers of icd, greedy growth alone, and METIS if it was found.
std::vector<Method> methods();

}  // namespace icd::experiments
