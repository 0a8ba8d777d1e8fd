#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "icd/checkpoint.h"
#include "icd/layout.h"

namespace icd {

/// The tensors, sizes and numbers of one block, as its forward asks for them.
template <typename Real>
class BlockWeights {
 public:
  /// Both have to outlive it.
  BlockWeights(const Checkpoint& checkpoint, const Block& block)
      : checkpoint_(checkpoint), block_(block) {}

  const std::string& type() const noexcept { return block_.type; }

  /// Throws Error{input} naming the block and the size that it does not have.
  std::int64_t size(std::string_view name) const;
  std::int64_t size(std::string_view name, std::int64_t fallback) const;

  bool has_number(std::string_view name) const { return block_.numbers.contains(name); }
  double number(std::string_view name, double fallback) const;
  bool is_set(std::string_view name) const { return number(name, 0) != 0; }

  bool has(std::string_view role) const { return block_.tensors.contains(role); }

  /// The shape of a tensor. Throws Error{input} if the block has none in this role, or one of
  /// another rank.
  const Shape& shape(std::string_view role, std::size_t rank) const;

  /// A tensor, row-major and packed. Throws Error{input} naming the role or the tensor.
  std::vector<Real> tensor(std::string_view role, const Shape& shape) const;

  /// The same; empty if the block has none in this role.
  std::vector<Real> optional(std::string_view role, const Shape& shape) const;

 private:
  const std::string& name(std::string_view role) const;

  const Checkpoint& checkpoint_;
  const Block& block_;
};

/// Rows [begin, begin + count) of a tensor whose rows have `columns` elements; empty if it is.
template <typename Real>
std::span<const Real> rows_of(const std::vector<Real>& tensor, std::int64_t begin,
                              std::int64_t count, std::int64_t columns = 1) {
  if (tensor.empty()) return {};
  return std::span(tensor).subspan(static_cast<std::size_t>(begin * columns),
                                   static_cast<std::size_t>(count * columns));
}

}  // namespace icd
