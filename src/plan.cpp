#include "icd/plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "icd/error.h"
#include "icd/version.h"
#include "json.h"
#include "mapped_file.h"

namespace icd {
namespace {

constexpr std::string_view kSchema = "icd.plan/1";
constexpr std::int64_t kMaxPlanBytes = 256 << 20;  // 64 layers of 5,120 channels are 2 MB

Permutation order_of(const Json& list, const std::string& group, const std::string& file) {
  const auto refuse = [&](const std::string& reason) {
    throw Error(ErrorCode::input, fmt::format("{}: group '{}': {}", file, group, reason));
  };
  if (!list.is_array()) refuse(fmt::format("is of type {}, expected an array", list.type_name()));
  std::vector<Index> source;
  source.reserve(list.size());
  for (const Json& entry : list) {
    // An unsigned value beyond int64 would wrap; the bound below catches it before.
    const bool fits =
        entry.is_number_unsigned() &&
        entry.get<std::uint64_t>() <= std::uint64_t{std::numeric_limits<Index>::max()};
    if (!fits) {
      refuse(fmt::format("entry {} is not a whole number from 0 to {}", source.size(),
                         std::numeric_limits<Index>::max()));
    }
    source.push_back(entry.get<Index>());
  }
  try {
    return Permutation::from_gather(std::move(source));
  } catch (const Error& error) {
    refuse(error.what());
  }
  return {};
}

GroupScore score_of(const Json& row, const std::string& file) {
  const Json& calibration = object_at(row, "calibration", file);
  GroupScore score{.group = text_at(row, "group", file),
                   .objective = text_at(row, "objective", file),
                   .calibration_before = number_at(calibration, "before", file),
                   .calibration_after = number_at(calibration, "after", file)};
  if (row.contains("heldout")) {
    const Json& heldout = object_at(row, "heldout", file);
    score.heldout_before = number_at(heldout, "before", file);
    score.heldout_after = number_at(heldout, "after", file);
  }
  return score;
}

template <typename Pair>
Json pair_of(const Pair& before, const Pair& after) {
  return {{"before", before}, {"after", after}};
}

}  // namespace

Plan Plan::read(const std::filesystem::path& path) {
  const std::string file = path.filename().string();
  const Json document = parse_json(read_text(path, kMaxPlanBytes), file);
  if (!document.is_object()) {
    throw Error(ErrorCode::input, fmt::format("{}: is not a JSON object", file));
  }
  if (const std::string schema = text_at(document, "schema", file); schema != kSchema) {
    throw Error(ErrorCode::input,
                fmt::format("{}: schema is '{}', expected '{}'", file, schema, kSchema));
  }
  if (const std::string form = text_at(document, "form", file); form != "gather") {
    throw Error(ErrorCode::input, fmt::format("{}: form is '{}', expected 'gather'", file, form));
  }

  Plan plan;
  const Json& model = object_at(document, "made_for", file);
  plan.architecture = text_at(model, "architecture", file);
  if (model.contains("settings")) {
    for (const auto& [name, value] : object_at(model, "settings", file).items()) {
      const std::int64_t size = integer_at(model["settings"], name, file);
      if (size < 0 || size > std::numeric_limits<Index>::max()) {
        throw Error(ErrorCode::input,
                    fmt::format("{}: setting '{}' is {}, expected 0 or more", file, name, size));
      }
      plan.settings.emplace(name, static_cast<Index>(size));
    }
  }
  plan.structure = text_at(model, "structure", file);
  for (const Json& entry : array_at(model, "files", file)) {
    plan.sources.push_back({.name = text_at(entry, "name", file),
                            .bytes = integer_at(entry, "bytes", file),
                            .sha256 = text_at(entry, "sha256", file)});
  }
  plan.objective = text_at(document, "objective", file);
  plan.solver = text_at(document, "solver", file);
  plan.evidence = text_at(document, document.contains("graph") ? "graph" : "evidence", file);
  plan.seed = static_cast<std::uint64_t>(integer_at(document, "seed", file));
  if (document.contains("options")) {
    for (const auto& [name, value] : object_at(document, "options", file).items()) {
      plan.options.emplace(name, text_at(document["options"], name, file));
    }
  }
  for (const Json& row : array_at(document, "scores", file)) {
    if (!row.is_object()) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: scores hold a {}, expected objects", file, row.type_name()));
    }
    plan.scores.push_back(score_of(row, file));
  }
  for (const auto& [group, list] : object_at(document, "groups", file).items()) {
    plan.groups.emplace(group, order_of(list, group, file));
  }
  return plan;
}

