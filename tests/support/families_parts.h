#pragma once

#include <vector>

#include "support/families.h"

namespace icd::testing {

/// What other_families() is put together from, a file each.
std::vector<Family> bidirectional_families();  ///< Vim, Caduceus, pairs of mixers
std::vector<Family> speech_families();         ///< SEMamba, PrimeKnet-Mamba
std::vector<Family> brain_families();          ///< brain_brr
std::vector<Family> oxidizr_families();        ///< Oxidizr
std::vector<Family> module_families();         ///< mixers and recurrences in any network

}  // namespace icd::testing
