#pragma once

#include <span>
#include <string_view>

#include "icd/graph.h"
#include "icd/permutation.h"

namespace icd {

/// Equal contiguous blocks of an order; the last one may be shorter.
struct Blocks {
  Index size = 64;  ///< positions in a block, >= 1

  Index of(Index position) const noexcept { return position / size; }
  Index count(Index n) const noexcept { return n / size + (n % size != 0 ? 1 : 0); }
};

/// What an order of a graph's vertices is worth; higher is better.
/// `order` is in gather form: order[i] is the vertex at position i. Its size is the graph's.
///
/// Every objective here is a modularity
///   sum over blocks c of [ L_c / W - gamma (S_c / 2W)^2 ],
/// L_c the weight of the edges inside c, S_c the sum of strengths in c, W the weight of all
/// edges; 0 on a graph without edges. So gamma() is all that a solver has to know of one.
class Objective {
 public:
  virtual ~Objective() = default;
  virtual std::string_view name() const noexcept = 0;
  virtual std::string_view summary() const noexcept = 0;

  /// How much the null model counts, >= 0.
  virtual double gamma() const noexcept = 0;

  /// The score, computed plainly. O(V + E).
  virtual double score(const Graph& graph, const Permutation& order, Blocks blocks) const = 0;

  /// score() with the vertices at positions i and j exchanged, less score() now.
  /// O(size of both blocks * cost of Graph::weight()).
  virtual double swap_delta(const Graph& graph, const Permutation& order, Blocks blocks, Index i,
                            Index j) const = 0;
};

/// Newman's modularity of the contiguous blocks, as communities: gamma is 1. The null model
/// is taken over all pairs, joined or not. One block that holds everything scores 0.
/// Source: M. E. J. Newman, "Analysis of weighted networks", Phys. Rev. E 70, 056131 (2004);
/// gamma: J. Reichardt, S. Bornholdt, Phys. Rev. E 74, 016110 (2006).
const Objective& modularity();

/// The share of the weight that lies inside blocks, sum L_c / W: what a cache line, sector
/// or tile of `block` channels keeps together. In [0, 1]; gamma is 0.
const Objective& intra_block();

/// Every objective, in the order of `icd solve --list`.
std::span<const Objective* const> all_objectives();

/// nullptr if there is none of that name.
const Objective* find_objective(std::string_view name) noexcept;

}  // namespace icd
