#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "aligned.h"
#include "facts_problem.h"
#include "icd/error.h"
#include "icd/objective.h"
#include "plain_search.h"
#include "readers.h"
#include "row_kernels.h"
#include "row_search.h"

// N:M sparsity keeps the N most salient of every M consecutive columns, row by row. Which columns
// are consecutive is free: an order is worth the saliency that stays, as a share of all of it.

namespace icd {
namespace {

constexpr Index kMostOf = 16;

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

std::string pattern_text(const ObjectiveOptions& options) {
  return fmt::format("--pattern {}:{}", options.kept, options.of);
}

/// Members in a block of M columns; all of them if the order of members changes no block.
Blocks blocks_of(const AxisFacts& facts, const ObjectiveOptions& options) {
  if (options.kept < 1 || options.kept >= options.of || options.of > kMostOf) {
    throw Error(ErrorCode::usage, fmt::format("{}: expected N:M with 1 <= N < M <= {}",
                                              pattern_text(options), kMostOf));
  }
  const Index run = columns_of_a_member(facts);
  if (const auto blocks = blocks_of_members(facts.size, options.of, run)) return *blocks;
  throw Error(ErrorCode::usage, fmt::format("{}: M is {}, expected a multiple or a divisor of the "
                                            "{} columns that a member has",
                                            pattern_text(options), options.of, run));
}

/// How salient every weight of all readers is, a column after the other: (columns, rows), the
/// rows of all readers one below the other, padded with zeros to a multiple of kRowGroup.
class Saliencies {
 public:
  Saliencies(const AxisFacts& facts, Saliency saliency, Index columns);

  Index rows() const noexcept { return rows_; }
  const float* column(Index column) const noexcept {
    return values_.data() + std::int64_t{column} * rows_;
  }

 private:
  void read(const Reader& reader, Index columns, Saliency saliency, bool reads_inputs, Index row);

  Index rows_ = 0;
  FloatBuffer values_;
};

Saliencies::Saliencies(const AxisFacts& facts, Saliency saliency, Index columns) {
  const bool reads_inputs = saliency != Saliency::magnitude && has_inputs(facts);
  for (const Reader& reader : facts.readers) rows_ += reader.rows;
  rows_ = (rows_ + kRowGroup - 1) / kRowGroup * kRowGroup;
  values_.resize(at(columns) * at(rows_));
  Index row = 0;
  for (const Reader& reader : facts.readers) {
    read(reader, columns, saliency, reads_inputs, row);
    row += reader.rows;
  }
}

void Saliencies::read(const Reader& reader, Index columns, Saliency saliency, bool reads_inputs,
                      Index row) {
  const std::vector<float>& weights = *reader.weights;
  const std::size_t width = at(columns);
  // Relative importance: |w| as a share of its column, plus |w| as a share of its row.
  std::vector<double> column_sums(width, 0.0);
  std::vector<double> row_sums(at(reader.rows), 0.0);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const double w = std::fabs(double{weights[i]});
    column_sums[i % width] += w;
    row_sums[i / width] += w;
  }
  std::vector<double> factor(width, 1.0);
  for (std::size_t c = 0; reads_inputs && c < width; ++c) {
    const double rms = std::sqrt(double{reader.input_square[c]});
    factor[c] = saliency == Saliency::ria ? std::sqrt(rms) : rms;
  }
  // In tiles: the columns that are written share lines with the rows that are read.
  constexpr std::size_t kTile = 32;
  for (std::size_t left = 0; left < width; left += kTile) {
    for (std::size_t top = 0; top < row_sums.size(); top += kTile) {
      for (std::size_t c = left; c < std::min(width, left + kTile); ++c) {
        float* out = values_.data() + c * at(rows_) + at(row);
        for (std::size_t r = top; r < std::min(row_sums.size(), top + kTile); ++r) {
          double s = std::fabs(double{weights[r * width + c]});
          if (saliency == Saliency::ria && s > 0) s = s / column_sums[c] + s / row_sums[r];
          out[r] = static_cast<float>(s * factor[c]);
        }
      }
    }
  }
}

/// What it takes to be kept on every seat: row by row, the N-th largest of the block's others. A
/// member adds what of it is above.
class NmSeats final : public Seats {
 public:
  NmSeats(const Saliencies& saliencies, Index kept, Index n)
      : saliencies_(saliencies), kept_(kept), thresholds_(at(n) * at(saliencies.rows())) {}

  void update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) override;
  double exact_gain(const Seating& seating, Index u, Index v) override;

