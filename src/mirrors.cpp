#include "mirrors.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <tuple>

#include "icd/error.h"

namespace icd {
namespace {

/// "optimizer_states.0.state.7.exp_avg" is moment 7 of "optimizer_states.0.state.".
struct Moment {
  std::string before;
  Index parameter = 0;
};

std::optional<Moment> moment(std::string_view name) {
  const auto optimizer = name.find("optimizer");
  if (optimizer == std::string_view::npos) return std::nullopt;
  const auto state = name.find("state.", optimizer + 9);
  if (state == std::string_view::npos) return std::nullopt;
  const std::string_view rest = name.substr(state + 6);
  Moment found{std::string(name.substr(0, state + 6)), 0};
  const auto [end, failure] =
      std::from_chars(rest.data(), rest.data() + rest.size(), found.parameter);
  if (failure != std::errc() || end == rest.data() + rest.size() || *end != '.') {
    return std::nullopt;
  }
  return found;
}

bool is_buffer(std::string_view name) {
  return name.ends_with("running_mean") || name.ends_with("running_var") ||
         name.ends_with("num_batches_tracked");
}

/// The weights in the order of the file, as an optimizer counts them.
std::vector<const StoredTensor*> parameters_of(const Checkpoint& checkpoint,
                                               const std::set<std::string>& mirrored) {
  std::vector<const StoredTensor*> parameters;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    const bool is_alias = !parameters.empty() && parameters.back()->file == tensor.file &&
                          parameters.back()->begin == tensor.begin && tensor.span_bytes > 0;
    if (is_alias || is_buffer(tensor.name) || mirrored.contains(tensor.name)) continue;
    if (is_optimizer_state(tensor.name)) continue;
    parameters.push_back(&tensor);
  }
  return parameters;
}

/// Where the end of a weight's name stands in another name.
struct Match {
  std::string_view tail;    ///< of the weight: "net.0.D" of "state_dict.net.0.D"
  std::string_view before;  ///< in the other: "ema." of "ema.net.0.D"
  std::string_view after;   ///< ".exp_avg"
  std::size_t components = 0;
};

/// The longest end of `name`, in whole components, that `other` holds.
Match longest_match(std::string_view name, std::string_view other) {
  Match best;
  std::size_t components = 0;
  for (auto at = name.size();;) {
    const auto dot = at == 0 ? std::string_view::npos : name.rfind('.', at - 1);
    const std::string_view tail = dot == std::string_view::npos ? name : name.substr(dot + 1);
    ++components;
    const auto found = other.find(tail);
    const bool is_whole =
        found != std::string_view::npos && (found == 0 || other[found - 1] == '.') &&
        (found + tail.size() == other.size() || other[found + tail.size()] == '.');
    if (!is_whole) return best;
    best = {tail, other.substr(0, found), other.substr(found + tail.size()), components};
    if (dot == std::string_view::npos) return best;
    at = dot;
  }
}

/// Copies of a model are copies of all of it: a tensor that happens to be called like a weight
/// and to have its shape is none.
class Copies {
 public:
  Copies(const Checkpoint& checkpoint, const std::set<std::string>& known)
      : checkpoint_(checkpoint), known_(known) {}

  /// Has every weight that begins as this one does its counterpart?
  bool are_complete(const std::string& weight, const Match& match) {
    const std::string begin = weight.substr(0, weight.size() - match.tail.size());
    const auto key = std::tuple(begin, std::string(match.before), std::string(match.after));
    if (const auto known = answers_.find(key); known != answers_.end()) return known->second;
    bool complete = true;
    for (auto at = known_.lower_bound(begin); at != known_.end() && at->starts_with(begin); ++at) {
      const StoredTensor* copy = checkpoint_.find(
          fmt::format("{}{}{}", match.before, at->substr(begin.size()), match.after));
      complete = complete && copy != nullptr && copy->shape == checkpoint_.find(*at)->shape;
    }
    return answers_[key] = complete;
  }

 private:
  const Checkpoint& checkpoint_;
  const std::set<std::string>& known_;
  std::map<std::tuple<std::string, std::string, std::string>, bool> answers_;
};

}  // namespace

bool is_optimizer_state(std::string_view name) noexcept {
  return name.find("optimizer") != std::string_view::npos;
}

std::set<std::string> add_mirrors(const Checkpoint& checkpoint, const std::string& base,
                                  const std::set<std::string>& known,
                                  std::vector<AxisGroup>& groups) {
  std::map<std::string, std::vector<std::string>> mirrors;  // by the weight
  std::set<std::string> names;
  const auto add = [&](const std::string& weight, const std::string& mirror) {
    mirrors[weight].push_back(mirror);
    names.insert(mirror);
  };

  // By name: the weight of the same shape with the longest common end, if there is only one.
  // A name of the model itself has two components at the least; one alone says too little.
  Copies copies(checkpoint, known);
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (known.contains(tensor.name) || moment(tensor.name)) continue;
    if (!base.empty() && tensor.name.starts_with(base)) continue;
    const std::string* best = nullptr;
    Match longest;
    bool is_unique = true;
    for (const std::string& weight : known) {
      const Match match = longest_match(weight, tensor.name);
      if (match.components < std::max<std::size_t>(longest.components, 2)) continue;
      if (checkpoint.find(weight)->shape != tensor.shape) continue;
      is_unique = match.components > longest.components;
      longest = match;
      best = &weight;
    }
    if (best != nullptr && is_unique && copies.are_complete(*best, longest)) {
      add(*best, tensor.name);
    }
  }

  // By number.
  const auto parameters = parameters_of(checkpoint, names);
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    const auto found = moment(tensor.name);
    if (!found || tensor.shape.empty()) continue;  // a step count has no axis
    const auto number = static_cast<std::size_t>(found->parameter);
    if (found->parameter < 0 || number >= parameters.size() ||
        parameters[number]->shape != tensor.shape) {
      const bool is_one_number = tensor.shape.size() == 1 && tensor.shape[0] == 1;
      if (is_one_number) continue;
      throw Error(
          ErrorCode::unsupported,
          fmt::format("tensor '{}': shape is {}, expected {}, that of parameter {}", tensor.name,
                      shape_text(tensor.shape),
                      number < parameters.size() ? shape_text(parameters[number]->shape) : "none",
                      found->parameter),
          "the optimizer's parameters are not those of the file in its order: save without it");
    }
    if (known.contains(parameters[number]->name)) add(parameters[number]->name, tensor.name);
    names.insert(tensor.name);
  }

  for (AxisGroup& group : groups) {
    const std::size_t own = group.segments.size();
    for (std::size_t s = 0; s < own; ++s) {
      const auto found = mirrors.find(group.segments[s].tensor);
      if (found == mirrors.end()) continue;
      for (const std::string& mirror : found->second) {
        AxisSegment segment = group.segments[s];
        segment.tensor = mirror;
        group.segments.push_back(std::move(segment));
      }
    }
  }
  return names;
}

}  // namespace icd
