#pragma once

#include <memory>
#include <span>
#include <vector>

#include "row_search.h"

namespace icd {

/// Numbers >= 0 of every member, row by row: (rows, stride), rows padded with zeros.
class MemberRows {
 public:
  MemberRows(Index rows, Index members);

  Index rows() const noexcept { return rows_; }
  std::int64_t stride() const noexcept { return stride_; }
  float* row(Index row) noexcept { return values_.data() + row * stride_; }
  const float* row(Index row) const noexcept { return values_.data() + row * stride_; }

 private:
  Index rows_;
  std::int64_t stride_;
  FloatBuffer values_;
};

/// Seats of scores that a member spoils by being larger than the others: the sum, over blocks
/// and rows, of the largest number in the block, times its members; lower is better. Only the
/// one member that holds the largest number of a row makes a difference by leaving, so the
/// table is one row a block, and corrections that add up to another: O(rows n) a block, where
/// sums for every seat apart would take as many times that as a block has members.
class MaxSeats : public Seats {
 public:
  explicit MaxSeats(std::shared_ptr<const MemberRows> numbers);

  void update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) override;

 private:
  std::shared_ptr<const MemberRows> numbers_;
  std::vector<float> largest_;  // (rows), of all members: nobody rises above it
};

}  // namespace icd