 private:
  float* threshold(Index u) noexcept {
    return thresholds_.data() + std::int64_t{u} * saliencies_.rows();
  }

  const Saliencies& saliencies_;
  Index kept_;
  FloatBuffer thresholds_;  // (n, rows)
};

void NmSeats::update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) {
  // A thread that is woken has to have work: 2^22 maxima are some 0.2 ms.
  constexpr std::int64_t kManyMaxima = std::int64_t{1} << 22;
  // Panels of rows and columns stay in the second cache while seats go by, a tile's in the first.
  constexpr Index kRowsAtATime = 1024;
  constexpr Index kColumnsAtATime = 256;
  constexpr Index kSeatsAtATime = 64;

  const RowKernels& kernels = row_kernels();
  const Index rows = saliencies_.rows();
  const Index n = table.size();
  std::vector<Index> seats;
  for (const Index block : blocks) {
    const auto members = seating.members(block);
    seats.insert(seats.end(), members.begin(), members.end());
  }
  const bool is_large = std::int64_t{n} * rows * std::ssize(seats) > kManyMaxima;

#pragma omp parallel if (is_large)
  {
#pragma omp for schedule(static)
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      std::array<const float*, kMostOf> columns = {};
      std::array<float*, kMostOf> out = {};
      const auto members = seating.members(blocks[b]);
      for (std::size_t i = 0; i < members.size(); ++i) {
        columns[i] = saliencies_.column(members[i]);
        out[i] = threshold(members[i]);
      }
      kernels.thresholds(columns.data(), static_cast<Index>(members.size()), kept_, rows,
                         out.data());
    }

    const auto count = static_cast<Index>(seats.size());
#pragma omp for schedule(dynamic) collapse(2)
    for (Index first = 0; first < count; first += kSeatsAtATime) {
      for (Index left = 0; left < n; left += kColumnsAtATime) {
        const Index width = std::min(kColumnsAtATime, n - left);
        const Index height = std::min(kSeatsAtATime, count - first);
        std::array<const float*, std::size_t{kSeatsAtATime}> held = {};
        std::array<float*, std::size_t{kSeatsAtATime}> out = {};
        for (Index i = 0; i < height; ++i) {
          out[at(i)] = table.row(seats[at(first + i)]) + left;
          std::fill_n(out[at(i)], width, 0.0F);
        }
        for (Index top = 0; top < rows; top += kRowsAtATime) {
          for (Index i = 0; i < height; ++i) held[at(i)] = threshold(seats[at(first + i)]) + top;
          kernels.add_maxima({.held = held.data(),
                              .seats = height,
                              .offered = saliencies_.column(left) + top,
                              .ld = rows,
                              .members = width,
                              .rows = std::min(kRowsAtATime, rows - top),
                              .out = out.data()});
        }
      }
    }
  }
}

double NmSeats::exact_gain(const Seating&, Index u, Index v) {
  const float* of_u = saliencies_.column(u);
  const float* of_v = saliencies_.column(v);
  const float* for_u = threshold(u);
  const float* for_v = threshold(v);
  double gain = 0;
  for (Index r = 0; r < saliencies_.rows(); ++r) {
    gain += (double{std::max(of_v[r], for_u[r])} - double{std::max(of_u[r], for_u[r])}) +
            (double{std::max(of_u[r], for_v[r])} - double{std::max(of_v[r], for_v[r])});
  }
  return gain;
}

class NmProblem final : public FactsProblem {
 public:
  NmProblem(const AxisFacts& facts, const ObjectiveOptions& options);

  Direction direction() const noexcept override { return Direction::higher; }
  Blocks blocks() const noexcept override { return blocks_; }
  double score(const Permutation& order) const override;
  double swap_delta(const Permutation& order, Index i, Index j) const override;
  Permutation greedy() const override;
  std::vector<double> keys() const override { return totals_; }
  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override;

 private:
  double retained(std::span<const Index> columns) const;
  double retained_of_members(std::span<const Index> members) const;

  Index kept_;
  Index of_;
  Blocks blocks_;
  Index run_;
  Saliencies saliencies_;
  std::vector<double> totals_;  // (n)
  double total_;
};

NmProblem::NmProblem(const AxisFacts& facts, const ObjectiveOptions& options)
    : FactsProblem(facts),
      kept_(options.kept),
      of_(options.of),
      blocks_(blocks_of(facts, options)),
      run_(columns_of_a_member(facts)),
      saliencies_(facts, options.saliency, facts.size * run_),
      totals_(at(facts.size), 0.0) {
  for (Index c = 0; c < facts.size * run_; ++c) {
    const float* column = saliencies_.column(c);
    totals_[at(c / run_)] += std::accumulate(column, column + saliencies_.rows(), 0.0);
  }
  total_ = std::accumulate(totals_.begin(), totals_.end(), 0.0);
}

