#pragma once

#include <string>
#include <vector>

#include "icd/layout.h"

namespace icd {

/// A condition that code which runs a block puts on the block's sizes.
struct KernelRule {
  enum class Reach {
    always,      ///< no implementation runs a block that breaks it
    kernels,     ///< the CUDA paths that `where` names; others run
    flashinfer,  ///< FlashInfer's decoding kernel, which inference servers may use instead
  };

  std::string id;           ///< "conv-row-stride"
  std::string requirement;  ///< with its numbers: "nheads (4) is a multiple of ngroups (2)"
  bool holds = true;
  Reach reach = Reach::always;
  std::string where;    ///< which code checks it, in which versions
  std::string message;  ///< what users meet when it does not hold; empty: no text of its own
  std::string source;   ///< where the rule was read
  std::string remedy;   ///< empty where it holds
};

/// The rules for a block of type "mamba1", "mamba2", "mamba3" or "mamba3_mimo", from its sizes
/// alone; none for other types. A rule whose sizes the block does not have is left out. A block
/// with "d_ssm" need not have "heads_per_group", so that a headdim can be asked about that does not
/// divide it; "expand" is used where it is known.
std::vector<KernelRule> kernel_rules(const Block& block);

/// Divisors of the headdim of a "mamba2" block, ascending, with which every rule but
/// FlashInfer's holds: `icd reshape` can rewrite the block to any of them.
std::vector<Index> fitting_headdims(const Block& block);

}  // namespace icd
