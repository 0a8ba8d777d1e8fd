#include "families.h"

namespace icd::testing {

std::vector<Family> hybrid_families() { return {}; }

}  // namespace icd::testing
