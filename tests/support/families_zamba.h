#pragma once

#include "support/families.h"

namespace icd::testing {

/// The two hybrids with a transformer block that several layers share.
Family zamba();
Family zamba2();            ///< two blocks, adapters on q, k, v and the MLP
Family zamba2_one_block();  ///< one block with RoPE, biases, adapters on the MLP only

}  // namespace icd::testing
