#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/graph.h"
#include "icd/layout.h"

namespace icd {

/// A weight matrix that reads an axis: y = W x, where x is in the order of the axis. Columns are
/// the members' runs side by side, members in the checkpoint's order.
struct Reader {
  std::string tensor;
  Index rows = 0;
  Index run = 1;                                      ///< columns a member, >= 1
  std::shared_ptr<const std::vector<float>> weights;  ///< (rows, members * run), row-major
  std::vector<float> input_square;  ///< (members * run) mean of x^2; empty: not known
};

/// Which members were active, token by token, for the first tokens of a half.
struct Activity {
  std::int64_t tokens = 0;
  Index size = 0;
  std::vector<std::uint64_t> bits;  ///< (members, words): bit t of a member's row is token t

  std::int64_t words() const noexcept { return (tokens + 63) / 64; }
};

/// What is known of the members of one axis on one half of the tokens. What nobody measured is
/// empty; weights are the same in both halves.
struct AxisFacts {
  Index size = 0;
  std::shared_ptr<const Graph> graph;  ///< how alike they are; never null
  std::vector<Reader> readers;

  // Of the signal of the axis; (size) each.
  std::vector<float> square;   ///< mean of x^2
  std::vector<float> minimum;
  std::vector<float> maximum;
  std::vector<float> decay;    ///< mean over tokens and states of dt * |A|: 1 / memory in tokens
  std::vector<float> weight_square;  ///< sum of w^2 over every segment of the group: data-free
  std::shared_ptr<const Activity> activity;  ///< null: not known
};

/// The matrices that read an axis group: every segment on the second axis of a matrix
/// "*.weight", other than of an embedding that is nobody's head. Empty for groups that none
/// reads, as states. Matrices of more than `most_entries` entries give every k-th row.
/// Throws Error{unsupported} for a dtype that is no readable float, Error{input} for a weight
/// that is NaN or infinite.
std::vector<Reader> readers_of(const Checkpoint& checkpoint, const Layout& layout,
                               const AxisGroup& group,
                               std::int64_t most_entries = std::int64_t{1} << 28);

}  // namespace icd
