#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "icd/language_model.h"
#include "signals.h"

// Sums that a model keeps where it computes, on a device say, so that calibration need not copy
// every row. A model that can is a SumsMaker beside a LanguageModel; an observer that wants such
// sums is a SumsObserver.
namespace icd {

/// Sums over rows of n channels.
struct ChannelSums {
  std::int64_t rows = 0;
  std::vector<double> shift = {};     ///< (n): what values are taken relative to
  std::vector<double> sums = {};      ///< (n), of value - shift
  std::vector<double> squares = {};   ///< (n), of (value - shift)^2
  std::vector<float> minimum = {};    ///< (n), of values
  std::vector<float> maximum = {};    ///< (n)
  std::vector<double> products = {};  ///< (n, n), of value - shift; empty: not asked for
};

/// Adds up columns of a site; an observation of a member counts as a row.
class SiteSums {
 public:
  virtual ~SiteSums() = default;

  /// For the model that made it: `rows` rows, `stride` apart, where that model computes.
  virtual void add(const float* data, std::int64_t rows, std::int64_t stride,
                   const SiteColumns& columns) = 0;

  /// Everything that came.
  virtual ChannelSums finish() = 0;
};

class SumsMaker {
 public:
  virtual ~SumsMaker() = default;

  /// Is there room for sums with products of so many channels each, all at once?
  virtual bool has_room_for_sums(std::span<const Index> sizes) const = 0;

  /// Of n channels. The model has to outlive it. The same rows in the same calls give the same
  /// bits; products are right to about 1e-6 of what the squares of their channels add up to.
  virtual std::unique_ptr<SiteSums> sums(Index n, bool has_products) const = 0;
};

class SumsObserver : public Observer<float> {
 public:
  struct Measured {
    SiteSums* sums;
    const SiteColumns* columns;
  };

  /// Which sums the rows of a site are to be added to, whether or not it wants() the site.
  /// Throws Error{usage} if a site of so many channels has not all that is to be measured.
  virtual std::vector<Measured> measured(Site site, Index channels) const = 0;
};

}  // namespace icd
