#include "support/families_parts.h"

namespace icd::testing {

std::vector<Family> brain_families() { return {}; }

}  // namespace icd::testing
