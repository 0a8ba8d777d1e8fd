#include "activity.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

namespace icd {
namespace {

constexpr std::int64_t kWordBits = 64;

std::int64_t words_of(std::int64_t bits) { return (bits + kWordBits - 1) / kWordBits; }

/// Rises with |value|, NaN included.
std::uint32_t magnitude(float value) { return std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu; }

void mark(std::uint64_t* words, std::int64_t bit) {
  words[bit / kWordBits] |= std::uint64_t{1} << (bit % kWordBits);
}

}  // namespace

ActivityRecorder::ActivityRecorder(Index n, double share) : n_(n), share_(share) {}

void ActivityRecorder::add(std::span<const float> values, Index observations) {
  const std::int64_t width = std::int64_t{observations} * n_;
  if (width == 0) return;
  const std::int64_t tokens = std::ssize(values) / width;
  const auto active = std::clamp<std::int64_t>(
      static_cast<std::int64_t>(std::floor(share_ * static_cast<double>(width) + 0.5)), 1, width);
  const std::int64_t words = words_of(n_);
  const std::int64_t before = tokens_;
  tokens_ += tokens;
  marks_.resize(static_cast<std::size_t>(tokens_ * words));
#pragma omp parallel
  {
    std::vector<std::int64_t> places(static_cast<std::size_t>(width));
#pragma omp for schedule(static)
    for (std::int64_t token = 0; token < tokens; ++token) {
      const float* of_token = values.data() + token * width;
      std::iota(places.begin(), places.end(), std::int64_t{0});
      // The order is total, so the first are a set that does not depend on the algorithm.
      std::nth_element(places.begin(), places.begin() + (active - 1), places.end(),
                       [&](std::int64_t a, std::int64_t b) {
                         const std::uint32_t of_a = magnitude(of_token[a]);
                         const std::uint32_t of_b = magnitude(of_token[b]);
                         if (of_a != of_b) return of_a > of_b;
                         return a % n_ != b % n_ ? a % n_ < b % n_ : a < b;
                       });
      std::uint64_t* marks = marks_.data() + (before + token) * words;
      for (std::int64_t i = 0; i < active; ++i) {
        mark(marks, places[static_cast<std::size_t>(i)] % n_);
      }
    }
  }
}

Activity ActivityRecorder::finish() const {
  Activity activity{.tokens = tokens_, .size = n_, .bits = {}};
  const std::int64_t words = words_of(n_);
  activity.bits.resize(static_cast<std::size_t>(n_ * activity.words()));
  for (std::int64_t token = 0; token < tokens_; ++token) {
    const std::uint64_t* marks = marks_.data() + token * words;
    for (std::int64_t word = 0; word < words; ++word) {
      for (std::uint64_t left = marks[word]; left != 0; left &= left - 1) {
        const std::int64_t channel = word * kWordBits + std::countr_zero(left);
        mark(activity.bits.data() + channel * activity.words(), token);
      }
    }
  }
  return activity;
}

}  // namespace icd
