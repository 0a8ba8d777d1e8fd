#pragma once

#include <map>
#include <string>
#include <utility>

#include "layout_table.h"
#include "size_system.h"

namespace icd {

/// A block or a layout where its tensors are: names begin with `prefix`, spaces are its own.
struct Scope {
  const ScopeTable* table = nullptr;
  Scope* parent = nullptr;
  bool is_part = false;  ///< names of spaces are not looked up further out, but through ports
  int id = 0;            ///< two scopes of one id are one: the second holds the same bytes again
  std::string prefix;
  std::string shown;  ///< before "/kind" in the names of groups
  Index layer = -1;
  SizeSystem* sizes = nullptr;
  std::map<std::string, AxisFactor> ports;            ///< to what stands in the parent
  std::map<std::string, std::pair<Index, Index>> at;  ///< index -> its value, of how many
  std::map<std::string, bool> flags;
};

/// A space by the scope that declares it.
struct Space {
  const SpaceRow* row = nullptr;
  Scope* home = nullptr;
};

/// The space that a name means in a scope, without what is beyond the part; no row if it means
/// none.
Space space_named(Scope& scope, const std::string& name);

/// A factor where it is meant: a port stands for something of the scope around the part.
std::pair<const AxisFactor*, Scope*> meant(const AxisFactor& factor, Scope& scope);

/// Lengths in unknowns of the scope's sizes; sizes of scopes further out are numbers.
Polynomial polynomial(const AxisFactor& factor, Scope& scope);
Polynomial polynomial(const AxisProduct& product, Scope& scope);
Polynomial polynomial(const AxisSum& sum, Scope& scope);

/// A product in which every name is a size, also where a space has the same.
Polynomial of_sizes(const AxisProduct& product);

/// Throws Error{input} for a length that is not known or does not fit.
Index length_of(const Polynomial& length, const SizeSystem& sizes);
Index size_of(const Space& space);

/// `name` with a number in place of "{}", if it has one.
std::string indexed(const std::string& name, Index index);

}  // namespace icd
