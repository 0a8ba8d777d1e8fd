#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace icd {

/// The middle one, or the mean of the middle two. NaN for no samples.
double median(std::span<const double> samples);

/// What "no effect" means, set before any record was made: 1.000 +- 0.005, which is how closely a
/// dense scan on an H200 kept its time in any order. Intervals of small kernels get a tenth as
/// wide, and orders that differ by less than this are of no use to anybody.
inline constexpr double kNoEffect = 0.005;

struct RatioOptions {
  double confidence = 0.95;
  double margin = kNoEffect;  ///< ratios from 1 / (1 + margin) to 1 + margin are as good as 1
  int resamples = 2000;
  std::uint64_t seed = 0;
};

/// What rounds say of contender / baseline.
struct PairedRatio {
  double median = 1;  ///< of the ratios of the rounds
  double low = 1;     ///< bootstrap interval of that median, with the confidence asked for
  double high = 1;

  /// Two one-sided tests that the median lies within the margin, on the logarithms of the ratios:
  /// the larger of the two p, from the same resamples.
  double p_equivalent = 1;
};

/// Compares samples taken in rounds: baseline[i] and contender[i] in round i, all > 0. With an even
/// number of rounds the median is the geometric mean of the middle two, so that the inverse ratio
/// has the inverse median. The interval is the percentile bootstrap over rounds; the same seed
/// gives the same bits.
/// Throws Error{usage} for no rounds, different numbers of them or a sample that is not positive.
///
/// Cost: O(rounds * resamples). Sources: B. Efron, "Bootstrap methods", 1979; D. J. Schuirmann,
/// "A comparison of the two one-sided tests procedure", 1987.
PairedRatio paired_ratio(std::span<const double> baseline, std::span<const double> contender,
                         const RatioOptions& options = {});

/// The same for two runs at different times, of which no rounds belong together: median of
/// `contender` / median of `baseline`, resampled independently. What the machine did meanwhile is
/// in the ratio, and not in the interval.
PairedRatio ratio_of_runs(std::span<const double> baseline, std::span<const double> contender,
                          const RatioOptions& options = {});

/// A/A: how far from 1 the interval of a contender reaches that is the baseline once more.
double noise_of(const PairedRatio& placebo) noexcept;

/// What an interval has to be farther from 1 than to say anything: the noise, but never less than
/// what counts as no effect.
double bar_of(double noise) noexcept;

enum class Verdict { no_effect, faster, slower, inconclusive };
std::string_view to_string(Verdict verdict) noexcept;

/// faster and slower: the whole interval is farther from 1 than the bar. Else no_effect if the
/// ratio is equivalent to 1, within the margin that it was made with, at p < 0.05; else
/// inconclusive.
Verdict verdict_of(const PairedRatio& ratio, double bar) noexcept;

}  // namespace icd
