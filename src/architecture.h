#pragma once

#include <span>
#include <string_view>

namespace icd {

/// Things whose order is free: one axis group for the whole model, or one a layer.
struct SpaceRow {
  enum class Scope { layer, model };
  std::string_view kind;  ///< "inner": what the command line calls it
  Scope scope;
  std::string_view dimension;  ///< its size: "d_inner"
};

/// When a tensor is there.
enum class Presence {
  always,
  with_conv_bias,
  with_proj_bias,
  with_norm_bias,  ///< LayerNorm instead of RMSNorm
  with_own_head,   ///< stored when the head is not tied; may be stored, equal, when it is
};

/// One tensor. Each of its axes is a sum of spaces and fixed lengths, in order: the rows of
/// Mamba-1's x_proj are "dt_rank + state + state". A name of a space binds that stretch of
/// the axis to the space's order; any other name is a dimension whose entries stay.
struct TensorRow {
  std::string_view name;  ///< "{backbone}", "{prefix}", "{embedding}", "{i}" are filled in
  std::string_view axes;  ///< apart by commas
  Presence presence = Presence::always;
};

/// All that icd knows of the symmetries of a family of models. Adding a family is adding
/// such a table.
struct Architecture {
  std::string_view name;
  std::span<const SpaceRow> spaces;  ///< in the order of --group all
  std::span<const TensorRow> tensors;
};

/// nullptr if there is none of that name.
const Architecture* find_architecture(std::string_view name) noexcept;

}  // namespace icd
