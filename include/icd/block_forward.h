#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/language_model.h"
#include "icd/layout.h"

namespace icd {

/// One block of a model, run by itself: y = block(x), without the norm before it and the
/// residual around it.
///
/// Two implementations agree within rounding: reference_block, plain loops in double, and
/// fast_block in float. What a block of each type needs in Block::sizes, ::tensors and ::numbers
/// is said in src/block_forward_*.cpp; equations are those of mamba-ssm (Mamba-3, packed
/// attention), transformers (the hybrids' attention and experts) or both (Mamba-1, Mamba-2).
template <typename Real>
class BlockForward {
 public:
  virtual ~BlockForward() = default;

  virtual Index inputs() const noexcept = 0;
  virtual Index outputs() const noexcept = 0;

  /// x is (rows, inputs), y (rows, outputs), both row-major; rows are (sequence, token), and every
  /// sequence starts from zero. x and y do not overlap. May run concurrently.
  /// Shows `observer` the sites of block_sites(), except Site::normed, which whoever normalises
  /// shows. Throws Error{usage} for spans that do not fit the shape.
  virtual void run(BatchShape shape, std::span<const Real> x, std::span<Real> y,
                   const LayerObserver<Real>& observer = {}) const = 0;
};

/// Is there a forward for blocks of this type?
bool has_forward(std::string_view type) noexcept;

/// An axis of a tensor of the checkpoint.
struct TensorAxis {
  std::string tensor;
  int dim = 0;
};

/// Axes on which a block's input and its output channels stand.
struct BlockPorts {
  TensorAxis in;
  TensorAxis out;
};

/// Throws Error{unsupported} for a type without a forward, Error{input} for a block without one
/// of the two tensors.
BlockPorts block_ports(const Block& block);

/// The axis that has the channels of a site: column c of what is shown is entry c.
struct BlockSite {
  Site site;
  TensorAxis axis;
};

/// What blocks of this type show an observer; first of all Site::normed on the axis of the input.
/// Empty for a type without a forward. Throws Error{input} for a block without one of the tensors.
std::vector<BlockSite> block_sites(const Block& block);

/// Plain loops in double, single thread. Reads all weights at once.
/// Throws Error{unsupported} for a type without a forward, Error{input} naming a tensor that is
/// missing or has a shape other than the block's sizes say.
std::unique_ptr<BlockForward<double>> reference_block(const Checkpoint& checkpoint,
                                                      const Block& block);

/// f32, with the matrix products of `options.gemm`. With GemmEngine::fixed_order the result has
/// the same bits for any number of threads and any cut of a batch into sequences.
/// Throws as reference_block, and Error{unavailable} for an engine that was not built in.
std::unique_ptr<BlockForward<float>> fast_block(const Checkpoint& checkpoint, const Block& block,
                                                const FastModelOptions& options = {});

}  // namespace icd
