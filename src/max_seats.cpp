#include "max_seats.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "row_kernels.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

/// What a block asks of whoever comes: to stay below the largest number of each row, or, on the
/// seat of the member that holds it, below the second largest.
struct BlockClips {
  std::vector<Clip> everywhere;
  std::vector<Clip> held;    // by seat
  std::vector<Index> begin;  // (members + 1), of each seat's clips in held
};

BlockClips clips_of(const MemberRows& numbers, std::span<const float> largest_of_all,
                    std::span<const Index> members) {
  constexpr float kNoLimit = std::numeric_limits<float>::infinity();
  BlockClips clips;
  clips.begin.assign(members.size() + 1, 0);
  std::vector<Clip> held;
  std::vector<std::size_t> holders;
  for (Index r = 0; r < numbers.rows(); ++r) {
    const float* row = numbers.row(r);
    float largest = 0;
    float second = 0;
    std::size_t holder = 0;
    for (std::size_t i = 0; i < members.size(); ++i) {
      const float x = row[members[i]];
      if (x > largest) {
        second = largest;
        largest = x;
        holder = i;
      } else {
        second = std::max(second, x);
      }
    }
    if (largest < largest_of_all[at(r)]) clips.everywhere.push_back({r, largest, kNoLimit});
    if (second < largest) {
      held.push_back({r, second, largest});
      holders.push_back(holder);
      ++clips.begin[holder + 1];
    }
  }
  for (std::size_t i = 0; i < members.size(); ++i) clips.begin[i + 1] += clips.begin[i];
  std::vector<Index> next = clips.begin;
  clips.held.resize(held.size());
  for (std::size_t k = 0; k < held.size(); ++k) clips.held[at(next[holders[k]]++)] = held[k];
  return clips;
}

}  // namespace

MemberRows::MemberRows(Index rows, Index members)
    : rows_(rows),
      stride_((std::int64_t{members} + kMemberGroup - 1) / kMemberGroup * kMemberGroup),
      values_(at(rows) * static_cast<std::size_t>(stride_)) {}

MaxSeats::MaxSeats(std::shared_ptr<const MemberRows> numbers) : numbers_(std::move(numbers)) {
  largest_.assign(at(numbers_->rows()), 0.0F);
  for (Index r = 0; r < numbers_->rows(); ++r) {
    const float* row = numbers_->row(r);
    for (std::int64_t u = 0; u < numbers_->stride(); ++u) {
      largest_[at(r)] = std::max(largest_[at(r)], row[u]);
    }
  }
}

void MaxSeats::update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) {
  constexpr Index kMembersAtATime = 512;
  constexpr std::int64_t kManyNumbers = std::int64_t{1} << 20;  // some 0.1 ms of work

  const RowKernels& kernels = row_kernels();
  const auto stride = static_cast<Index>(table.stride());
  const auto count = static_cast<Index>(blocks.size());
  std::vector<BlockClips> clips(blocks.size());
  const bool is_large = std::int64_t{numbers_->rows()} * stride * count > kManyNumbers;

#pragma omp parallel if (is_large)
  {
#pragma omp for schedule(dynamic)
    for (Index b = 0; b < count; ++b) {
      clips[at(b)] = clips_of(*numbers_, largest_, seating.members(blocks[at(b)]));
    }
#pragma omp for schedule(dynamic) collapse(2)
    for (Index b = 0; b < count; ++b) {
      for (Index left = 0; left < stride; left += kMembersAtATime) {
        const Index width = std::min(kMembersAtATime, stride - left);
        const BlockClips& here = clips[at(b)];
        const auto members = seating.members(blocks[at(b)]);
        FloatBuffer base(at(width), 0.0F);
        ClipArguments arguments = {.numbers = numbers_->row(0) + left,
                                   .ld = numbers_->stride(),
                                   .clips = here.everywhere.data(),
                                   .count = static_cast<Index>(here.everywhere.size()),
                                   .members = width,
                                   .out = base.data()};
        kernels.add_clips(arguments);
        for (std::size_t i = 0; i < members.size(); ++i) {
          float* row = table.row(members[i]) + left;
          std::copy(base.begin(), base.end(), row);
          arguments.clips = here.held.data() + here.begin[i];
          arguments.count = here.begin[i + 1] - here.begin[i];
          arguments.out = row;
          kernels.add_clips(arguments);
          const auto size = static_cast<float>(members.size());
          for (Index v = 0; v < width; ++v) row[v] *= -size;
        }
      }
    }
  }
}

}  // namespace icd
