#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/model_spec.h"
#include "icd/permutation.h"

namespace icd {

/// Entries [begin, begin + count) of one axis.
struct AxisSlice {
  int dim = 0;
  Index begin = 0;
  Index count = 1;

  friend bool operator==(const AxisSlice&, const AxisSlice&) = default;
};

/// Where the elements of a group stand along one axis of one tensor: element k is the run of
/// `block` entries that starts at offset + k * stride.
struct AxisSegment {
  /// As `dim`: element k is the whole tensor that has k in place of "{}" in `tensor`.
  static constexpr int kWholeTensors = -1;

  std::string tensor;
  int dim = 0;
  Index offset = 0;
  Index stride = 1;  ///< entries from one element to the next; negative in mirrored stretches
  Index block = 1;   ///< entries that move as one
  std::vector<AxisSlice> within = {};  ///< on other axes: the only slices in which they move
};

/// One symmetry of a model: `size` things whose order is free, and every stretch
/// of every tensor that has to follow that order for the model to compute the
/// same function (up to the order in which floating-point sums are taken).
struct AxisGroup {
  std::string name;  ///< unique in the layout: "layers.3/inner", "layers.3/channel.5", "model"
  std::string kind;  ///< what the command line calls it: "inner", "channel", "model"
  Index layer = -1;  ///< -1 for a group of no particular layer
  Index size = 0;
  std::vector<AxisSegment> segments = {};
};

/// A part of a model with a forward of its own: a mixer, attention, an MLP.
struct Block {
  std::string type;    ///< "mamba1", "mamba2", "mamba3", "attention", "mlp", "experts", ...
  std::string prefix;  ///< its tensors' names begin so: "backbone.layers.3.mixer."
  Index layer = -1;

  /// "d_state", "headdim", "ngroups", ... as the table of the type names them.
  std::map<std::string, Index, std::less<>> sizes;

  /// What a tensor is to the block ("in_proj.weight") -> its name in the checkpoint.
  /// What the checkpoint does not have is not here.
  std::map<std::string, std::string, std::less<>> tensors;

  /// Numbers of config.json that the forward needs: "norm_eps", "rope_theta", "top_k".
  std::map<std::string, double, std::less<>> numbers;
};

/// hidden += multiplier * (sum of blocks(norm(hidden))).
struct Step {
  std::string norm_weight;          ///< tensor name
  std::string norm_bias;            ///< empty: none, the norm is an RMSNorm
  std::vector<std::size_t> blocks;  ///< indices into Layout::blocks; all read the same input
};

/// How the blocks make a language model. Layouts whose whole model icd cannot run have none.
struct Wiring {
  std::string embedding;
  std::string final_norm_weight;
  std::string final_norm_bias;                         ///< empty: none
  std::string head;                                    ///< the embedding's name when tied
  std::vector<std::vector<Step>> layers;               ///< in order
  std::map<std::string, double, std::less<>> numbers;  ///< "norm_eps", "embedding_multiplier", ...
};

/// What a checkpoint is asked to be taken for.
struct LayoutRequest {
  /// "auto", a table by name, a file NAME.layout, or "mixers" for nothing but those in it.
  std::string name = "auto";

  /// Sizes that cannot be read from the tensors: {"ngroups", 2}.
  std::map<std::string, Index, std::less<>> settings = {};
};

/// The symmetries of one checkpoint, and what its table says of each tensor.
struct Layout {
  std::string name;  ///< of the table: "mamba2", "jamba", "mixers"
  ModelSpec spec;    ///< sizes are 0 where the layout has no such thing
  std::map<std::string, Index, std::less<>> settings;  ///< of the request, as far as they were used

  /// Finer before coarser: channels of a head before heads, heads before groups. Applied in
  /// this order, each where its elements stand in the checkpoint as it is.
  std::vector<AxisGroup> groups;
  std::vector<Block> blocks;
  std::optional<Wiring> wiring;

  std::vector<std::string>
      strangers;  ///< tensors that the table does not know: carried as they are

  const AxisGroup* find(std::string_view name) const noexcept;

  /// The kinds that occur, in table order.
  std::vector<std::string> kinds() const;
};

/// Finds out what a checkpoint is, from config.json and its tensors, which have to agree.
/// Every tensor that the table names is there with the shape it should have, and every
/// segment lies within its axis. Throws Error{unsupported} for what no table knows and for
/// look-alikes, by name, Error{input} naming the tensor that is missing or has another shape,
/// a size that neither shapes nor config.json tell, or a stranger on an axis that moves.
Layout layout_of(const Checkpoint& checkpoint, const LayoutRequest& request = {});

/// The same for a checkpoint that is known to be a Mamba-1 language model.
Layout layout_of(const Checkpoint& checkpoint, const ModelSpec& spec);

}  // namespace icd
