#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "icd/permutation.h"

namespace icd {

// The tables of src/layouts/*.layout, as they are written; src/layouts/README.md explains them.

struct AxisSum;

/// One factor of a product: a space or a size by name, a number, or a sum in brackets.
struct AxisFactor {
  enum class Kind { number, name, sum, mirror };
  Kind kind = Kind::name;
  Index number = 0;
  std::string name;          ///< of name and mirror: the space
  std::string side;          ///< of mirror: the space of the two ends of a pair, if there is one
  std::vector<AxisSum> sum;  ///< of sum: one
};

/// Entries in row-major order of the factors.
struct AxisProduct {
  std::vector<AxisFactor> factors;
};

/// Stretches of an axis, one after the other. "any" alone is an axis of any length.
struct AxisSum {
  std::vector<AxisProduct> terms;

  bool is_any() const {
    return terms.size() == 1 && terms[0].factors.size() == 1 && terms[0].factors[0].name == "any";
  }
};

/// A space of free order, one for each value of the indexes in `per`; or, if it is fixed, an
/// index whose values stay where they are.
struct SpaceRow {
  bool fixed = false;
  std::string kind;
  std::vector<std::string> per;
  AxisProduct size;
};

/// One tensor, or one for each index in its name.
struct TensorRow {
  enum class Presence { always, either, flagged, unless_flagged };
  std::vector<std::string> names;  ///< alternatives; "^" begins a name above the base
  std::vector<AxisSum> index;      ///< what "{}" in the names counts; one or none
  std::string role;
  Presence presence = Presence::always;
  std::string flag;
  bool carried = false;                      ///< known, and on no axis that moves: any shape
  std::vector<std::vector<AxisSum>> shapes;  ///< alternatives; an entry an axis
  std::vector<std::string> texts;            ///< of the alternatives, for messages
};

/// name = sum: a relation between sizes.
struct SizeRow {
  std::string name;
  AxisSum sum;
};

/// A value for a size, a flag or a number of a part: a literal, a size, or keys of config.json.
struct GivenRow {
  std::string name;
  std::vector<std::string> keys;  ///< dotted; the first that is there
  std::string fallback;           ///< without any of them; may be empty
};

/// A key of config.json that is there, is one of some values, or is not there or none of them.
struct ConditionRow {
  bool negated = false;
  bool of_tensors = false;  ///< `key` is the end of a tensor's name
  std::string key;
  std::vector<std::string> values;
};

struct ScopeTable;

/// The tensors that begin with a prefix, once for each index that is there.
struct EachRow {
  std::string prefix;  ///< with one "{name}"
  std::string with;    ///< only where this tensor is, too
  std::string cycle;   ///< an index that counts the instances modulo `modulus`
  std::string modulus;
  std::vector<ScopeTable> scope;  ///< one
};

/// A block of the table of blocks, where a prefix has its tensors.
struct PartRow {
  std::string type;
  std::string prefix;
  std::string shown;  ///< in the names of its groups
  std::vector<ConditionRow> conditions;
  std::vector<GivenRow> given;
};

/// hidden += blocks(norm(hidden)).
struct StepRow {
  std::string norm;
  std::vector<std::string> prefixes;
};

/// What may stand in a block, a layout or an `each`, in its order.
struct ScopeTable {
  std::vector<SpaceRow> spaces;
  std::vector<SizeRow> sizes;
  std::vector<TensorRow> tensors;
  std::vector<EachRow> eaches;
  std::vector<PartRow> parts;
  std::vector<StepRow> steps;
  std::vector<GivenRow> given;
};

struct BlockTable {
  std::string type;
  std::vector<std::string> ports;  ///< sizes that the layout binds to spaces of its own
  std::string anchor;              ///< the tensor that it is known by
  bool anywhere = false;           ///< found by its tensors alone
  std::vector<std::string> without;
  ScopeTable scope;
};

struct LayoutTable {
  std::string name;
  std::string dialect;
  std::vector<std::vector<ConditionRow>> when;  ///< all of one of them
  std::string root;                             ///< a tensor that shows where names begin
  ScopeTable scope;
  std::map<std::string, std::string> wiring;  ///< embedding, norm, head -> tensor names
  std::vector<GivenRow> numbers;              ///< of the wiring
};

/// Not Mamba, whatever its tensors are called.
struct LookAlike {
  std::vector<std::string> model_types;
  std::string tensor;  ///< the end of the name of one that gives it away
  std::string words;
};

struct LayoutTables {
  std::vector<BlockTable> blocks;
  std::vector<LayoutTable> layouts;
  std::vector<LookAlike> look_alikes;

  const BlockTable* block(std::string_view type) const noexcept;
};

/// Throws Error{input} "name, line 12: ..." for text that is no table.
void parse_layout_tables(std::string_view text, std::string_view name, LayoutTables& tables);

/// One factor of an axis. Throws Error{input} for text that is none.
AxisFactor parse_axis_factor(std::string_view text);

/// All of src/layouts, parsed.
const LayoutTables& built_in_layout_tables();

}  // namespace icd
