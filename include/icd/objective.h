#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "icd/axis_facts.h"
#include "icd/problem.h"

namespace icd {

/// How much a weight counts.
enum class Saliency {
  magnitude,  ///< |w|
  wanda,      ///< |w| * root mean square of its input; |w| where that is not known
  ria,        ///< (|w| / sum of its column + |w| / sum of its row) * sqrt(rms of its input)
};

/// What the objectives can be told; each reads its own.
struct ObjectiveOptions {
  Index block = 64;  ///< members in a block, tile or cache line, >= 1
  double gamma = 1;  ///< resolution of modularity and communities
  Index kept = 2;    ///< N of N:M
  Index of = 4;      ///< M of N:M, <= 16
  Saliency saliency = Saliency::wanda;
  std::string_view format = "int4";  ///< of quant: `icd objectives` lists them
  Index group = 0;                   ///< members that share a scale; 0: the format's own
};

/// The facts that an objective reads. It cannot do without those it says, except `inputs`, which
/// are used where they are known.
struct Needs {
  bool graph = false;
  bool readers = false;
  bool inputs = false;  ///< Reader::input_square
  bool signal = false;  ///< square, minimum and maximum of the axis' signal
  bool decay = false;
  bool activity = false;

  bool activations() const noexcept { return signal || decay || activity; }
};

/// Which of ObjectiveOptions an objective reads, beside block.
struct Takes {
  bool gamma = false;
  bool pattern = false;  ///< kept, of and saliency
  bool format = false;   ///< format and group
};

/// A reason to prefer one order to another, as a row of a table.
struct Objective {
  std::string_view name;     ///< what follows --objective
  std::string_view summary;  ///< its line in `icd objectives`
  Direction direction;
  double perfect;         ///< a score that no order can better
  std::string_view unit;  ///< of the score: "share of the weight", ...
  Needs needs;
  Takes takes;
  Index block;              ///< of ObjectiveOptions, unless told otherwise; 0: reads none
  std::string_view solver;  ///< what `--solver auto` takes
  std::string_view source;  ///< the literature it is defined in
  bool alters_result;       ///< does what follows keep or fetch something else? Else: no gain
  std::string_view buys;    ///< what a better score is good for, in plain words

  /// The objective on one axis. The facts have to outlive the problem.
  /// Throws Error{usage} for options that do not fit, Error{input} for facts that are missing.
  std::unique_ptr<Problem> (*problem)(const AxisFacts& facts, const ObjectiveOptions& options);
};

/// Every objective, in the order of `icd objectives`.
std::span<const Objective> all_objectives();

/// nullptr if there is none of that name.
const Objective* find_objective(std::string_view name) noexcept;

/// The options that an objective reads, by the names of the command line: {"pattern", "2:4"}.
std::map<std::string, std::string> options_in_words(const Objective& objective,
                                                    const ObjectiveOptions& options);

// One file an objective, objective_NAME.cpp; the table is in objective.cpp.
std::unique_ptr<Problem> modularity_problem(const AxisFacts& facts,
                                            const ObjectiveOptions& options);
std::unique_ptr<Problem> communities_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options);
std::unique_ptr<Problem> intra_block_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options);
std::unique_ptr<Problem> arrangement_problem(const AxisFacts& facts,
                                             const ObjectiveOptions& options);
std::unique_ptr<Problem> icd_j_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> nm_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> quant_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> ranges_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> timescale_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> importance_problem(const AxisFacts& facts,
                                            const ObjectiveOptions& options);
std::unique_ptr<Problem> act_order_problem(const AxisFacts& facts, const ObjectiveOptions& options);
std::unique_ptr<Problem> block_skip_problem(const AxisFacts& facts,
                                            const ObjectiveOptions& options);

}  // namespace icd
