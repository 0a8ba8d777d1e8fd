#include "icd/objective.h"

#include <algorithm>
#include <array>

namespace icd {
namespace {

constexpr std::array kObjectives = {
    Objective{.name = "modularity",
              .summary = "weight inside equal blocks, less what chance puts there",
              .direction = Direction::higher,
              .unit = "Newman's Q, at most 1",
              .needs = "a graph",
              .solver = "swap",
              .source = "M. E. J. Newman, Phys. Rev. E 70, 056131 (2004); gamma: J. Reichardt, "
                        "S. Bornholdt, Phys. Rev. E 74, 016110 (2006)",
              .buys = "nothing by itself: it finds structure that other uses can build on",
              .problem = modularity_problem},
    Objective{.name = "intra-block",
              .summary = "weight inside equal blocks: what a cache line, sector or tile holds",
              .direction = Direction::higher,
              .unit = "share of the weight",
              .needs = "a graph",
              .solver = "swap",
              .source = "equal-size graph partitioning: B. W. Kernighan, S. Lin, BSTJ 1970",
              .buys = "fewer lines fetched by kernels that gather related channels; a dense "
                      "kernel fetches all of them in any order",
              .problem = intra_block_problem},
};

}  // namespace

std::span<const Objective> all_objectives() { return kObjectives; }

const Objective* find_objective(std::string_view name) noexcept {
  const auto found = std::find_if(kObjectives.begin(), kObjectives.end(),
                                  [&](const Objective& known) { return known.name == name; });
  return found != kObjectives.end() ? &*found : nullptr;
}

}  // namespace icd
