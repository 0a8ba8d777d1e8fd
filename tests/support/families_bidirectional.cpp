#include "support/families_parts.h"

namespace icd::testing {

std::vector<Family> bidirectional_families() { return {}; }

}  // namespace icd::testing