/// What stays of the columns of one block.
double NmProblem::retained(std::span<const Index> columns) const {
  const auto kept = std::min<std::ptrdiff_t>(kept_, std::ssize(columns));
  std::array<float, kMostOf> values = {};
  const auto end = values.begin() + std::ssize(columns);
  double sum = 0;
  for (Index r = 0; r < saliencies_.rows(); ++r) {
    for (std::size_t c = 0; c < columns.size(); ++c) values[c] = saliencies_.column(columns[c])[r];
    std::partial_sort(values.begin(), values.begin() + kept, end, std::greater<>());
    sum += std::accumulate(values.begin(), values.begin() + kept, 0.0);
  }
  return sum;
}

/// What stays of members side by side, of which the first opens a block of columns.
double NmProblem::retained_of_members(std::span<const Index> members) const {
  std::vector<Index> columns;
  for (const Index member : members) {
    for (Index c = 0; c < run_; ++c) columns.push_back(member * run_ + c);
  }
  double sum = 0;
  for (std::size_t begin = 0; begin < columns.size(); begin += at(of_)) {
    sum += retained(std::span(columns).subspan(begin, std::min(at(of_), columns.size() - begin)));
  }
  return sum;
}

double NmProblem::score(const Permutation& order) const {
  if (total_ == 0) return 1;
  double sum = 0;
  for (Index block = 0; block < blocks_.count(size()); ++block) {
    const Index begin = blocks_.begin(block);
    sum += retained_of_members(
        order.gather().subspan(at(begin), at(blocks_.end(block, size()) - begin)));
  }
  return sum / total_;
}

double NmProblem::swap_delta(const Permutation& order, Index i, Index j) const {
  if (total_ == 0 || blocks_.of(i) == blocks_.of(j)) return 0;
  double gain = 0;
  for (const auto& [here, there] : {std::pair(i, j), std::pair(j, i)}) {
    const Index begin = blocks_.begin(blocks_.of(here));
    const Index end = blocks_.end(blocks_.of(here), size());
    std::vector<Index> members(order.gather().begin() + begin, order.gather().begin() + end);
    gain -= retained_of_members(members);
    members[at(here - begin)] = order[there];
    gain += retained_of_members(members);
  }
  return gain / total_;
}

/// The snake of RIA: the most salient members open the blocks, the next ones fill them in the
/// opposite direction, and so on, so that no block has more of the salient than it can keep.
Permutation NmProblem::greedy() const {
  const Permutation falling = sorted_by_falling(totals_);
  const Index count = blocks_.count(size());
  std::vector<std::vector<Index>> dealt(at(count));
  Index next = 0;
  for (bool is_forth = true; next < size(); is_forth = !is_forth) {
    for (Index step = 0; step < count && next < size(); ++step) {
      const Index block = is_forth ? step : count - 1 - step;
      const Index room = blocks_.end(block, size()) - blocks_.begin(block);
      if (std::ssize(dealt[at(block)]) < room) dealt[at(block)].push_back(falling[next++]);
    }
  }
  std::vector<Index> order;
  order.reserve(at(size()));
  for (const auto& block : dealt) order.insert(order.end(), block.begin(), block.end());
  return Permutation::from_gather(std::move(order));
}

std::unique_ptr<ExchangeSearch> NmProblem::search(const Permutation& from) const {
  if (run_ > 1) return Problem::search(from);
  // Below this share a gain is what sums of floats round off.
  return std::make_unique<RowSearch>(std::make_unique<NmSeats>(saliencies_, kept_, size()), blocks_,
                                     from, 1e-9 * total_);
}

}  // namespace

// Source  J. Pool, C. Yu, "Channel permutations for N:M sparsity", NeurIPS 2021: the objective and
//         exchanges of columns (there, stripes by exhaustive search). Y. Zhang et al., "Plug-and-
//         play: an efficient post-training pruning method for large language models" (RIA), ICLR
//         2024: the relative importance and the start.
// Cost    of a search O(n^2 rows) to begin with, then O(M n rows + n^2) a round of exchanges;
//         4 n^2 + 8 n rows bytes.
std::unique_ptr<Problem> nm_problem(const AxisFacts& facts, const ObjectiveOptions& options) {
  check_numbers(facts);
  return std::make_unique<NmProblem>(facts, options);
}

}  // namespace icd
