#include "icd/axis_facts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "icd/error.h"
#include "member_view.h"

namespace icd {
namespace {

/// Does somebody multiply by it? An embedding with a head beside it is looked up instead.
bool is_matrix(const StoredTensor& tensor, const Checkpoint& checkpoint, const Layout& layout) {
  if (tensor.shape.size() != 2 || !tensor.name.ends_with("weight")) return false;
  if (layout.wiring) {
    return tensor.name == layout.wiring->head || tensor.name != layout.wiring->embedding;
  }
  const ModelSpec& spec = layout.spec;
  return spec.embedding_name.empty() || tensor.name != spec.embedding() ||
         checkpoint.find(spec.head()) == nullptr;
}

std::vector<const AxisSegment*> reading_segments(const Checkpoint& checkpoint, const Layout& layout,
                                                 const AxisGroup& group) {
  std::vector<const AxisSegment*> found;
  for (const AxisSegment& segment : group.segments) {
    if (segment.dim != 1) continue;
    const StoredTensor* tensor = checkpoint.find(segment.tensor);
    if (tensor != nullptr && is_matrix(*tensor, checkpoint, layout)) found.push_back(&segment);
  }
  return found;
}

[[noreturn]] void refuse_value(const std::string& tensor) {
  throw Error(ErrorCode::input,
              fmt::format("tensor '{}': holds NaN or infinity, expected numbers", tensor));
}

}  // namespace

bool is_read(const Checkpoint& checkpoint, const Layout& layout, const AxisGroup& group) {
  return !reading_segments(checkpoint, layout, group).empty();
}

std::vector<Reader> readers_of(const Checkpoint& checkpoint, const Layout& layout,
                               const AxisGroup& group, std::int64_t most_entries) {
  std::int64_t entries = 0;
  std::vector<MemberView> views;
  const auto segments = reading_segments(checkpoint, layout, group);
  for (const AxisSegment* segment : segments) {
    views.push_back(member_view(checkpoint, group, *segment));
    entries += views.back().rows() * group.size;
  }
  const std::int64_t step = std::max<std::int64_t>(1, (entries + most_entries - 1) / most_entries);

  std::vector<Reader> readers;
  for (std::size_t i = 0; i < segments.size(); ++i) {
    MemberView view = views[i];  // (rows, run, members)
    std::swap(view.shape[1], view.shape[2]);
    std::swap(view.strides[1], view.strides[2]);
    view.shape[0] = (view.shape[0] + step - 1) / step;
    view.strides[0] *= step;
    auto weights = std::make_shared<std::vector<float>>(
        static_cast<std::size_t>(view.shape[0] * view.shape[1] * view.shape[2]));
    read_as(view.view(), std::span<float>(*weights));
    if (!std::all_of(weights->begin(), weights->end(), [](float w) { return std::isfinite(w); })) {
      refuse_value(segments[i]->tensor);
    }
    readers.push_back({.tensor = segments[i]->tensor,
                       .rows = static_cast<Index>(view.shape[0]),
                       .run = segments[i]->block,
                       .weights = std::move(weights)});
  }
  return readers;
}

std::vector<float> weight_squares(const Checkpoint& checkpoint, const AxisGroup& group) {
  std::vector<double> sums(static_cast<std::size_t>(group.size), 0.0);
  std::vector<float> values;
  for (const AxisSegment& segment : group.segments) {
    if (segment.dim == AxisSegment::kWholeTensors) continue;
    const MemberView view = member_view(checkpoint, group, segment);
    values.resize(static_cast<std::size_t>(view.rows()) * sums.size());
    read_as(view.view(), std::span<float>(values));
    for (std::size_t i = 0; i < values.size(); ++i) {
      sums[i % sums.size()] += double{values[i]} * double{values[i]};
    }
  }
  std::vector<float> squares;
  squares.reserve(sums.size());
  for (std::size_t i = 0; i < sums.size(); ++i) {
    if (!std::isfinite(sums[i])) {
      throw Error(ErrorCode::input, fmt::format("{}: the weights of member {} are not finite, "
                                                "expected numbers",
                                                group.name, i));
    }
    squares.push_back(static_cast<float>(sums[i]));
  }
  return squares;
}

std::string role_of(const Layout& layout, std::string_view tensor) {
  for (const Block& block : layout.blocks) {
    for (const auto& [role, name] : block.tensors) {
      if (name == tensor) return role;
    }
  }
  return "";
}

}  // namespace icd
