#include "layout_scope.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <limits>

#include "icd/error.h"

namespace icd {
namespace {

/// The size of a space or of a name, as an unknown of the scope that asks, or as a number if
/// it is of a scope further out, where everything is known.
Polynomial named(const std::string& name, Scope& scope, const Scope& asks) {
  const Space space = space_named(scope, name);
  if (space.row != nullptr) {
    if (space.home->sizes == asks.sizes) return of_sizes(space.row->size);
    return {{{}, size_of(space)}};
  }
  if (scope.sizes != asks.sizes) {
    if (const auto size = scope.sizes->value(name)) return {{{}, *size}};
  }
  return {{{name}, 1}};
}

}  // namespace

Space space_named(Scope& scope, const std::string& name) {
  for (Scope* at = &scope; at != nullptr; at = at->parent) {
    for (const SpaceRow& row : at->table->spaces) {
      if (row.kind == name) return {&row, at};
    }
    if (at->is_part) return {};
  }
  return {};
}

std::pair<const AxisFactor*, Scope*> meant(const AxisFactor& factor, Scope& scope) {
  if (factor.kind == AxisFactor::Kind::name) {
    Scope* part = &scope;
    while (part != nullptr && !part->is_part) part = part->parent;
    if (part != nullptr && part->parent != nullptr) {
      if (const auto port = part->ports.find(factor.name); port != part->ports.end()) {
        return meant(port->second, *part->parent);
      }
    }
  }
  return {&factor, &scope};
}

Polynomial polynomial(const AxisFactor& written, Scope& where) {
  const auto [factor, scope] = meant(written, where);
  switch (factor->kind) {
    case AxisFactor::Kind::number:
      return {{{}, factor->number}};
    case AxisFactor::Kind::sum:
      return polynomial(factor->sum.front(), *scope);
    case AxisFactor::Kind::mirror:
      return Polynomial{{{}, 2}} * named(factor->name, *scope, where);
    case AxisFactor::Kind::name:
      break;
  }
  return named(factor->name, *scope, where);
}

Polynomial of_sizes(const AxisProduct& product) {
  Polynomial result = {{{}, 1}};
  for (const AxisFactor& factor : product.factors) {
    const bool is_number = factor.kind == AxisFactor::Kind::number;
    result =
        result * (is_number ? Polynomial{{{}, factor.number}} : Polynomial{{{factor.name}, 1}});
  }
  return result;
}

Polynomial polynomial(const AxisProduct& product, Scope& scope) {
  Polynomial result = {{{}, 1}};
  for (const AxisFactor& factor : product.factors) result = result * polynomial(factor, scope);
  return result;
}

Polynomial polynomial(const AxisSum& sum, Scope& scope) {
  Polynomial result;
  for (const AxisProduct& term : sum.terms) result = result + polynomial(term, scope);
  return result;
}

Index length_of(const Polynomial& value, const SizeSystem& sizes) {
  const auto found = sizes.value(value);
  if (!found) {
    throw Error(ErrorCode::input,
                fmt::format("sizes: {} cannot be read from the shapes of the tensors",
                            fmt::join(sizes.unknowns(), ", ")),
                "--set NAME=N, or --config FILE with the model's config.json");
  }
  if (*found < 0 || *found > std::numeric_limits<Index>::max()) {
    throw Error(ErrorCode::input,
                fmt::format("sizes: they make an axis of {} entries, expected at most {}", *found,
                            std::numeric_limits<Index>::max()));
  }
  return static_cast<Index>(*found);
}

Index size_of(const Space& space) {
  return length_of(of_sizes(space.row->size), *space.home->sizes);
}

std::string indexed(const std::string& name, Index index) {
  std::string text = name;
  if (const auto at = text.find("{}"); at != std::string::npos) {
    text.replace(at, 2, std::to_string(index));
  }
  return text;
}

}  // namespace icd
