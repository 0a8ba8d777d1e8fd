#include <algorithm>
#include <iterator>
#include <utility>

#include "support/families_parts.h"

namespace icd::testing {

std::vector<Family> other_families() {
  std::vector<Family> all;
  for (const auto part : {bidirectional_families, speech_families, brain_families, oxidizr_families,
                          module_families}) {
    std::vector<Family> families = part();
    std::move(families.begin(), families.end(), std::back_inserter(all));
  }
  return all;
}

}  // namespace icd::testing
