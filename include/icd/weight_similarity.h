#pragma once

#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"

namespace icd {

/// How alike the members of an axis group are by their weights alone: (n, n), symmetric,
/// diagonal 1. A member's vector is what all its segments hold, each tensor scaled to
/// the same total square so that none of them decides alone; the entry is the cosine of
/// two such vectors, centred per coordinate over the members (a Pearson correlation over
/// weights). NaN for a member whose centred vector is zero. The bits do not depend on the
/// number of threads. O(n^2 * coordinates).
std::vector<float> weight_similarity(const Checkpoint& checkpoint, const AxisGroup& group);

}  // namespace icd
