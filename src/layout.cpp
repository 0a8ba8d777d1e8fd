#include "icd/layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "architecture.h"
#include "icd/error.h"
#include "quote.h"

namespace icd {
namespace {

std::string_view trimmed(std::string_view text) {
  while (text.starts_with(' ')) text.remove_prefix(1);
  while (text.ends_with(' ')) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (;;) {
    const auto end = text.find(at);
    parts.push_back(trimmed(text.substr(0, end)));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::string filled(std::string_view name, const ModelSpec& spec, Index layer) {
  std::string text(name);
  const auto fill = [&](std::string_view mark, const std::string& with) {
    if (const auto at = text.find(mark); at != std::string::npos)
      text.replace(at, mark.size(), with);
  };
  fill("{backbone}", spec.backbone);
  fill("{prefix}", spec.prefix);
  fill("{embedding}", spec.embedding_name);
  fill("{i}", std::to_string(layer));
  return text;
}

enum class Expected { yes, no, either };

Expected expected(Presence presence, const ModelSpec& spec) {
  const auto only_if = [](bool condition) { return condition ? Expected::yes : Expected::no; };
  switch (presence) {
    case Presence::always:
      return Expected::yes;
    case Presence::with_conv_bias:
      return only_if(spec.conv_bias);
    case Presence::with_proj_bias:
      return only_if(spec.proj_bias);
    case Presence::with_norm_bias:
      return only_if(spec.norm == ModelSpec::Norm::layer);
    case Presence::with_own_head:
      return spec.tied_head ? Expected::either : Expected::yes;
  }
  return Expected::yes;
}

/// Builds a Layout row by row of an architecture's table.
class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const ModelSpec& spec, const Architecture& architecture)
      : checkpoint_(checkpoint),
        spec_(spec),
        architecture_(architecture),
        dimensions_(spec.dimensions()) {}

  Layout build() {
    for (const SpaceRow& space : architecture_.spaces) {
      const Index layers = space.scope == SpaceRow::Scope::layer ? spec_.n_layer : 1;
      for (Index i = 0; i < layers; ++i) layout_.groups.push_back(group_of(space, i));
    }
    for (const TensorRow& row : architecture_.tensors) {
      const bool per_layer = row.name.find("{i}") != std::string_view::npos;
      for (Index i = 0; i < (per_layer ? spec_.n_layer : 1); ++i) bind(row, i);
    }
    check_strangers();
    return std::move(layout_);
  }

 private:
  AxisGroup group_of(const SpaceRow& space, Index layer) const {
    const bool per_layer = space.scope == SpaceRow::Scope::layer;
    return {.name = group_name(space, layer),
            .kind = std::string(space.kind),
            .layer = per_layer ? layer : -1,
            .size = dimensions_.find(space.dimension)->second};
  }

  static std::string group_name(const SpaceRow& space, Index layer) {
    return space.scope == SpaceRow::Scope::layer ? fmt::format("layers.{}/{}", layer, space.kind)
                                                 : std::string(space.kind);
  }

  AxisGroup* group_named(std::string_view name) {
    const auto at = std::find_if(layout_.groups.begin(), layout_.groups.end(),
                                 [&](const AxisGroup& group) { return group.name == name; });
    return at == layout_.groups.end() ? nullptr : &*at;
  }

  void bind(const TensorRow& row, Index layer) {
    const std::string name = filled(row.name, spec_, layer);
    const StoredTensor* tensor = checkpoint_.find(name);
    const Expected wanted = expected(row.presence, spec_);
    if (tensor == nullptr) {
      if (wanted != Expected::yes) return;
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': is missing{}", name,
                              row.presence == Presence::always
                                  ? ""
                                  : ", but config.json says that the model has one"));
    }
    if (wanted == Expected::no) {
      throw Error(
          ErrorCode::input,
          fmt::format("tensor '{}': is there, but config.json says that the model has none", name));
    }
    known_.insert(tensor->name);
    if (tensor->dtype == DType::unknown) {  // the size of an element, so what to move
      throw Error(ErrorCode::unsupported, fmt::format("tensor '{}': is of type {}, which icd does "
                                                      "not know",
                                                      name, quote(tensor->dtype_text)));
    }
    if (dtype_bytes(tensor->dtype) == 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor '{}': is of type {}, expected elements of whole bytes", name,
                              tensor->dtype_text));
    }

    Shape shape;
    std::string names;
    const auto axes = split(row.axes, ',');
    for (std::size_t dim = 0; dim < axes.size(); ++dim) {
      std::int64_t length = 0;
      for (const std::string_view term : split(axes[dim], '+')) {
        length += bind_term(term, name, static_cast<int>(dim), static_cast<Index>(length), layer);
      }
      shape.push_back(length);
      names += fmt::format("{}{}", dim == 0 ? "" : ", ", axes[dim]);
    }
    if (tensor->shape != shape) {
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': shape is {}, expected ({}) = {}", name,
                              shape_text(tensor->shape), names, shape_text(shape)));
    }
  }

  /// Binds one term of an axis; returns its length.
  Index bind_term(std::string_view term, const std::string& tensor, int dim, Index offset,
                  Index layer) {
    for (const SpaceRow& space : architecture_.spaces) {
      if (space.kind != term) continue;
      AxisGroup& group = *group_named(group_name(space, layer));
      group.segments.push_back({tensor, dim, offset, 1});
      return group.size;
    }
    if (const auto found = dimensions_.find(term); found != dimensions_.end()) return found->second;
    Index number = 0;
    std::from_chars(term.data(), term.data() + term.size(), number);
    return number;
  }

  /// A tensor that the table does not know may still be on one of the spaces: then moving
  /// the others without it would break the model in silence.
  void check_strangers() {
    for (const StoredTensor& tensor : checkpoint_.tensors()) {
      if (known_.contains(tensor.name)) continue;
      for (const SpaceRow& space : architecture_.spaces) {
        const Index size = dimensions_.find(space.dimension)->second;
        if (std::find(tensor.shape.begin(), tensor.shape.end(), size) != tensor.shape.end()) {
          throw Error(ErrorCode::unsupported,
                      fmt::format("tensor '{}': is not part of {}, but its shape {} has an axis as "
                                  "long as {} = {}",
                                  tensor.name, architecture_.name, shape_text(tensor.shape),
                                  space.dimension, size),
                      "icd cannot know whether it has to follow; take it out of the checkpoint");
        }
      }
      layout_.strangers.push_back(tensor.name);
    }
  }

  const Checkpoint& checkpoint_;
  const ModelSpec& spec_;
  const Architecture& architecture_;
  const std::map<std::string, Index, std::less<>> dimensions_;
  Layout layout_;
  std::set<std::string_view> known_;
};

}  // namespace

const AxisGroup* Layout::find(std::string_view name) const noexcept {
  const auto at = std::find_if(groups.begin(), groups.end(),
                               [&](const AxisGroup& group) { return group.name == name; });
  return at == groups.end() ? nullptr : &*at;
}

std::vector<std::string> Layout::kinds() const {
  std::vector<std::string> kinds;
  for (const AxisGroup& group : groups) {
    if (std::find(kinds.begin(), kinds.end(), group.kind) == kinds.end())
      kinds.push_back(group.kind);
  }
  return kinds;
}

Layout layout_of(const Checkpoint& checkpoint, const ModelSpec& spec) {
  return Builder(checkpoint, spec, *find_architecture(spec.architecture)).build();
}

}  // namespace icd
