#include "icd/random.h"

#include <numeric>
#include <utility>
#include <vector>

namespace icd {

std::uint64_t Random::next() noexcept {
  state_ += 0x9E3779B97F4A7C15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

std::uint64_t Random::below(std::uint64_t bound) noexcept {
  // Values under 2^64 mod bound would make the small remainders likelier: draw again.
  const std::uint64_t unfair = (0 - bound) % bound;
  std::uint64_t value = next();
  while (value < unfair) value = next();
  return value % bound;
}

double Random::uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }

double Random::normal() noexcept {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += uniform();
  return sum;
}

Random Random::derived(std::uint64_t seed, std::uint64_t key) noexcept {
  Random mixer(seed ^ Random(key).next());
  return Random(mixer.next());
}

Permutation random_permutation(Index n, Random& random) {
  std::vector<Index> source(static_cast<std::size_t>(n));
  std::iota(source.begin(), source.end(), Index{0});
  for (std::size_t i = source.size(); i > 1; --i) {
    std::swap(source[i - 1], source[random.below(i)]);
  }
  return Permutation::from_gather(std::move(source));
}

}  // namespace icd
