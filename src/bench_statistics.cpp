#include "icd/bench_statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "icd/error.h"
#include "icd/random.h"

namespace icd {
namespace {

// Of values that may be re-ordered. sqrt, unlike log and exp, is the same on every machine.
double geometric_median(std::vector<double>& values) {
  const std::size_t half = values.size() / 2;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(half);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return std::sqrt(*middle * *std::max_element(values.begin(), middle));
}

}  // namespace

double median(std::span<const double> samples) {
  if (samples.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const std::size_t half = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}

PairedRatio paired_ratio(std::span<const double> baseline, std::span<const double> contender,
                         const RatioOptions& options) {
  const std::size_t rounds = baseline.size();
  if (rounds == 0 || contender.size() != rounds) {
    throw Error(ErrorCode::usage, "samples: " + std::to_string(rounds) + " and " +
                                      std::to_string(contender.size()) +
                                      " rounds, expected the same number and at least one");
  }
  std::vector<double> ratios(rounds);
  for (std::size_t i = 0; i < rounds; ++i) {
    if (!(baseline[i] > 0) || !(contender[i] > 0)) {
      throw Error(ErrorCode::usage, "samples: round " + std::to_string(i) + " has " +
                                        std::to_string(baseline[i]) + " and " +
                                        std::to_string(contender[i]) + ", expected times above 0");
    }
    ratios[i] = contender[i] / baseline[i];
  }
  std::vector<double> drawn = ratios;
  PairedRatio result;
  result.median = geometric_median(drawn);

  Random random(options.seed);
  std::vector<double> medians(static_cast<std::size_t>(options.resamples));
  std::int64_t above = 0;
  std::int64_t below = 0;
  for (double& resampled : medians) {
    for (double& ratio : drawn) ratio = ratios[random.below(rounds)];
    resampled = geometric_median(drawn);
    above += resampled >= 1 + options.margin;
    below += resampled <= 1 / (1 + options.margin);
  }
  std::sort(medians.begin(), medians.end());
  // (1 - c) / 2 of the resamples lie outside on either side
  const auto outside = std::min(
      static_cast<std::size_t>((1 - options.confidence) / 2 * static_cast<double>(medians.size())),
      (medians.size() - 1) / 2);
  result.low = medians[outside];
  result.high = medians[medians.size() - 1 - outside];
  result.p_equivalent =
      static_cast<double>(std::max(above, below) + 1) / static_cast<double>(medians.size() + 1);
  return result;
}

double noise_bar(const PairedRatio& placebo) noexcept {
  return std::max(placebo.high - 1, 1 - placebo.low);
}

std::string_view to_string(Verdict verdict) noexcept {
  switch (verdict) {
    case Verdict::no_effect:
      return "no effect";
    case Verdict::faster:
      return "faster";
    case Verdict::slower:
      return "slower";
    case Verdict::inconclusive:
      break;
  }
  return "inconclusive";
}

Verdict verdict_of(const PairedRatio& ratio, double bar) noexcept {
  if (ratio.high < 1 - bar) return Verdict::faster;
  if (ratio.low > 1 + bar) return Verdict::slower;
  const bool is_equivalent = ratio.p_equivalent < 0.05;
  const bool is_within = ratio.low >= 1 - bar && ratio.high <= 1 + bar;
  return is_equivalent || is_within ? Verdict::no_effect : Verdict::inconclusive;
}

}  // namespace icd
