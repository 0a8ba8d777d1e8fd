#include "families.h"

namespace icd::testing {

std::vector<Family> other_families() { return {}; }

}  // namespace icd::testing
