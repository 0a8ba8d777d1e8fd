#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace icd {

/// A product of sizes, by name, sorted; the empty one is 1.
using Monomial = std::vector<std::string>;

/// A sum of products, each with a factor.
using Polynomial = std::map<Monomial, std::int64_t>;

Polynomial operator+(const Polynomial& a, const Polynomial& b);
Polynomial operator*(const Polynomial& a, const Polynomial& b);

/// Sizes of a model as unknowns, and the lengths of its tensors' axes as what is known of them:
/// 2 * d_mlp + 2 * heads * headdim + 2 * ngroups * d_state + heads = 322.
class SizeSystem {
 public:
  void equate(Polynomial left, std::int64_t right) {
    equations_.emplace_back(std::move(left), right);
  }
  void equate(Polynomial left, const Polynomial& right);
  void set(const std::string& name, std::int64_t value);

  /// Finds what follows: products as unknowns of a linear system, then single factors of
  /// products. Contradictions are not looked for; a size that would not be a whole number of at
  /// least 0 is left unknown and noted in misfit().
  void solve();

  std::optional<std::int64_t> value(std::string_view name) const;
  std::optional<std::int64_t> value(const Polynomial& polynomial) const;
  const std::map<std::string, std::int64_t, std::less<>>& values() const noexcept {
    return values_;
  }

  /// Names that occur and have no value, sorted.
  std::set<std::string> unknowns() const;

  /// "16 = ngroups * heads_per_group, and ngroups = 3 does not divide it"; empty if none.
  const std::string& misfit() const noexcept { return misfit_; }

 private:
  bool learn(const Monomial& monomial, std::int64_t value);
  bool eliminate();

  std::vector<std::pair<Polynomial, std::int64_t>> equations_;
  std::map<std::string, std::int64_t, std::less<>> values_;
  std::string misfit_;
};

}  // namespace icd
