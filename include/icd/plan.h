#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "icd/layout.h"
#include "icd/permutation.h"

namespace icd {

/// The name and checksum of one file.
struct FileDigest {
  std::string name;
  std::int64_t bytes = 0;
  std::string sha256;  ///< empty when digests were switched off

  friend bool operator==(const FileDigest&, const FileDigest&) = default;
};

/// What an order scores, before and after.
struct GroupScore {
  std::string group;
  std::string objective;
  double calibration_before = 0;
  double calibration_after = 0;
  std::optional<double> heldout_before = {};  ///< absent without held-out data
  std::optional<double> heldout_after = {};
};

/// An order for each of some axis groups, and what it was made for. plan.json.
struct Plan {
  std::string architecture;                            ///< the layout's name
  std::map<std::string, Index, std::less<>> settings;  ///< sizes that it had to be told
  std::string structure;                       ///< Checkpoint::structure_digest() of the model
  std::vector<FileDigest> sources;             ///< the weight files; empty if never hashed
  std::string objective;                       ///< "modularity", ...
  std::map<std::string, std::string> options;  ///< of the objective: {"pattern", "2:4"}
  std::string solver;
  std::string evidence;  ///< what the order was solved on, in words
  std::uint64_t seed = 0;
  std::map<std::string, Permutation> groups;  ///< by group name
  std::vector<GroupScore> scores;

  /// Throws Error{input} if the file is not a plan: what, where, in one line.
  static Plan read(const std::filesystem::path& file);

  /// The file's text: the same plan gives the same bytes.
  std::string text() const;

  /// What a checkpoint has to be taken for to be the plan's.
  LayoutRequest request() const { return {.name = architecture, .settings = settings}; }
};

/// One plan of several for the same model, each with the name that errors call it by. What they
/// differ in (objective, solver, evidence) is joined in words; seed and options are the first's.
/// Throws Error{input} naming both if they were made for different models or files, or give a
/// group different orders; Error{usage} for no plans.
Plan merged(const std::vector<std::pair<std::string, Plan>>& parts);

/// Refuses a plan made for another model: Error{input} if the structure differs, if a
/// group is not in the layout or has another size.
void check_plan(const Plan& plan, const Checkpoint& checkpoint, const Layout& layout);

}  // namespace icd
