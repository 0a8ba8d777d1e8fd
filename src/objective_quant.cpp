#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "facts_problem.h"
#include "icd/error.h"
#include "icd/objective.h"
#include "icd/quantise.h"
#include "max_seats.h"
#include "plain_search.h"
#include "readers.h"
#include "row_kernels.h"

// Weights that share a scale lose what the largest of them takes from the others. Which columns
// share one is free: an order costs the squared error that quantisation makes in the outputs,
// sum over rows and columns of E[x_c^2] (w - q(w))^2, as a share of what the outputs hold.

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

const GroupFormat& format_of(const ObjectiveOptions& options) {
  if (const GroupFormat* format = find_group_format(options.format)) return *format;
  std::string names;
  for (const GroupFormat& format : all_group_formats()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", format.name);
  }
  throw Error(ErrorCode::usage, fmt::format("--quant-format {}: no such format, expected one of {}",
                                            options.format, names));
}

Index group_of(const GroupFormat& format, const ObjectiveOptions& options) {
  if (options.group == 0) return format.group;
  if (options.group < 0 || (format.is_fixed && options.group != format.group)) {
    throw Error(ErrorCode::usage,
                format.is_fixed
                    ? fmt::format("--group-size {}: {} has groups of {}", options.group,
                                  format.name, format.group)
                    : fmt::format("--group-size {}: expected 1 or more", options.group));
  }
  return options.group;
}

Blocks blocks_of(const AxisFacts& facts, Index group) {
  const Index run = columns_of_a_member(facts);
  if (const auto blocks = blocks_of_members(facts.size, group, run)) return *blocks;
  throw Error(ErrorCode::usage,
              fmt::format("--group-size {}: expected a multiple or a divisor of the "
                          "{} columns that a member has",
                          group, run));
}

float largest_weight(const Reader& reader) {
  float largest = 0;
  for (const float w : *reader.weights) largest = std::max(largest, std::fabs(w));
  return largest;
}

/// The matrices of an axis in one format: what groups of columns lose.
class GroupErrors {
 public:
  GroupErrors(const AxisFacts& facts, const GroupFormat& format, Index group);

  /// The squared error of members that share scales: all columns of a group, or whole groups
  /// inside each. They are taken in ascending order, so that it is the same for every order of
  /// theirs (q4_0 would tell w from -w by which comes first).
  double error(std::span<const Index> members) const;

  double square() const noexcept { return square_; }  ///< of all weights
  std::vector<double> root_mean_squares() const;      ///< (n) of a member's weights

  /// The squares of what the scales of groups grow with.
  MemberRows squared_ranges() const;

 private:
  struct Matrix {
    Reader reader;
    float scale;  // of the tensor
    double mean_input_square;
  };
  double input_square(const Reader& reader, std::size_t column) const {
    return reads_inputs_ ? double{reader.input_square[column]} : 1.0;
  }
  double error_of_rows(const Matrix& matrix, std::span<const Index> columns, Index begin,
                       Index end) const;

  const GroupFormat& format_;
  Index members_;
  Index run_;
  Index group_;
  bool reads_inputs_;
  std::vector<Matrix> matrices_;
  double square_ = 0;
};

GroupErrors::GroupErrors(const AxisFacts& facts, const GroupFormat& format, Index group)
    : format_(format),
      members_(facts.size),
      run_(columns_of_a_member(facts)),
      group_(group),
      reads_inputs_(has_inputs(facts)) {
  for (const Reader& reader : facts.readers) {
    const float largest = largest_weight(reader);
    const float scale = tensor_scale(format, largest);
    float read_back = 0;
    quantise(format, {&largest, 1}, {&read_back, 1}, scale);
    if (!std::isfinite(read_back)) {
      throw Error(ErrorCode::input, fmt::format("tensor '{}': the largest weight is {}, expected "
                                                "no more than a scale of {} can say",
                                                reader.tensor, largest, format.name));
    }
    const std::size_t columns = at(members_) * at(run_);
    double sum = 0;
    for (std::size_t c = 0; c < columns; ++c) sum += input_square(reader, c);
    for (std::size_t i = 0; i < reader.weights->size(); ++i) {
      const double w = (*reader.weights)[i];
      square_ += input_square(reader, i % columns) * (w * w);
    }
    matrices_.push_back(
        {.reader = reader,
         .scale = scale,
         .mean_input_square = columns > 0 ? sum / static_cast<double>(columns) : 0});
  }
}

