#include "support/families_parts.h"

namespace icd::testing {

std::vector<Family> module_families() { return {}; }

}  // namespace icd::testing
