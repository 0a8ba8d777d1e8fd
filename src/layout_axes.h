#pragma once

#include <functional>
#include <string>
#include <vector>

#include "icd/layout.h"
#include "layout_scope.h"

namespace icd {

/// Instance `instance` of a space of `size` elements stands where the segment says.
using AddSegment =
    std::function<void(const Space& space, Index instance, Index size, AxisSegment&& segment)>;

/// Every place of a tensor where a space of at least two elements stands. `shape` is one of the
/// row's; `name` is the tensor's, with "{}" in it if the row is one of `tensors` tensors.
void for_each_segment(const TensorRow& row, const std::vector<AxisSum>& shape, Scope& scope,
                      const std::string& name, Index tensors, const AddSegment& add);

}  // namespace icd