double GroupErrors::error_of_rows(const Matrix& matrix, std::span<const Index> columns, Index begin,
                                  Index end) const {
  // Eight sums side by side: one would wait for itself at every column.
  constexpr std::size_t kSums = 8;
  const std::size_t width = at(members_) * at(run_);
  const std::size_t padded = (columns.size() + kSums - 1) / kSums * kSums;
  std::vector<float> weights(padded, 0.0F);
  std::vector<float> stored(padded, 0.0F);
  std::vector<double> squares(padded, 0.0);
  for (std::size_t c = 0; c < columns.size(); ++c) {
    squares[c] = input_square(matrix.reader, at(columns[c]));
  }
  std::array<double, kSums> sums = {};
  for (Index r = begin; r < end; ++r) {
    const float* row = matrix.reader.weights->data() + at(r) * width;
    for (std::size_t c = 0; c < columns.size(); ++c) weights[c] = row[columns[c]];
    for (std::size_t first = 0; first < columns.size(); first += at(group_)) {
      const std::size_t count = std::min(at(group_), columns.size() - first);
      quantise(format_, {weights.data() + first, count}, {stored.data() + first, count},
               matrix.scale);
    }
    for (std::size_t c = 0; c < padded; c += kSums) {
      for (std::size_t lane = 0; lane < kSums; ++lane) {
        const double error = double{weights[c + lane]} - double{stored[c + lane]};
        sums[lane] += squares[c + lane] * (error * error);
      }
    }
  }
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

double GroupErrors::error(std::span<const Index> members) const {
  constexpr Index kRowsAtATime = 64;  // sums of so many rows, in order, whatever the threads
  constexpr std::int64_t kManyWeights = 1 << 16;

  std::vector<Index> sorted(members.begin(), members.end());
  std::sort(sorted.begin(), sorted.end());
  std::vector<Index> columns;
  for (const Index member : sorted) {
    for (Index c = 0; c < run_; ++c) columns.push_back(member * run_ + c);
  }
  double total = 0;
  for (const Matrix& matrix : matrices_) {
    const Index rows = matrix.reader.rows;
    std::vector<double> sums(at((rows + kRowsAtATime - 1) / kRowsAtATime));
#pragma omp parallel for schedule(static) if (std::int64_t{rows} * std::ssize(columns) > \
                                              kManyWeights)
    for (std::size_t part = 0; part < sums.size(); ++part) {
      const Index begin = static_cast<Index>(part) * kRowsAtATime;
      sums[part] = error_of_rows(matrix, columns, begin, std::min(rows, begin + kRowsAtATime));
    }
    total += std::accumulate(sums.begin(), sums.end(), 0.0);
  }
  return total;
}

std::vector<double> GroupErrors::root_mean_squares() const {
  std::vector<double> sums(at(members_), 0.0);
  double rows = 0;
  for (const Matrix& matrix : matrices_) {
    const std::vector<float>& weights = *matrix.reader.weights;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      sums[i % (sums.size() * at(run_)) / at(run_)] += double{weights[i]} * double{weights[i]};
    }
    rows += matrix.reader.rows;
  }
  for (double& sum : sums) sum = rows > 0 ? std::sqrt(sum / (rows * run_)) : 0;
  return sums;
}

// The error of a group is its members times the square of the scale, or near it. A scale grows
// with the largest magnitude; over a range, with the largest of either sign, whose squares are
// rows of their own: a half to all of the square of the range.
MemberRows GroupErrors::squared_ranges() const {
  const Index signs = format_.is_asymmetric ? 2 : 1;
  Index rows = 0;
  for (const Matrix& matrix : matrices_) rows += matrix.reader.rows * signs;
  MemberRows squares(rows, members_);
  Index row = 0;
  for (const Matrix& matrix : matrices_) {
    const float* weights = matrix.reader.weights->data();
    const auto factor = static_cast<float>(matrix.mean_input_square);
    for (Index r = 0; r < matrix.reader.rows; ++r, row += signs) {
      for (Index u = 0; u < members_; ++u) {
        for (Index c = 0; c < run_; ++c) {
          const float w = *weights++;
          float& most = squares.row(row + (w < 0 ? signs - 1 : 0))[u];
          most = std::max(most, factor * (w * w));
        }
      }
    }
  }
  return squares;
}

/// Every k-th row of the matrices, so that about `most` are left of all: what a search looks at.
/// The rows of a matrix are many draws of the same question, which columns have like magnitudes.
AxisFacts thinned(const AxisFacts& facts, std::int64_t most) {
  std::int64_t rows = 0;
  for (const Reader& reader : facts.readers) rows += reader.rows;
  const std::int64_t step = (rows + most - 1) / most;
  if (step <= 1) return facts;
  AxisFacts thin = facts;
  for (Reader& reader : thin.readers) {
    const std::size_t width = reader.weights->size() / at(std::max<Index>(reader.rows, 1));
    auto kept = std::make_shared<std::vector<float>>();
    Index count = 0;
    for (std::int64_t r = 0; r < reader.rows; r += step, ++count) {
      const auto row = reader.weights->begin() + static_cast<std::ptrdiff_t>(width) * r;
      kept->insert(kept->end(), row, row + static_cast<std::ptrdiff_t>(width));
    }
    reader.rows = count;
    reader.weights = std::move(kept);
  }
  return thin;
}

