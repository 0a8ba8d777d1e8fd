#include "icd/permutation.h"

#include <fmt/format.h>

#include <limits>
#include <numeric>

#include "icd/error.h"

namespace icd {
namespace {

/// size * factor as a length of an axis.
std::size_t stretched(const Permutation& p, Index factor, const char* what) {
  if (factor < 1) {
    throw Error(ErrorCode::usage, fmt::format("{}: is {}, expected at least 1", what, factor));
  }
  const std::int64_t size = std::int64_t{p.size()} * factor;
  if (size > std::numeric_limits<Index>::max()) {
    throw Error(ErrorCode::usage, fmt::format("{}: {} times {} is {}, more than {}", what, p.size(),
                                              factor, size, std::numeric_limits<Index>::max()));
  }
  return static_cast<std::size_t>(size);
}

}  // namespace

Permutation Permutation::identity(Index n) {
  std::vector<Index> source(static_cast<std::size_t>(n));
  std::iota(source.begin(), source.end(), Index{0});
  return Permutation(std::move(source));
}

Permutation Permutation::from_gather(std::vector<Index> source) {
  const auto n = static_cast<std::int64_t>(source.size());
  std::vector<std::int64_t> seen_at(source.size(), -1);
  for (std::int64_t i = 0; i < n; ++i) {
    const Index from = source[static_cast<std::size_t>(i)];
    if (from < 0 || from >= n) {
      throw Error(
          ErrorCode::usage,
          fmt::format("permutation of {}: entry {} is {}, expected 0 to {}", n, i, from, n - 1));
    }
    auto& seen = seen_at[static_cast<std::size_t>(from)];
    if (seen >= 0) {
      throw Error(ErrorCode::usage,
                  fmt::format("permutation of {}: entry {} repeats {}, already at entry {}", n, i,
                              from, seen));
    }
    seen = i;
  }
  return Permutation(std::move(source));
}

bool Permutation::is_identity() const noexcept {
  for (Index i = 0; i < size(); ++i) {
    if ((*this)[i] != i) return false;
  }
  return true;
}

Permutation Permutation::inverse() const {
  std::vector<Index> source(source_.size());
  for (Index i = 0; i < size(); ++i) source[static_cast<std::size_t>((*this)[i])] = i;
  return Permutation(std::move(source));
}

Permutation Permutation::then(const Permutation& next) const {
  if (size() != next.size()) {
    throw Error(ErrorCode::usage, fmt::format("permutations of {} and of {} points do not compose",
                                              size(), next.size()));
  }
  std::vector<Index> source;
  source.reserve(source_.size());
  for (const Index i : next.source_) source.push_back((*this)[i]);
  return Permutation(std::move(source));
}

Permutation direct_sum(std::span<const Permutation> parts) {
  std::vector<Index> source;
  for (const Permutation& part : parts) {
    const auto offset = static_cast<Index>(source.size());
    for (const Index i : part.source_) source.push_back(offset + i);
  }
  return Permutation(std::move(source));
}

Permutation inflate(const Permutation& p, Index block) {
  std::vector<Index> source;
  source.reserve(stretched(p, block, "block"));
  for (const Index i : p.source_) {
    for (Index k = 0; k < block; ++k) source.push_back(i * block + k);
  }
  return Permutation(std::move(source));
}

Permutation deal(const Permutation& p, Index copies) {
  std::vector<Index> source;
  source.reserve(stretched(p, copies, "copies"));
  for (Index k = 0; k < copies; ++k) {
    for (const Index i : p.source_) source.push_back(i * copies + k);
  }
  return Permutation(std::move(source));
}

}  // namespace icd
