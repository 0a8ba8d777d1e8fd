#include "layout_axes.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "icd/error.h"

namespace icd {
namespace {

/// Throws Error{input} for a name that is none.
Space space_that_is(Scope& scope, const std::string& name) {
  const Space space = space_named(scope, name);
  if (space.row != nullptr) return space;
  throw Error(ErrorCode::input, fmt::format("layout: '{}' is mirrored, but no space", name));
}

/// One factor that encloses a space, or that it encloses.
struct Level {
  const SpaceRow* row = nullptr;  ///< nullptr for a number
  Index count = 1;
  Index stride = 1;
  Index first = 0;  ///< the value that the first one stands for
};

/// A place on an axis where a space stands.
struct Occurrence {
  Space space;
  int dim = 0;
  Index count = 0;
  Index offset = 0;
  Index stride = 1;  ///< signed
  Index block = 1;
  std::vector<Level> outer;
  std::vector<Level> inner;
};

/// The two ends of each pair of a mirrored stretch, as a space of two for each pair.
void add_sides(const Occurrence& mirrored, Scope& scope, const std::string& side, Index offset,
               std::vector<Occurrence>& found) {
  for (Index k = 0; k < mirrored.count; ++k) {
    Occurrence ends = mirrored;
    ends.space = space_that_is(scope, side);
    ends.count = 2;
    ends.offset = offset + k * mirrored.block;
    ends.stride = (2 * mirrored.count - 1 - 2 * k) * mirrored.block;
    ends.outer.push_back({mirrored.space.row, 1, 0, k});
    found.push_back(std::move(ends));
  }
}

/// Everything that stands on an axis of a tensor, and where.
void find_occurrences(const AxisSum& sum, Scope& scope, int dim, Index offset, Index unit,
                      const std::vector<Level>& outer, std::vector<Occurrence>& found) {
  for (const AxisProduct& term : sum.terms) {
    std::vector<Level> levels;
    for (const AxisFactor& written : term.factors) {
      const auto [factor, where] = meant(written, scope);
      const Space space =
          factor->kind == AxisFactor::Kind::name ? space_named(*where, factor->name) : Space{};
      levels.push_back({space.row, length_of(polynomial(written, scope), *scope.sizes), unit, 0});
    }
    for (std::size_t f = levels.size(); f-- > 1;) {
      levels[f - 1].stride = levels[f].stride * levels[f].count;
    }
    const Index length = levels.front().stride * levels.front().count;
    for (std::size_t f = 0; f < levels.size(); ++f) {
      const auto [meaning, where] = meant(term.factors[f], scope);
      const AxisFactor& factor = *meaning;
      std::vector<Level> around = outer;
      around.insert(around.end(), levels.begin(), levels.begin() + static_cast<std::ptrdiff_t>(f));
      const std::vector<Level> inside(levels.begin() + static_cast<std::ptrdiff_t>(f) + 1,
                                      levels.end());
      const Level& level = levels[f];
      Occurrence base{.space = {},
                      .dim = dim,
                      .count = level.count,
                      .offset = offset,
                      .stride = level.stride,
                      .block = level.stride,
                      .outer = around,
                      .inner = inside};
      switch (factor.kind) {
        case AxisFactor::Kind::number:
          break;
        case AxisFactor::Kind::sum:
          find_occurrences(factor.sum.front(), *where, dim, offset, level.stride, around, found);
          break;
        case AxisFactor::Kind::name:
          base.space = space_named(*where, factor.name);
          if (base.space.row != nullptr) found.push_back(std::move(base));
          break;
        case AxisFactor::Kind::mirror: {
          base.space = space_that_is(*where, factor.name);
          base.count /= 2;
          found.push_back(base);
          base.offset += (2 * base.count - 1) * base.stride;
          base.stride = -base.stride;
          found.push_back(base);
          if (!factor.side.empty()) add_sides(base, *where, factor.side, offset, found);
          break;
        }
      }
    }
    offset += length;
  }
}

/// Calls visit(offset) for every combination of the levels; `values` says which it is.
void loop_own(std::size_t at, const std::vector<Level>& levels, Index offset,
              std::map<const SpaceRow*, Index>& values, const std::function<void(Index)>& visit) {
  if (at == levels.size()) {
    visit(offset);
    return;
  }
  for (Index i = 0; i < levels[at].count; ++i) {
    if (levels[at].row != nullptr) values[levels[at].row] = levels[at].first + i;
    loop_own(at + 1, levels, offset + i * levels[at].stride, values, visit);
  }
}

/// The same for factors on other axes: visit(slices).
void loop_elsewhere(std::size_t at, const std::vector<std::vector<const Occurrence*>>& axes,
                    const std::vector<AxisSlice>& slices, std::map<const SpaceRow*, Index>& values,
                    const std::function<void(const std::vector<AxisSlice>&)>& visit) {
  if (at == axes.size()) {
    visit(slices);
    return;
  }
  for (const Occurrence* other : axes[at]) {
    loop_own(0, other->outer, other->offset, values, [&](Index offset) {
      for (Index i = 0; i < other->count; ++i) {
        values[other->space.row] = i;
        auto more = slices;
        more.push_back({other->dim, offset + i * other->stride, other->block});
        loop_elsewhere(at + 1, axes, more, values, visit);
      }
    });
  }
}

/// Which of the spaces it is, by the indexes that it depends on.
Index instance_of(const Space& space, const std::map<const SpaceRow*, Index>& values,
                  Scope& scope) {
  Index instance = 0;
  for (const std::string& index : space.row->per) {
    const Space by = space_named(*space.home, index);
    Index value = 0;
    Index count = 1;
    if (by.row != nullptr && values.contains(by.row)) {
      value = values.at(by.row);
      count = size_of(by);
    } else {
      for (Scope* at = &scope; at != nullptr; at = at->parent) {
        if (const auto found = at->at.find(index); found != at->at.end()) {
          value = found->second.first;
          count = found->second.second;
          break;
        }
      }
    }
    instance = instance * count + value;
  }
  return instance;
}

/// Calls add() for every place of one occurrence, `all` being those of the tensor.
void bind_occurrence(const Occurrence& occurrence, const std::vector<Occurrence>& all, Scope& scope,
                     const std::string& name, Index tensors, bool is_indexed,
                     const AddSegment& add) {
  const SpaceRow& row = *occurrence.space.row;
  Scope& home = *occurrence.space.home;
  std::vector<const SpaceRow*> wanted;
  for (const std::string& index : row.per) wanted.push_back(space_named(home, index).row);
  const auto is_wanted = [&](const SpaceRow* other) {
    return other != nullptr && std::find(wanted.begin(), wanted.end(), other) != wanted.end();
  };

  // What encloses it on its own axis, down to the last index that it depends on.
  std::vector<Level> own = occurrence.outer;
  std::size_t inner = occurrence.inner.size();
  while (inner > 0 && !is_wanted(occurrence.inner[inner - 1].row)) --inner;
  own.insert(own.end(), occurrence.inner.begin(),
             occurrence.inner.begin() + static_cast<std::ptrdiff_t>(inner));
  const Index block = inner > 0 ? own.back().stride : occurrence.block;
  const auto on_own_axis = [&](const SpaceRow* index) {
    return std::any_of(own.begin(), own.end(),
                       [&](const Level& level) { return level.row == index; });
  };

  // The deepest factors on other axes that it depends on.
  std::vector<std::vector<const Occurrence*>> elsewhere;
  std::set<int> dims;
  for (const SpaceRow* index : wanted) {
    if (index == nullptr || on_own_axis(index)) continue;
    for (const Occurrence& other : all) {
      if (other.space.row == index && other.dim != occurrence.dim) dims.insert(other.dim);
    }
  }
  for (const int dim : dims) {
    std::vector<const Occurrence*> deepest;
    for (const Occurrence& other : all) {
      if (other.dim != dim || !is_wanted(other.space.row)) continue;
      if (!deepest.empty() && other.outer.size() < deepest.front()->outer.size()) continue;
      if (!deepest.empty() && other.outer.size() > deepest.front()->outer.size()) deepest.clear();
      deepest.push_back(&other);
    }
    elsewhere.push_back(std::move(deepest));
  }

  std::map<const SpaceRow*, Index> values;
  loop_own(0, own, occurrence.offset, values, [&](Index offset) {
    loop_elsewhere(0, elsewhere, {}, values, [&](const std::vector<AxisSlice>& slices) {
      AxisSegment segment{.tensor = name,
                          .dim = occurrence.dim,
                          .offset = offset,
                          .stride = occurrence.stride,
                          .block = block,
                          .within = {}};
      const Index instance = instance_of(occurrence.space, values, scope);
      Index first = 0;
      Index last = is_indexed && occurrence.dim != AxisSegment::kWholeTensors ? tensors : 1;
      for (const AxisSlice& slice : slices) {
        if (slice.dim == AxisSegment::kWholeTensors) {
          first = slice.begin;
          last = slice.begin + slice.count;
        } else {
          segment.within.push_back(slice);
        }
      }
      if (occurrence.dim == AxisSegment::kWholeTensors || !is_indexed) {
        add(occurrence.space, instance, occurrence.count, std::move(segment));
        return;
      }
      for (Index e = first; e < last; ++e) {
        segment.tensor = indexed(name, e);
        add(occurrence.space, instance, occurrence.count, AxisSegment(segment));
      }
    });
  });
}

}  // namespace

void for_each_segment(const TensorRow& row, const std::vector<AxisSum>& shape, Scope& scope,
                      const std::string& name, Index tensors, const AddSegment& add) {
  std::vector<Occurrence> found;
  if (!row.index.empty()) {
    find_occurrences(row.index.front(), scope, AxisSegment::kWholeTensors, 0, 1, {}, found);
  }
  for (std::size_t dim = 0; dim < shape.size(); ++dim) {
    if (shape[dim].is_any()) continue;
    find_occurrences(shape[dim], scope, static_cast<int>(dim), 0, 1, {}, found);
  }
  for (const Occurrence& occurrence : found) {
    if (occurrence.space.row->fixed || occurrence.count < 2) continue;
    bind_occurrence(occurrence, found, scope, name, tensors, !row.index.empty(), add);
  }
}

}  // namespace icd
