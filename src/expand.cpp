#include "icd/expand.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "icd/error.h"

namespace icd {
namespace {

/// A segment, and the order that its elements take.
struct Stretch {
  const AxisSegment* segment;
  const Permutation* order;
};

/// Axes [first, last) that one permutation has to act on, since what happens on one of them
/// depends on the place on another.
struct Span {
  int first = 0;
  int last = 0;
  std::vector<Stretch> stretches;
};

/// The spans of a tensor, apart from each other, ascending.
std::vector<Span> spans_of(const std::vector<Stretch>& stretches) {
  std::vector<Span> spans;
  for (const Stretch& stretch : stretches) {
    Span own{stretch.segment->dim, stretch.segment->dim + 1, {}};
    for (const AxisSlice& slice : stretch.segment->within) {
      own.first = std::min(own.first, slice.dim);
      own.last = std::max(own.last, slice.dim + 1);
    }
    spans.push_back(own);
  }
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return a.first < b.first; });
  std::vector<Span> merged;
  for (const Span& span : spans) {
    if (!merged.empty() && span.first < merged.back().last) {
      merged.back().last = std::max(merged.back().last, span.last);
    } else {
      merged.push_back(span);
    }
  }
  for (const Stretch& stretch : stretches) {
    for (Span& span : merged) {
      if (stretch.segment->dim >= span.first && stretch.segment->dim < span.last) {
        span.stretches.push_back(stretch);
      }
    }
  }
  return merged;
}

/// The order of the axes of a span, taken as one.
class SpanOrder {
 public:
  SpanOrder(const std::string& tensor, const Shape& shape, const Span& span) : first_(span.first) {
    std::int64_t size = 1;
    for (int dim = span.last; dim-- > span.first;) {
      const std::int64_t extent = shape[static_cast<std::size_t>(dim)];
      extents_.insert(extents_.begin(), static_cast<Index>(extent));
      steps_.insert(steps_.begin(), static_cast<Index>(size));
      size *= extent;
      if (size > std::numeric_limits<Index>::max()) {
        throw Error(ErrorCode::unsupported,
                    fmt::format("tensor '{}': {} entries would have to move one by one, expected "
                                "at most {}",
                                tensor, size, std::numeric_limits<Index>::max()));
      }
    }
    source_.resize(static_cast<std::size_t>(size));
    std::iota(source_.begin(), source_.end(), Index{0});
  }

  /// What has moved so far, and then by this.
  void then(const Stretch& stretch) {
    const AxisSegment& segment = *stretch.segment;
    const auto axis = static_cast<std::size_t>(segment.dim - first_);
    visit(0, 0, segment, axis, [&](Index base) {
      for (Index b = 0; b < segment.block; ++b) {
        const Index start = base + (segment.offset + b) * steps_[axis];
        const Index step = segment.stride * steps_[axis];
        old_.clear();
        for (Index k = 0; k < stretch.order->size(); ++k) {
          old_.push_back(source_[static_cast<std::size_t>(start + k * step)]);
        }
        for (Index k = 0; k < stretch.order->size(); ++k) {
          source_[static_cast<std::size_t>(start + k * step)] =
              old_[static_cast<std::size_t>((*stretch.order)[k])];
        }
      }
    });
  }

  Permutation finish() { return Permutation::from_gather(std::move(source_)); }

 private:
  /// Every place on the other axes of the span that the segment is about.
  template <typename Visit>
  void visit(std::size_t at, Index base, const AxisSegment& segment, std::size_t axis,
             const Visit& each) {
    if (at == extents_.size()) {
      each(base);
      return;
    }
    Index begin = 0;
    Index end = at == axis ? 1 : extents_[at];
    for (const AxisSlice& slice : segment.within) {
      if (slice.dim - first_ != static_cast<int>(at)) continue;
      begin = slice.begin;
      end = slice.begin + slice.count;
    }
    for (Index i = begin; i < end; ++i) {
      visit(at + 1, base + i * steps_[at], segment, axis, each);
    }
  }

