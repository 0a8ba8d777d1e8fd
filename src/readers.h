#pragma once

#include <optional>

#include "icd/axis_facts.h"
#include "icd/problem.h"

namespace icd {

// What objectives on the matrices that read an axis have in common.

/// The columns that a member has in every reader. Throws Error{usage} if there is no reader or
/// they differ.
Index columns_of_a_member(const AxisFacts& facts);

/// Members in a block when blocks of `columns` columns are cut: one that divides the columns of
/// a member leaves every order the same, so all n members are one block. Nothing if neither
/// divides the other.
std::optional<Blocks> blocks_of_members(Index n, Index columns, Index columns_of_a_member);

/// Are the inputs of every reader known?
bool has_inputs(const AxisFacts& facts);

/// Throws Error{input} for the first weight that is NaN or infinite, and, where inputs are
/// known, for a mean square that is no number >= 0.
void check_numbers(const AxisFacts& facts);

}  // namespace icd
