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

void check_samples(std::span<const double> samples) {
  if (samples.empty()) throw Error(ErrorCode::usage, "samples: there are none");
  for (std::size_t i = 0; i < samples.size(); ++i) {
    if (samples[i] > 0) continue;
    throw Error(ErrorCode::usage, "samples: round " + std::to_string(i) + " has " +
                                      std::to_string(samples[i]) + ", expected a time above 0");
  }
}

// What a ratio and its resamples, one for every call of `resample`, amount to.
template <typename Resample>
PairedRatio summary(double ratio, const RatioOptions& options, const Resample& resample) {
  std::vector<double> resamples(static_cast<std::size_t>(options.resamples));
  std::int64_t above = 0;
  std::int64_t below = 0;
  for (double& one : resamples) {
    one = resample();
    above += one >= 1 + options.margin;
    below += one <= 1 / (1 + options.margin);
  }
  std::sort(resamples.begin(), resamples.end());
  // (1 - confidence) / 2 of the resamples lie outside on either side
  const auto outside = std::min(static_cast<std::size_t>((1 - options.confidence) / 2 *
                                                         static_cast<double>(resamples.size())),
                                (resamples.size() - 1) / 2);
  return {.median = ratio,
          .low = resamples[outside],
          .high = resamples[resamples.size() - 1 - outside],
          .p_equivalent = static_cast<double>(std::max(above, below) + 1) /
                          static_cast<double>(resamples.size() + 1)};
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
  if (contender.size() != rounds) {
    throw Error(ErrorCode::usage, "samples: " + std::to_string(rounds) + " and " +
                                      std::to_string(contender.size()) +
                                      " rounds, expected the same number");
  }
  check_samples(baseline);
  check_samples(contender);
  std::vector<double> ratios(rounds);
  for (std::size_t i = 0; i < rounds; ++i) ratios[i] = contender[i] / baseline[i];
  std::vector<double> drawn = ratios;
  const double ratio = geometric_median(drawn);
  Random random(options.seed);
  return summary(ratio, options, [&] {
    for (double& one : drawn) one = ratios[random.below(rounds)];
    return geometric_median(drawn);
  });
}

PairedRatio ratio_of_runs(std::span<const double> baseline, std::span<const double> contender,
                          const RatioOptions& options) {
  check_samples(baseline);
  check_samples(contender);
  std::vector<double> below(baseline.begin(), baseline.end());
  std::vector<double> above(contender.begin(), contender.end());
  const double ratio = geometric_median(above) / geometric_median(below);
  Random random(options.seed);
  return summary(ratio, options, [&] {
    for (double& one : below) one = baseline[random.below(baseline.size())];
    for (double& one : above) one = contender[random.below(contender.size())];
    return geometric_median(above) / geometric_median(below);
  });
}

double noise_of(const PairedRatio& placebo) noexcept {
  return std::max(placebo.high - 1, 1 - placebo.low);
}

double bar_of(double noise) noexcept { return std::max(noise, kNoEffect); }

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
  return ratio.p_equivalent < 0.05 ? Verdict::no_effect : Verdict::inconclusive;
}

}  // namespace icd
