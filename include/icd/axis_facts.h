#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
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
  std::vector<float> input_square = {};  ///< (members * run) mean of x^2; empty: not known
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
  std::vector<Reader> readers = {};

  // Of the signal of the axis; (size) each.
  std::vector<float> square = {};  ///< mean of x^2
  std::vector<float> minimum = {};
  std::vector<float> maximum = {};
  std::vector<double> decay = {};  ///< mean over tokens and states of dt |A|: 1 / memory in tokens
  std::vector<float> weight_square = {};          ///< weight_squares(); if no matrix reads the axis
  std::shared_ptr<const Activity> activity = {};  ///< null: not known
};

/// Does a matrix read the group? One does that has the group's members on its second axis, is
/// called "...weight", and is not an embedding that is nobody's head.
bool is_read(const Checkpoint& checkpoint, const Layout& layout, const AxisGroup& group);

/// The matrices that read a group, one for each stretch of columns; empty for groups that none
/// reads, as states. If all of them have more than `most_entries` entries, each gives every k-th
/// row, k the same for all. Throws Error{unsupported} for a dtype that is no readable float,
/// Error{input} for a weight that is NaN or infinite.
std::vector<Reader> readers_of(const Checkpoint& checkpoint, const Layout& layout,
                               const AxisGroup& group,
                               std::int64_t most_entries = std::int64_t{1} << 28);

/// The sum of w^2 over all that moves with a member, whole tensors aside: (size). Throws as
/// readers_of.
std::vector<float> weight_squares(const Checkpoint& checkpoint, const AxisGroup& group);

/// What a tensor is to its block, "out_proj.weight"; empty for one that belongs to none.
std::string role_of(const Layout& layout, std::string_view tensor);

}  // namespace icd