/// Proposes by the squared ranges of groups, decides by their errors.
class QuantSeats final : public MaxSeats {
 public:
  QuantSeats(const GroupErrors& errors, std::shared_ptr<const MemberRows> ranges, Index blocks)
      : MaxSeats(std::move(ranges)), errors_(errors), of_blocks_(at(blocks)) {}

  void update(const Seating& seating, std::span<const Index> blocks, WorthTable& table) override {
    MaxSeats::update(seating, blocks, table);
    for (const Index block : blocks) of_blocks_[at(block)] = errors_.error(seating.members(block));
  }

  double exact_gain(const Seating& seating, Index u, Index v) override {
    double gain = 0;
    for (const auto& [out, in] : {std::pair(u, v), std::pair(v, u)}) {
      const Index block = seating.block_of(out);
      const auto now = seating.members(block);
      std::vector<Index> members(now.begin(), now.end());
      std::replace(members.begin(), members.end(), out, in);
      gain += of_blocks_[at(block)] - errors_.error(members);
    }
    return gain;
  }

 private:
  const GroupErrors& errors_;
  std::vector<double> of_blocks_;
};

class QuantProblem final : public FactsProblem {
 public:
  QuantProblem(const AxisFacts& facts, const GroupFormat& format, Index group)
      : FactsProblem(facts),
        blocks_(blocks_of(facts, group)),
        errors_(facts, format, group),
        seen_(thinned(facts, kSearchRows), format, group),
        ranges_(std::make_shared<MemberRows>(seen_.squared_ranges())) {}

  Direction direction() const noexcept override { return Direction::lower; }
  Blocks blocks() const noexcept override { return blocks_; }

  double score(const Permutation& order) const override {
    double sum = 0;
    for (Index block = 0; block < blocks_.count(size()); ++block) {
      sum += errors_.error(members(order, block));
    }
    return share(sum);
  }

  double swap_delta(const Permutation& order, Index i, Index j) const override {
    if (blocks_.of(i) == blocks_.of(j)) return 0;
    double change = 0;
    for (const auto& [here, there] : {std::pair(i, j), std::pair(j, i)}) {
      const Index block = blocks_.of(here);
      std::vector<Index> changed = members(order, block);
      change -= errors_.error(changed);
      changed[at(here - blocks_.begin(block))] = order[there];
      change += errors_.error(changed);
    }
    return share(change);
  }

  /// A sort by how large weights are puts like scales together. Elements that are floats bring
  /// scales of their own: with them the sort can be worse than what is there.
  Permutation greedy() const override {
    Permutation sorted = sorted_by_falling(keys());
    Permutation identity = Permutation::identity(size());
    return score(sorted) < score(identity) ? sorted : identity;
  }
  std::vector<double> keys() const override { return errors_.root_mean_squares(); }

  std::unique_ptr<ExchangeSearch> search(const Permutation& from) const override {
    return std::make_unique<RowSearch>(
        std::make_unique<QuantSeats>(seen_, ranges_, blocks_.count(size())), blocks_, from,
        1e-12 * seen_.square());
  }

 private:
  std::vector<Index> members(const Permutation& order, Index block) const {
    const auto gather = order.gather();
    return {gather.begin() + blocks_.begin(block), gather.begin() + blocks_.end(block, size())};
  }
  double share(double error) const noexcept {
    return errors_.square() > 0 ? error / errors_.square() : 0;
  }

  // The stream of mamba-novels-24m is read by 32768 rows. int4 in groups of 128 closes 1.9 % of its
  // gap if a search sees all of them, 1.5 % if it sees 8192, in a sixth of the time.
  static constexpr std::int64_t kSearchRows = 8192;

  Blocks blocks_;
  GroupErrors errors_;  // of all rows: what is scored
  GroupErrors seen_;    // of some: what a search decides by
  std::shared_ptr<const MemberRows> ranges_;
};

}  // namespace

// Source  Z. Yuan et al., RPTQ, arXiv 2304.01089 (2023): columns of like ranges side by side, by
//         clusters; here groups of a given size, by exchanges.
// Cost    of a search O(n rows) a block to begin with and after each exchange, O(n^2) a round;
//         4 n^2 + 4 n rows bytes.
std::unique_ptr<Problem> quant_problem(const AxisFacts& facts, const ObjectiveOptions& options) {
  const GroupFormat& format = format_of(options);
  check_numbers(facts);
  return std::make_unique<QuantProblem>(facts, format, group_of(format, options));
}

}  // namespace icd
