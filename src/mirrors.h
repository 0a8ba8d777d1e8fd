#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"

namespace icd {

/// Does the name say that it is what an optimizer remembers, and no weight?
bool is_optimizer_state(std::string_view name) noexcept;

/// Tensors that are one value for each value of a weight, and have to stand in its order:
/// averaged weights ("ema.net.0.D" of "state_dict.net.0.D"), moments by name, and PyTorch's
/// optimizer state by number ("optimizer_states.0.state.7.exp_avg" of the eighth parameter).
/// Adds to every segment of a weight those of what mirrors it; returns their names.
/// `base` is what the names of the model begin with; `known` are the weights.
/// Throws Error{unsupported} for an optimizer state whose shapes are not those of the weights.
std::set<std::string> add_mirrors(const Checkpoint& checkpoint, const std::string& base,
                                  const std::set<std::string>& known,
                                  std::vector<AxisGroup>& groups);

}  // namespace icd
