#include "icd/weight_similarity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "gram.h"
#include "icd/error.h"
#include "member_view.h"

namespace icd {
namespace {

constexpr std::int64_t kRows = 2048;  // coordinates of all members held at a time

/// Calls visit(values) with at most kRows rows (rows, n) at a time, each centred over
/// the members; the cuts depend on the shape alone.
template <typename Visit>
void for_centred_rows(const MemberView& segment, std::vector<float>& buffer, const Visit& visit) {
  const std::int64_t rows = segment.rows();
  if (rows == 0) return;
  if (rows > kRows) {
    const std::int64_t inner = rows / segment.shape[0];
    const std::int64_t step = std::max<std::int64_t>(1, kRows / inner);
    for (std::int64_t first = 0; first < segment.shape[0]; first += step) {
      for_centred_rows(segment.part(first, std::min(step, segment.shape[0] - first)), buffer,
                       visit);
    }
    return;
  }
  const std::int64_t members = segment.shape.back();
  buffer.resize(static_cast<std::size_t>(rows * members));
  read_as(segment.view(), std::span<float>(buffer));
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < rows; ++row) {
    float* values = buffer.data() + row * members;
    double sum = 0;
    for (std::int64_t member = 0; member < members; ++member) {
      sum += static_cast<double>(values[member]);
    }
    const double mean = sum / static_cast<double>(members);
    for (std::int64_t member = 0; member < members; ++member) {
      values[member] = static_cast<float>(static_cast<double>(values[member]) - mean);
    }
  }
  visit(std::span<const float>(buffer));
}

/// The Gram matrix of the members over rows of any number, added up kRows at a time: small
/// tensors share one pass over the matrix.
class RowBatch {
 public:
  explicit RowBatch(Index n) : gram_(n) {}

  void add(std::span<const float> values, double scale) {
    const auto capacity = static_cast<std::size_t>(kRows * gram_.size());
    for (const float value : values) {
      rows_.push_back(static_cast<float>(static_cast<double>(value) * scale));
      if (rows_.size() == capacity) flush();
    }
  }

  const GramMatrix& finish() {
    flush();
    return gram_;
  }

 private:
  void flush() {
    gram_.add(rows_);
    rows_.clear();
  }

  GramMatrix gram_;
  std::vector<float> rows_;
};

}  // namespace

std::vector<float> weight_similarity(const Checkpoint& checkpoint, const AxisGroup& group) {
  // The segments of one tensor, in the order in which tensors are first named, share a scale.
  std::vector<std::vector<const AxisSegment*>> tensors;
  for (const AxisSegment& segment : group.segments) {
    if (segment.dim == AxisSegment::kWholeTensors) continue;  // experts are told by their routers
    const auto known = std::find_if(tensors.begin(), tensors.end(), [&](const auto& segments) {
      return segments.front()->tensor == segment.tensor;
    });
    if (known == tensors.end()) {
      tensors.push_back({&segment});
    } else {
      known->push_back(&segment);
    }
  }

  const auto n = static_cast<std::size_t>(group.size);
  RowBatch batch(group.size);
  std::vector<float> buffer;
  for (const auto& segments : tensors) {
    double total = 0;
    for (const AxisSegment* segment : segments) {
      for_centred_rows(member_view(checkpoint, group, *segment), buffer,
                       [&](std::span<const float> values) {
                         for (const float value : values) {
                           total += static_cast<double>(value) * static_cast<double>(value);
                         }
                       });
    }
    if (!std::isfinite(total)) {
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': holds NaN or infinity, expected numbers",
                              segments.front()->tensor));
    }
    if (total == 0) continue;
    for (const AxisSegment* segment : segments) {
      for_centred_rows(
          member_view(checkpoint, group, *segment), buffer,
          [&](std::span<const float> values) { batch.add(values, 1.0 / std::sqrt(total)); });
    }
  }

  const GramMatrix& gram = batch.finish();
  std::vector<double> square(n);
  for (std::size_t member = 0; member < n; ++member) {
    const auto index = static_cast<Index>(member);
    square[member] = gram(index, index);
  }
  return gram.cosines(std::vector<double>(n), square);
}

}  // namespace icd
