#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kernels/element.h"
#include "kernels/reference_math.h"

// Which channels of a scan may run in chunks that start cold, and how long before. Host arithmetic
// alone: burn_in.md says what it is for.
namespace icd::experiments {

constexpr std::int64_t kTileChannels = 32;
/// Chunks start at multiples of this many tokens.
constexpr std::int64_t kGrain = 4;
/// sum dt |A| over which a state shrinks to 2^-24 of itself.
inline const double kForgotten = 24 * std::log(2.0);

/// `chunks` overlapping sequences of chunk + burn_in tokens, `chunk` apart: all of the tokens. The
/// first burn_in outputs of all but the first are not used. One chunk: the whole sequence.
struct Cut {
  std::int64_t chunks = 1;
  std::int64_t chunk = 0;
  std::int64_t burn_in = 0;

  bool operator==(const Cut&) const = default;
  std::int64_t tokens() const { return chunk + burn_in; }
  /// The sequence whose output at token t is used.
  std::int64_t chunk_of(std::int64_t t) const {
    return t < burn_in ? 0 : std::min((t - burn_in) / chunk, chunks - 1);
  }
};

/// Neighbouring channels that run as one call.
struct ChannelRange {
  std::int64_t first;
  std::int64_t channels;
  Cut cut;

  bool operator==(const ChannelRange&) const = default;
  std::int64_t sequences() const { return cut.chunks * channels; }
};

/// How fast the channels of a sequence forget.
class Forgetting {
 public:
  /// `dt` is (length, bias.size()), bf16; `slowest` is the least |A| of a channel.
  Forgetting(std::int64_t length, std::span<const std::uint16_t> dt, std::span<const float> bias,
             std::span<const float> slowest)
      : length_(length), channels_(static_cast<std::int64_t>(bias.size())) {
    const std::int64_t row = length / kGrain + 1;
    sums_.resize(static_cast<std::size_t>(channels_ * row));
    const std::int64_t tiles = (channels_ + kTileChannels - 1) / kTileChannels;
    reference::each_row(tiles, [&](std::int64_t tile) {
      const std::int64_t first = tile * kTileChannels;
      const std::int64_t end = std::min(first + kTileChannels, channels_);
      std::vector<double> sums(static_cast<std::size_t>(end - first));
      for (std::int64_t t = 0; t <= length; ++t) {
        for (std::int64_t c = first; c < end; ++c) {
          double& sum = sums[static_cast<std::size_t>(c - first)];
          if (t % kGrain == 0) sums_[static_cast<std::size_t>(c * row + t / kGrain)] = sum;
          if (t == length) continue;
          const float x = from_bfloat(dt[static_cast<std::size_t>(t * channels_ + c)]) +
                          bias[static_cast<std::size_t>(c)];
          sum +=
              static_cast<double>(std::log1p(std::exp(x)) * slowest[static_cast<std::size_t>(c)]);
        }
      }
    });
  }

  std::int64_t length() const { return length_; }
  std::int64_t channels() const { return channels_; }

  /// Whether every state of these channels has been forgotten at every place where outputs of a
  /// chunk begin to be used.
  bool holds(std::int64_t first, std::int64_t channels, const Cut& cut) const {
    const std::int64_t row = length_ / kGrain + 1;
    for (std::int64_t c = first; c < first + channels; ++c) {
      const double* sums = &sums_[static_cast<std::size_t>(c * row)];
      for (std::int64_t k = 1; k < cut.chunks; ++k) {
        const std::int64_t from = k * cut.chunk / kGrain;
        if (sums[from + cut.burn_in / kGrain] - sums[from] < kForgotten) return false;
      }
    }
    return true;
  }

  /// The cut into `chunks` with the least burn-in, `least` at least, that holds; none if that adds
  /// more than half to the work.
  std::optional<Cut> cut(std::int64_t first, std::int64_t channels, std::int64_t chunks,
                         std::int64_t least = 0) const {
    for (std::int64_t chunk = (length_ - least) / chunks / kGrain * kGrain; chunk > 0;
         chunk -= kGrain) {
      const Cut cut = {chunks, chunk, length_ - chunks * chunk};
      if (2 * (chunks - 1) * cut.burn_in > length_) return std::nullopt;
      if (holds(first, channels, cut)) return cut;
    }
    return std::nullopt;
  }

 private:
  std::int64_t length_;
  std::int64_t channels_;
  std::vector<double> sums_;  // (channels, length / kGrain + 1) of dt |A| ahead of a token
};

/// Channels by calls: every tile in as many chunks as it may, no more than `most`; neighbours alike
/// in one call. More than `calls` of them are not worth starting: then all tiles are cut alike.
inline std::vector<ChannelRange> plan_of(const Forgetting& forgetting, std::int64_t most,
                                         std::size_t calls = 12) {
  const std::int64_t all = forgetting.channels();
  const auto cut_of = [&](std::int64_t first, std::int64_t channels) {
    for (std::int64_t chunks = most; chunks > 1; chunks /= 2) {
      if (const auto cut = forgetting.cut(first, channels, chunks)) return *cut;
    }
    return Cut{1, forgetting.length(), 0};
  };
  // Alike: as many chunks, and burn-ins that the same power of two is next to.
  const auto kind_of = [](const Cut& cut) {
    return std::pair(cut.chunks, cut.burn_in == 0 ? 0 : std::ilogb(cut.burn_in));
  };
  std::vector<ChannelRange> plan;
  for (std::int64_t first = 0; first < all; first += kTileChannels) {
    const std::int64_t channels = std::min(kTileChannels, all - first);
    const Cut cut = cut_of(first, channels);
    if (!plan.empty() && kind_of(plan.back().cut) == kind_of(cut)) {
      plan.back().channels += channels;
      if (cut.burn_in > plan.back().cut.burn_in) plan.back().cut = cut;
    } else {
      plan.push_back({first, channels, cut});
    }
  }
  for (ChannelRange& range : plan) {
    if (range.cut.chunks == 1) continue;
    // With another tile's burn-in chunks start elsewhere.
    const auto cut =
        forgetting.cut(range.first, range.channels, range.cut.chunks, range.cut.burn_in);
    range.cut = cut ? *cut : cut_of(range.first, range.channels);
  }
  if (plan.size() > calls) plan = {{0, all, cut_of(0, all)}};
  return plan;
}

/// Whether nothing is cut.
inline bool is_whole(const std::vector<ChannelRange>& plan) {
  return std::all_of(plan.begin(), plan.end(),
                     [](const ChannelRange& range) { return range.cut.chunks == 1; });
}

}  // namespace icd::experiments
