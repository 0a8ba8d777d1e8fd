#include "icd/advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "evidence_batches.h"
#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

constexpr int kShuffles = 4;

/// What all objectives read together.
Needs needs_of(const std::vector<Aim>& aims, const EvidenceSource& source) {
  Needs all;
  for (const Aim& aim : aims) {
    const Needs& needs = aim.objective->needs;
    if (needs.activations() && !source.has_activations) continue;
    all.graph |= needs.graph;
    all.readers |= needs.readers;
    all.inputs |= needs.inputs;
    all.signal |= needs.signal;
    all.decay |= needs.decay;
    all.activity |= needs.activity;
  }
  return all;
}

/// The scores of one aim on one group.
struct Scores {
  MeanScore present;
  MeanScore random;
  MeanScore solved;
  std::string why_not = {};
};

/// Adds up scores, and at the end divides by their number.
class Mean {
 public:
  void add(const MeanScore& score) {
    sum_.calibration += score.calibration;
    if (score.heldout) sum_.heldout = sum_.heldout.value_or(0) + *score.heldout;
    ++count_;
  }

  MeanScore get() const {
    MeanScore mean = sum_;
    mean.calibration /= std::max(count_, 1);
    if (mean.heldout) *mean.heldout /= std::max(count_, 1);
    return mean;
  }

 private:
  MeanScore sum_;
  int count_ = 0;
};

Scores assess(const Aim& aim, const AxisGroup& group, const Evidence& evidence,
              const AdviceRequest& request) {
  const Objective& objective = *aim.objective;
  ObjectiveOptions options = request.options;
  if (options.block == 0) options.block = std::max<Index>(objective.block, 1);
  options = options_for(options, group.size);
  std::unique_ptr<Problem> calibration;
  try {
    calibration = objective.problem(evidence.calibration, options);
  } catch (const Error& error) {
    return {.present = {}, .random = {}, .solved = {}, .why_not = error.what()};
  }
  std::unique_ptr<Problem> heldout;
  if (evidence.heldout) heldout = objective.problem(*evidence.heldout, options);
  const auto score = [&](const Permutation& order) {
    MeanScore result{.calibration = calibration->score(order)};
    if (heldout) result.heldout = heldout->score(order);
    return result;
  };

  Mean random;
  for (int shuffle = 0; shuffle < kShuffles; ++shuffle) {
    Random stream = Random::derived(request.seed, static_cast<std::uint64_t>(shuffle));
    random.add(score(random_permutation(group.size, stream)));
  }
  return {.present = score(Permutation::identity(group.size)),
          .random = random.get(),
          .solved = score(aim.solver->solve(
              *calibration, {.seed = request.seed, .max_steps = request.max_steps}))};
}

}  // namespace

double Assessment::gap_closed() const noexcept {
  const double gap = objective->perfect - present.told();
  return gap != 0 ? (solved.told() - present.told()) / gap : 0;
}

Worth worth(const Assessment& assessment) noexcept {
  const double closed = assessment.gap_closed();
  if (!assessment.why_not.empty() || !assessment.objective->alters_result || closed < 0.01) {
    return Worth::nothing;
  }
  return closed < 0.05 ? Worth::little : Worth::yes;
}

std::string in_words(const Assessment& assessment) {
  if (!assessment.why_not.empty()) return fmt::format("not assessed: {}", assessment.why_not);
  if (!assessment.objective->alters_result) {
    return "no: nothing is kept, fetched or rounded otherwise";
  }
  const double percent = 100 * assessment.gap_closed();
  const std::string won = fmt::format("closes {:.1f} % of the gap to a perfect score", percent);
  switch (worth(assessment)) {
    case Worth::nothing:
      return percent > 0 ? "no: " + won : "no: it does not beat the order as it is";
    case Worth::little:
      return "a little: " + won;
    case Worth::yes:
      return "yes: " + won;
  }
  return "";
}

std::vector<Assessment> advise(const Checkpoint& checkpoint, const Layout& layout,
                               const AdviceRequest& request, const EvidenceSource& source,
                               Progress& progress) {
  const auto groups = groups_of(layout, request.kinds, request.layers);
  std::vector<Assessment> table;
  for (const Aim& aim : request.aims) {
    for (const std::string& kind : request.kinds) {
      table.push_back({.objective = aim.objective, .kind = kind});
    }
  }
  const auto row_of = [&](std::size_t aim, const std::string& kind) -> std::size_t {
    const auto place = std::find(request.kinds.begin(), request.kinds.end(), kind);
    return aim * request.kinds.size() + static_cast<std::size_t>(place - request.kinds.begin());
  };

  struct Sums {
    Mean present;
    Mean random;
    Mean solved;
  };
  std::vector<Sums> sums(table.size());
  const auto work = [&](const AxisGroup& group, const Evidence& evidence) {
    std::vector<Scores> scores;
    for (const Aim& aim : request.aims) {
      const std::string reason = why_not(*aim.objective, checkpoint, layout, group, source);
      scores.push_back(reason.empty()
                           ? assess(aim, group, evidence, request)
                           : Scores{.present = {}, .random = {}, .solved = {}, .why_not = reason});
    }
    return scores;
  };
  const auto take = [&](const AxisGroup& group, std::vector<Scores>&& found) {
    for (std::size_t aim = 0; aim < found.size(); ++aim) {
      const std::size_t row = row_of(aim, group.kind);
      const Scores& scores = found[aim];
      if (!scores.why_not.empty()) {
        table[row].why_not = scores.why_not;
        continue;
      }
      ++table[row].groups;
      sums[row].present.add(scores.present);
      sums[row].random.add(scores.random);
      sums[row].solved.add(scores.solved);
    }
  };
  const EvidenceRequest asked{.needs = needs_of(request.aims, source),
                              .signal = request.signal,
                              .graph = request.graph,
                              .active_share = request.active_share};
  for_each_evidence<std::vector<Scores>>(source, groups, asked, work, take, progress);
  for (std::size_t row = 0; row < table.size(); ++row) {
    table[row].present = sums[row].present.get();
    table[row].random = sums[row].random.get();
    table[row].solved = sums[row].solved.get();
    if (table[row].groups > 0) table[row].why_not.clear();
  }
  return table;
}

}  // namespace icd
