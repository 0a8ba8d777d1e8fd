#include "families.h"

namespace icd::testing {

std::vector<Family> mamba_families() { return {}; }

}  // namespace icd::testing
