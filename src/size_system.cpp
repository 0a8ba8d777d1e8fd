#include "size_system.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace icd {
namespace {

__extension__ using Wide = __int128;

constexpr std::int64_t kLargest = std::int64_t{1} << 40;  // of a size; a file's lengths are checked

/// A row of the linear system: coefficients by column, and the right side last.
using Row = std::vector<std::int64_t>;

/// Divided by what its entries have in common. False if they outgrow what is exact.
bool reduce(Row& row) {
  std::int64_t common = 0;
  for (const std::int64_t entry : row) common = std::gcd(common, entry);
  if (common > 1) {
    for (std::int64_t& entry : row) entry /= common;
  }
  return std::all_of(row.begin(), row.end(),
                     [](std::int64_t entry) { return entry < kLargest && entry > -kLargest; });
}

/// `row` without its entry in `column`, by means of `pivot`. False if that is not exact.
bool cancel(Row& row, const Row& pivot, std::size_t column) {
  const Wide a = pivot[column];
  const Wide b = row[column];
  for (std::size_t c = 0; c < row.size(); ++c) {
    const Wide entry = row[c] * a - pivot[c] * b;
    if (entry > INT64_MAX || entry < -INT64_MAX) return false;
    row[c] = static_cast<std::int64_t>(entry);
  }
  return reduce(row);
}

}  // namespace

Polynomial operator+(const Polynomial& a, const Polynomial& b) {
  Polynomial sum = a;
  for (const auto& [monomial, factor] : b) sum[monomial] += factor;
  return sum;
}

Polynomial operator*(const Polynomial& a, const Polynomial& b) {
  Polynomial product;
  for (const auto& [left, p] : a) {
    for (const auto& [right, q] : b) {
      Monomial both = left;
      both.insert(both.end(), right.begin(), right.end());
      std::sort(both.begin(), both.end());
      product[both] += p * q;
    }
  }
  return product;
}

void SizeSystem::equate(Polynomial left, const Polynomial& right) {
  for (const auto& [monomial, factor] : right) left[monomial] -= factor;
  equations_.emplace_back(std::move(left), 0);
}

void SizeSystem::set(const std::string& name, std::int64_t value) { values_[name] = value; }

void SizeSystem::solve() {
  while (eliminate()) {
  }
}

/// What a product of known value says of its one unknown factor.
bool SizeSystem::learn(const Monomial& monomial, std::int64_t value) {
  std::int64_t known = 1;
  std::string unknown;
  for (const std::string& name : monomial) {
    if (const auto found = values_.find(name); found != values_.end()) {
      known *= found->second;
    } else if (unknown.empty()) {
      unknown = name;
    } else {
      return false;
    }
  }
  if (unknown.empty() || known == 0) return false;
  if (value < 0 || value % known != 0) {
    if (misfit_.empty()) {
      std::vector<std::string> factors;
      for (const std::string& name : monomial) {
        if (name != unknown) factors.push_back(fmt::format("{} = {}", name, values_.at(name)));
      }
      misfit_ = factors.empty()
                    ? fmt::format("{} would be {}", unknown, value)
                    : fmt::format("{} = {}, and {} does not divide it", fmt::join(monomial, " * "),
                                  value, fmt::join(factors, ", "));
    }
    return false;
  }
  values_[unknown] = value / known;
  return true;
}

/// One round: the products with what is known put in are unknowns of a linear system.
bool SizeSystem::eliminate() {
  std::map<Monomial, std::size_t> columns;
  std::vector<std::pair<std::map<Monomial, std::int64_t>, std::int64_t>> reduced;
  for (const auto& [left, right] : equations_) {
    std::map<Monomial, std::int64_t> rest;
    std::int64_t value = right;
    for (const auto& [monomial, factor] : left) {
      std::int64_t coefficient = factor;
      Monomial unknown;
      for (const std::string& name : monomial) {
        const auto found = values_.find(name);
        if (found == values_.end()) {
          unknown.push_back(name);
        } else {
          coefficient *= found->second;
        }
      }
      if (unknown.empty()) {
        value -= coefficient;
      } else if (coefficient != 0) {
        rest[unknown] += coefficient;
      }
    }
    std::erase_if(rest, [](const auto& term) { return term.second == 0; });
    if (rest.empty()) continue;
    for (const auto& [monomial, factor] : rest) columns.emplace(monomial, 0);
    reduced.emplace_back(std::move(rest), value);
  }
  std::size_t next = 0;
  for (auto& [monomial, column] : columns) column = next++;

  std::vector<Row> rows;
  for (const auto& [terms, value] : reduced) {
    Row row(columns.size() + 1);
    for (const auto& [monomial, factor] : terms) row[columns.at(monomial)] = factor;
    row.back() = value;
    if (reduce(row)) rows.push_back(std::move(row));
  }
  std::size_t done = 0;
  for (std::size_t column = 0; column < columns.size() && done < rows.size(); ++column) {
    const auto pivot = std::find_if(rows.begin() + static_cast<std::ptrdiff_t>(done), rows.end(),
                                    [&](const Row& row) { return row[column] != 0; });
    if (pivot == rows.end()) continue;
    std::swap(rows[done], *pivot);
    const Row by = rows[done];
    for (std::size_t r = 0; r < rows.size(); ++r) {
      if (r == done || rows[r][column] == 0) continue;
      Row kept = rows[r];
      if (!cancel(rows[r], by, column)) rows[r] = std::move(kept);
    }
    ++done;
  }

  bool learnt = false;
  for (const auto& [monomial, column] : columns) {
    for (const Row& row : rows) {
      if (row[column] == 0) continue;
      const auto others =
          std::count_if(row.begin(), row.end() - 1, [](std::int64_t entry) { return entry != 0; });
      if (others != 1) continue;
      if (row.back() % row[column] == 0) {
        learnt = learn(monomial, row.back() / row[column]) || learnt;
      } else if (misfit_.empty()) {
        const bool flips = row[column] < 0;
        misfit_ = fmt::format("{} would be {} / {}", fmt::join(monomial, " * "),
                              flips ? -row.back() : row.back(), std::abs(row[column]));
      }
    }
  }
  return learnt;
}

std::optional<std::int64_t> SizeSystem::value(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::int64_t> SizeSystem::value(const Polynomial& polynomial) const {
  std::int64_t sum = 0;
  for (const auto& [monomial, factor] : polynomial) {
    Wide product = factor;
    for (const std::string& name : monomial) {
      const auto found = values_.find(name);
      if (found == values_.end()) return std::nullopt;
      product *= found->second;
      if (product > INT64_MAX || product < -INT64_MAX) return std::nullopt;
    }
    sum += static_cast<std::int64_t>(product);
  }
  return sum;
}

std::set<std::string> SizeSystem::unknowns() const {
  std::set<std::string> names;
  for (const auto& [left, right] : equations_) {
    for (const auto& [monomial, factor] : left) {
      for (const std::string& name : monomial) {
        if (!values_.contains(name)) names.insert(name);
      }
    }
  }
  return names;
}

}  // namespace icd
