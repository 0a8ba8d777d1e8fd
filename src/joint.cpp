#include "icd/joint.h"

#include <algorithm>
#include <utility>

#include "icd/axis_facts.h"
#include "icd/error.h"
#include "plain_search.h"

namespace icd {
namespace {

std::size_t at(Index i) { return static_cast<std::size_t>(i); }

const AxisSegment* segment_on(const AxisGroup& group, std::string_view tensor, int dim,
                              Index begin) {
  for (const AxisSegment& segment : group.segments) {
    if (segment.tensor == tensor && segment.dim == dim && segment.offset == begin) return &segment;
  }
  return nullptr;
}

/// One coordinate of a nest as a problem: the others stay as they are.
class Coordinate : public Problem {
 public:
  Coordinate(const Problem& line, const NestOrders& orders) : line_(line), orders_(orders) {}

  Direction direction() const noexcept override { return line_.direction(); }
  Blocks blocks() const noexcept override { return {1}; }
  double score(const Permutation& order) const override { return line_.score(line_with(order)); }
  const Graph& graph() const noexcept override { return no_graph_; }

 protected:
  virtual Permutation line_with(const Permutation& order) const = 0;

  const Problem& line_;
  const NestOrders& orders_;

 private:
  Graph no_graph_;
};

/// The inside of one run.
class FineCoordinate final : public Coordinate {
 public:
  FineCoordinate(const Problem& line, const NestOrders& orders, Index run)
      : Coordinate(line, orders), run_(run), place_(orders.coarse.inverse()[run]) {}

  Index size() const noexcept override { return orders_.fine[at(run_)].size(); }

  double swap_delta(const Permutation& order, Index i, Index j) const override {
    const Index begin = place_ * size();
    return line_.swap_delta(line_with(order), begin + i, begin + j);
  }

 protected:
  Permutation line_with(const Permutation& order) const override {
    NestOrders changed = orders_;
    changed.fine[at(run_)] = order;
    return changed.line();
  }

 private:
  Index run_;
  Index place_;
};

/// The runs as wholes.
class CoarseCoordinate final : public Coordinate {
 public:
  using Coordinate::Coordinate;

  Index size() const noexcept override { return orders_.coarse.size(); }

  // Entry by entry, each exchange on top of those before it.
  double swap_delta(const Permutation& order, Index i, Index j) const override {
    Permutation line = line_with(order);
    const Index run = line.size() / order.size();
    double delta = 0;
    for (Index k = 0; k < run; ++k) {
      delta += line_.swap_delta(line, i * run + k, j * run + k);
      line = exchanged(line, i * run + k, j * run + k);
    }
    return delta;
  }

 protected:
  Permutation line_with(const Permutation& order) const override {
    NestOrders changed = orders_;
    changed.coarse = order;
    return changed.line();
  }
};

/// Exchanges until none gains; true if `order` became a better one.
bool improve(const Problem& problem, Permutation& order, std::int64_t& steps) {
  const auto search = problem.search(order);
  search->descend(steps);
  Permutation found = search->order();
  if (!(problem.gain(problem.score(order), problem.score(found)) > 0)) return false;
  order = std::move(found);
  return true;
}

}  // namespace

std::vector<Nest> nests_of(const Checkpoint& checkpoint, const Layout& layout,
                           const std::vector<const AxisGroup*>& groups) {
  std::vector<Nest> nests;
  for (const AxisGroup* coarse : groups) {
    const auto reading = std::find_if(
        coarse->segments.begin(), coarse->segments.end(), [](const AxisSegment& segment) {
          return segment.dim == 1 && segment.block > 1 && segment.stride == segment.block;
        });
    if (reading == coarse->segments.end() || !is_read(checkpoint, layout, *coarse)) continue;
    Nest nest{.line = {.name = coarse->name + "*line",
                       .kind = "line",
                       .layer = coarse->layer,
                       .size = coarse->size * reading->block},
              .coarse = coarse,
              .fine = std::vector<const AxisGroup*>(at(coarse->size), nullptr),
              .run = reading->block};
    for (const AxisSegment& segment : coarse->segments) {
      if (segment.block != nest.run || segment.stride != nest.run) continue;
      AxisSegment entries = segment;
      entries.stride = 1;
      entries.block = 1;
      nest.line.segments.push_back(std::move(entries));
    }
    bool has_fine = false;
    for (Index k = 0; k < coarse->size; ++k) {
      for (const AxisGroup* fine : groups) {
        if (fine->size != nest.run || fine == coarse) continue;
        const AxisSegment* inside =
            segment_on(*fine, reading->tensor, reading->dim, reading->offset + k * reading->stride);
        if (inside == nullptr || inside->block != 1 || inside->stride != 1) continue;
        nest.fine[at(k)] = fine;
        has_fine = true;
      }
    }
    if (has_fine) nests.push_back(std::move(nest));
  }
  return nests;
}

Permutation NestOrders::line() const {
  std::vector<Index> gather;
  for (const Index run : coarse.gather()) {
    const Permutation& inside = fine[at(run)];
    for (const Index k : inside.gather()) gather.push_back(run * inside.size() + k);
  }
  return Permutation::from_gather(std::move(gather));
}

NestOrders solve_jointly(const Problem& problem, const Nest& nest, std::int64_t& steps) {
  NestOrders orders{
      .coarse = Permutation::identity(nest.coarse->size),
      .fine = std::vector<Permutation>(nest.fine.size(), Permutation::identity(nest.run))};
  for (bool improved = true; improved && steps > 0;) {
    improved = false;
    for (Index run = 0; run < nest.coarse->size; ++run) {
      if (nest.fine[at(run)] == nullptr) continue;
      Permutation order = orders.fine[at(run)];
      if (!improve(FineCoordinate(problem, orders, run), order, steps)) continue;
      orders.fine[at(run)] = std::move(order);
      improved = true;
    }
    Permutation order = orders.coarse;
    if (improve(CoarseCoordinate(problem, orders), order, steps)) {
      orders.coarse = std::move(order);
      improved = true;
    }
  }
  return orders;
}

}  // namespace icd
