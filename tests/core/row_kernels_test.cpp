#include "row_kernels.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>
#include <vector>

#include "icd/random.h"

namespace icd {
namespace {

// The plain path against plain loops, the others bit for bit against it: ragged ends, ties and
// paddings included.
RC_GTEST_PROP(RowKernels, AreThePlainLoopsOnEveryPath, ()) {
  const auto n = *rc::gen::inRange<Index>(1, 150);
  const auto rows = kRowGroup * *rc::gen::inRange<Index>(1, 6);
  const std::size_t stride = static_cast<std::size_t>((n + kMemberGroup - 1) / kMemberGroup) *
                             static_cast<std::size_t>(kMemberGroup);
  Random random(*rc::gen::arbitrary<std::uint64_t>());
  const auto numbers = [&](std::size_t count) {
    std::vector<float> all(count);
    for (float& x : all) x = static_cast<float>(random.below(50)) * 0.1F;
    return all;
  };
  const auto n_rows = static_cast<std::size_t>(n) * static_cast<std::size_t>(rows);
  const std::vector<float> offered = numbers(n_rows);
  const std::vector<float> seats = numbers(n_rows);
  const std::vector<float> table = numbers(static_cast<std::size_t>(n) * stride);
  const std::vector<float> own = numbers(stride);
  std::vector<float> blocks(stride);
  for (std::size_t i = 0; i < stride; ++i) blocks[i] = static_cast<float>(i % 5);
  std::vector<Clip> clips;
  for (Index r = 0; r < n; r += 3) clips.push_back({r, 0.1F * static_cast<float>(r % 20), 3.0F});
  const auto count = std::min<Index>(n, 16);
  const auto kept = *rc::gen::inRange<Index>(1, 16);

  const auto run = [&](VectorPath path) {
    const RowKernels& kernels = row_kernels(path);
    std::vector<float> maxima(static_cast<std::size_t>(n) * stride, 1.0F);
    std::vector<const float*> held;
    std::vector<float*> out;
    std::vector<float> taken(n_rows);
    std::vector<float*> thresholds;
    std::vector<const float*> columns;
    for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
      held.push_back(seats.data() + i * static_cast<std::size_t>(rows));
      out.push_back(maxima.data() + i * stride);
      columns.push_back(offered.data() + i * static_cast<std::size_t>(rows));
      thresholds.push_back(taken.data() + i * static_cast<std::size_t>(rows));
    }
    kernels.add_maxima({.held = held.data(),
                        .seats = n,
                        .offered = offered.data(),
                        .ld = rows,
                        .members = n,
                        .rows = rows,
                        .out = out.data()});
    std::vector<float> clipped(stride, 2.0F);
    kernels.add_clips({.numbers = table.data(),
                       .ld = static_cast<std::int64_t>(stride),
                       .clips = clips.data(),
                       .count = static_cast<Index>(clips.size()),
                       .members = static_cast<Index>(stride),
                       .out = clipped.data()});
    std::vector<float> gain(stride);
    std::vector<Index> partner(stride);
    for (Index first = 0; first < n; first += kMemberGroup) {
      kernels.best_partners({.table = table.data(),
                             .ld = static_cast<std::int64_t>(stride),
                             .n = n,
                             .own = own.data(),
                             .block = blocks.data(),
                             .first = first,
                             .gain = gain.data() + first,
                             .partner = partner.data() + first});
    }
    gain.resize(static_cast<std::size_t>(n));
    partner.resize(static_cast<std::size_t>(n));
    kernels.thresholds(columns.data(), count, kept, rows, thresholds.data());
    return std::tuple(maxima, clipped, gain, partner, taken);
  };
  const auto plain = run(VectorPath::sse2);
  const auto& [maxima, clipped, gain, partner, taken] = plain;
  for (Index u = 0; u < n; ++u) {
    const std::size_t v = static_cast<std::size_t>(*rc::gen::inRange<Index>(0, n));
    double sum = 1;
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      const std::size_t row_length = static_cast<std::size_t>(rows);
      sum += double{std::max(seats[static_cast<std::size_t>(u) * row_length + r],
                             offered[v * row_length + r])};
    }
    RC_ASSERT(std::fabs(maxima[static_cast<std::size_t>(u) * stride + v] - sum) < 1e-5 * sum);
  }
  for (std::size_t v = 0; v < stride; ++v) {
    float sum = 2;
    for (const Clip& clip : clips) {
      const float x = table[static_cast<std::size_t>(clip.row) * stride + v];
      sum += std::clamp(x, clip.low, clip.high) - clip.low;
    }
    RC_ASSERT(clipped[v] == sum);
  }
  for (Index u = 0; u < count; ++u) {
    for (std::size_t r = 0; r < static_cast<std::size_t>(rows); ++r) {
      std::vector<float> others;
      for (Index v = 0; v < count; ++v) {
        if (v != u) others.push_back(offered[static_cast<std::size_t>(v * rows) + r]);
      }
      std::sort(others.rbegin(), others.rend());
      const float expected =
          kept <= std::ssize(others) ? others[static_cast<std::size_t>(kept - 1)] : 0;
      RC_ASSERT(taken[static_cast<std::size_t>(u * rows) + r] == expected);
    }
  }
  for (Index u = 0; u < n; ++u) {
    float most = 0;
    Index best = -1;
    for (Index v = 0; v < n; ++v) {
      const auto entry = [&](Index a, Index b) {
        return table[static_cast<std::size_t>(a) * stride + static_cast<std::size_t>(b)];
      };
      const float here = entry(u, v) + entry(v, u) -
                         (own[static_cast<std::size_t>(u)] + own[static_cast<std::size_t>(v)]);
      if (u % 5 != v % 5 && here > most) {
        most = here;
        best = v;
      }
    }
    RC_ASSERT(partner[static_cast<std::size_t>(u)] == best);
    RC_ASSERT(gain[static_cast<std::size_t>(u)] == most);
  }
  if (widest_vector_path() != VectorPath::sse2) RC_ASSERT(run(VectorPath::avx2) == plain);
  if (widest_vector_path() == VectorPath::avx512) RC_ASSERT(run(VectorPath::avx512) == plain);
}

}  // namespace
}  // namespace icd