  int first_;
  std::vector<Index> extents_;
  std::vector<Index> steps_;
  std::vector<Index> source_;
  std::vector<Index> old_;
};

std::string numbered(const std::string& name, Index number) {
  std::string text = name;
  text.replace(text.find("{}"), 2, std::to_string(number));
  return text;
}

}  // namespace

TensorMoves expand(const Checkpoint& checkpoint, const Layout& layout,
                   const std::map<std::string, Permutation>& groups) {
  std::map<std::string, std::vector<Stretch>> stretches;
  std::map<std::string, std::vector<Stretch>> whole;  // by the name with "{}" in it
  for (const AxisGroup& group : layout.groups) {
    const auto order = groups.find(group.name);
    if (order == groups.end() || order->second.is_identity()) continue;
    for (const AxisSegment& segment : group.segments) {
      auto& of_kind = segment.dim == AxisSegment::kWholeTensors ? whole : stretches;
      of_kind[segment.tensor].push_back({&segment, &order->second});
    }
  }
  TensorMoves moves;
  for (const auto& [tensor, parts] : stretches) {
    const Shape& shape = checkpoint.find(tensor)->shape;
    TensorMove move;
    for (const Span& span : spans_of(parts)) {
      SpanOrder order(tensor, shape, span);
      for (const Stretch& stretch : span.stretches) order.then(stretch);
      Permutation found = order.finish();
      if (!found.is_identity())
        move.axes.push_back({span.first, std::move(found), span.last - span.first});
    }
    if (!move.axes.empty()) moves.emplace(tensor, std::move(move));
  }
  // Whole tensors change places: each takes the moves of the one that it gets along.
  for (const auto& [name, parts] : whole) {
    Index count = 0;
    while (checkpoint.find(numbered(name, count)) != nullptr) ++count;
    const Span all{0, 1, {}};
    SpanOrder order(name, {count}, all);
    for (const Stretch& stretch : parts) {
      AxisSegment segment = *stretch.segment;
      segment.dim = 0;
      order.then({&segment, stretch.order});
    }
    const Permutation found = order.finish();
    TensorMoves renamed;
    for (Index e = 0; e < count; ++e) {
      const std::string from = numbered(name, found[e]);
      const auto own = moves.find(from);
      TensorMove move = own == moves.end() ? TensorMove() : own->second;
      if (found[e] != e) move.from = from;
      if (move.axes.empty() && move.from.empty()) continue;
      renamed.emplace(numbered(name, e), std::move(move));
    }
    for (Index e = 0; e < count; ++e) moves.erase(numbered(name, e));
    moves.merge(renamed);
  }
  return moves;
}

TensorMoves inverse(const TensorMoves& moves) {
  TensorMoves undo;
  for (const auto& [name, move] : moves) {
    TensorMove back;
    for (const AxisMove& axis : move.axes) {
      back.axes.push_back({axis.dim, axis.order.inverse(), axis.span});
    }
    if (!move.from.empty()) back.from = name;
    undo.emplace(move.from.empty() ? name : move.from, std::move(back));
  }
  return undo;
}

Permutation expand_hidden(const Permutation& hidden, Index size, HiddenExpansion expansion) {
  if (hidden.size() == 0 || size < hidden.size() || size % hidden.size() != 0) {
    throw Error(
        ErrorCode::usage,
        fmt::format("expansion: {} channels from {} hidden ones is a ratio of {:.4g}, expected "
                    "a whole number of at least 1",
                    size, hidden.size(), static_cast<double>(size) / hidden.size()),
        "--expand independent solves the inner axis by itself");
  }
  const Index factor = size / hidden.size();
  return expansion == HiddenExpansion::block ? inflate(hidden, factor) : deal(hidden, factor);
}

}  // namespace icd