std::string Plan::text() const {
  Json files = Json::array();
  for (const FileDigest& source : sources) {
    files.push_back({{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  }
  Json scored = Json::array();
  for (const GroupScore& score : scores) {
    Json row = {{"group", score.group},
                {"objective", score.objective},
                {"calibration", pair_of(score.calibration_before, score.calibration_after)}};
    if (score.heldout_before) row["heldout"] = pair_of(*score.heldout_before, *score.heldout_after);
    scored.push_back(std::move(row));
  }
  Json made_for = {{"architecture", architecture}};
  if (!settings.empty()) made_for["settings"] = settings;
  made_for["structure"] = structure;
  made_for["files"] = std::move(files);
  const Json head = {
      {"schema", kSchema},    {"icd", version()},
      {"form", "gather"},     {"made_for", std::move(made_for)},
      {"evidence", evidence}, {"objective", objective},
      {"options", options},   {"solver", solver},
      {"seed", seed},         {"scores", std::move(scored)},
  };
  // The orders, a line each: a plan is read by people and compared by diff.
  std::string text = head.dump(2);
  text.resize(text.size() - 2);  // the closing "\n}"
  text += ",\n  \"groups\": {";
  const char* separator = "\n";
  for (const auto& [group, order] : groups) {
    text +=
        fmt::format("{}    {}: {}", separator, Json(group).dump(),
                    Json(std::vector<Index>(order.gather().begin(), order.gather().end())).dump());
    separator = ",\n";
  }
  return text + "\n  }\n}\n";
}

namespace {

constexpr std::string_view kAnd = " + ";

std::vector<std::string> parts_of(std::string_view words) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t end = words.find(kAnd);
    parts.emplace_back(words.substr(0, end));
    if (end == std::string_view::npos) return parts;
    words.remove_prefix(end + kAnd.size());
  }
}

/// "nm + quant": adds what is not yet there.
void join_words(std::string& words, const std::string& more) {
  std::vector<std::string> parts = parts_of(words);
  for (std::string& part : parts_of(more)) {
    if (std::find(parts.begin(), parts.end(), part) == parts.end()) parts.push_back(part);
  }
  words = fmt::format("{}", fmt::join(parts, kAnd));
}

}  // namespace

Plan merged(const std::vector<std::pair<std::string, Plan>>& parts) {
  if (parts.empty()) throw Error(ErrorCode::usage, "plan merge: no plans, expected at least one");
  const auto& [first_name, first] = parts.front();
  Plan plan = first;
  std::map<std::string, const std::string*> owner;
  for (const auto& [name, part] : parts) {
    if (part.architecture != plan.architecture || part.structure != plan.structure ||
        part.settings != plan.settings) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: was made for a {} of structure {:.12}, {} for a {} of {:.12}",
                              name, part.architecture, part.structure, first_name,
                              plan.architecture, plan.structure));
    }
    if (part.sources != plan.sources) {
      throw Error(ErrorCode::input,
                  fmt::format("{}: was made for other weight files than {}", name, first_name));
    }
    for (const auto& [group, order] : part.groups) {
      const auto [place, is_new] = owner.emplace(group, &name);
      if (!is_new && plan.groups.at(group) != order) {
        throw Error(ErrorCode::input, fmt::format("group '{}': has different orders in {} and {}",
                                                  group, *place->second, name));
      }
      plan.groups.insert_or_assign(group, order);
    }
    join_words(plan.objective, part.objective);
    join_words(plan.solver, part.solver);
    join_words(plan.evidence, part.evidence);
    if (&part == &first) continue;
    for (const GroupScore& score : part.scores) {
      const bool is_there =
          std::any_of(plan.scores.begin(), plan.scores.end(), [&](const GroupScore& known) {
            return known.group == score.group && known.objective == score.objective;
          });
      if (!is_there) plan.scores.push_back(score);
    }
  }
  return plan;
}

void check_plan(const Plan& plan, const Checkpoint& checkpoint, const Layout& layout) {
  if (plan.architecture != layout.name) {
    throw Error(ErrorCode::input,
                fmt::format("plan: was made for layout '{}', this checkpoint was "
                            "taken for '{}'",
                            plan.architecture, layout.name),
                fmt::format("--layout {}", plan.architecture));
  }
  if (plan.structure != checkpoint.structure_digest()) {
    throw Error(
        ErrorCode::input,
        fmt::format("plan: was made for a checkpoint of structure {:.12}, this one's is {:.12}",
                    plan.structure, checkpoint.structure_digest()),
        "names, dtypes and shapes of the tensors have to be those the plan was made for");
  }
  for (const auto& [name, order] : plan.groups) {
    const AxisGroup* group = layout.find(name);
    if (group == nullptr) {
      throw Error(ErrorCode::input, fmt::format("plan: group '{}' is not one of this model", name),
                  "`icd inspect` lists the groups");
    }
    if (order.size() != group->size) {
      throw Error(ErrorCode::input,
                  fmt::format("plan: group '{}' orders {} things, the model has {}", name,
                              order.size(), group->size));
    }
  }
}

}  // namespace icd
