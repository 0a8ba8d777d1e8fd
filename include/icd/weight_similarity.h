#pragma once

#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"

namespace icd {

/// How alike the members of an axis group are by their weights alone: (n, n), symmetric,
/// diagonal 1. A member's vector is what all its segments hold, whole tensors aside; the entry is
/// the cosine of two such vectors, centred per coordinate over the members (a Pearson correlation
/// over weights), and each tensor scaled to the same total square after centring, so that none of
/// them decides alone; one whose members are all equal (a fresh norm) says nothing. NaN, on
/// the diagonal too, for a member whose centred vector is zero. Exchanging members exchanges
/// rows and columns, up to rounding. The bits do not depend on the number of threads or the
/// CPU. O(n^2 * coordinates); memory: two (n, n) matrices and 4096 rows of n floats.
/// Throws Error{usage} for a segment that does not lie in its tensor, Error{unsupported} for
/// a dtype that is no readable float, Error{input} for a weight that is NaN or infinite.
std::vector<float> weight_similarity(const Checkpoint& checkpoint, const AxisGroup& group);

}  // namespace icd
