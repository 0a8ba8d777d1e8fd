#include "icd/layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <set>

#include "icd/error.h"
#include "icd/text_file.h"
#include "layout_axes.h"
#include "layout_scope.h"
#include "layout_table.h"
#include "mirrors.h"
#include "model_config.h"
#include "quote.h"
#include "size_system.h"

namespace icd {
namespace {

/// What a value of config.json, or of the command line, has to agree with.
struct Stated {
  std::string source;  ///< "config.json: n_groups", "--set ngroups"
  double value = 0;
};

/// The part of `name` before `end`, in which "{...}" stands for digits.
std::optional<std::string> prefix_before(std::string_view name, std::string_view end) {
  const auto open = end.find('{');
  if (open == std::string_view::npos) {
    if (!name.ends_with(end)) return std::nullopt;
    name.remove_suffix(end.size());
  } else {
    const std::string_view tail = end.substr(end.find('}') + 1);
    const std::string_view head = end.substr(0, open);
    if (!name.ends_with(tail)) return std::nullopt;
    name.remove_suffix(tail.size());
    const auto digits = name.find_last_not_of("0123456789");
    if (digits == std::string_view::npos || digits + 1 == name.size()) return std::nullopt;
    name = name.substr(0, digits + 1);
    if (!name.ends_with(head)) return std::nullopt;
    name.remove_suffix(head.size());
  }
  if (!name.empty() && !name.ends_with('.')) return std::nullopt;
  return std::string(name);
}

bool condition_holds(const ConditionRow& row, const ModelConfig& config,
                     const Checkpoint& checkpoint) {
  bool answer = false;
  if (row.of_tensors) {
    answer = std::any_of(checkpoint.tensors().begin(), checkpoint.tensors().end(),
                         [&](const StoredTensor& tensor) {
                           return prefix_before(tensor.name, row.key).has_value();
                         });
  } else if (row.values.empty()) {
    const Json* value = config.find(row.key);
    answer = value != nullptr && !(value->is_array() && value->empty()) &&
             !(value->is_number() && value->get<double>() == 0);
  } else {
    const std::string text = config.text(row.key);
    answer = std::find(row.values.begin(), row.values.end(), text) != row.values.end();
  }
  return answer != row.negated;
}

class Builder {
 public:
  Builder(const Checkpoint& checkpoint, const ModelConfig& config, const LayoutRequest& request,
          const LayoutTables& tables)
      : checkpoint_(checkpoint), config_(config), request_(request), tables_(tables) {}

  /// A whole model by its table. `spec` gives sizes, flags and names that are known already.
  Layout whole(const LayoutTable& table, const ModelSpec* spec) {
    layout_.name = table.name;
    layout_.spec.architecture = table.name;
    layout_.spec.dialect = table.dialect;
    root_.table = &table.scope;
    root_.prefix = base_ = spec != nullptr ? spec->backbone : base_of(table.root);
    root_.sizes = &system();
    root_.id = next_id_++;
    if (spec != nullptr) {
      preset_ = spec;
      for (const auto& [name, size] : spec->dimensions()) root_.sizes->set(name, size);
      root_.flags = {{"conv_bias", spec->conv_bias},
                     {"proj_bias", spec->proj_bias},
                     {"norm_bias", spec->norm == ModelSpec::Norm::layer},
                     {"tied", spec->tied_head}};
    }
    for (const GivenRow& row : table.scope.given) {
      if (!is_flag(row.name, table.scope)) continue;
      if (const auto value = value_of(row, *root_.sizes)) root_.flags[row.name] = *value != 0;
    }
    prepare(root_, table.scope.given, "");
    for (const GivenRow& row : table.scope.given) {  // counts that no axis has
      if (root_.sizes->value(row.name) || root_.flags.contains(row.name)) continue;
      if (const auto said = stated(row)) check_claim(row.name, *said);
      if (const auto value = value_of(row, *root_.sizes)) {
        root_.sizes->set(row.name, static_cast<std::int64_t>(*value));
      }
    }
    bind(root_);
    if (spec != nullptr) {
      layout_.spec = *spec;
    } else {
      fill_spec(table);
    }
    finish(table.name);
    return std::move(layout_);
  }

  /// Nothing but the mixers, wherever they are.
  Layout mixers() {
    layout_.name = "mixers";
    layout_.spec.architecture = "mixers";
    layout_.spec.dialect = "";
    layout_.spec.tied_head = false;
    std::set<std::string> taken;
    for (const BlockTable& block : tables_.blocks) {
      if (!block.anywhere) continue;
      const std::string& anchor = block.anchor;
      for (const StoredTensor& tensor : checkpoint_.tensors()) {
        if (!tensor.name.ends_with(anchor)) continue;
        const std::string prefix = tensor.name.substr(0, tensor.name.size() - anchor.size());
        if (!prefix.empty() && !prefix.ends_with('.')) continue;
        if (taken.contains(prefix) || !is_here(block, prefix)) continue;
        if (is_optimizer_state(tensor.name)) continue;
        taken.insert(prefix);
        add_mixer(block, prefix);
      }
    }
    refuse_look_alikes();
    if (layout_.blocks.empty()) return std::move(layout_);
    layout_.spec.n_layer = 0;
    finish("a mixer that icd knows");
    return std::move(layout_);
  }

 private:
  // ---- names

  /// What the names of the model begin with: what stands before `root` in a tensor's name.
  std::string base_of(const std::string& root) const {
    for (std::string_view rest = root;;) {
      const auto end = rest.find('|');
      for (const StoredTensor& tensor : checkpoint_.tensors()) {
        if (const auto prefix = prefix_before(tensor.name, rest.substr(0, end))) return *prefix;
      }
      if (end == std::string_view::npos) break;
      rest.remove_prefix(end + 1);
    }
    throw Error(ErrorCode::input,
                fmt::format("no tensor is called {}, as those of {} are", root, layout_.name),
                "`icd inspect --tensors` lists the tensors");
  }

  /// A prefix without its last component: "model.backbone." to "model.".
  static std::string above(const std::string& prefix) {
    if (prefix.empty()) return "";
    const auto dot = prefix.rfind('.', prefix.size() - 2);
    return dot == std::string::npos ? "" : prefix.substr(0, dot + 1);
  }

  std::string absolute(const Scope& scope, std::string_view name) const {
    if (!name.starts_with('^')) return scope.prefix + std::string(name);
    std::string prefix = base_;
    while (name.starts_with('^')) {
      prefix = above(prefix);
      name.remove_prefix(1);
    }
    return prefix + std::string(name);
  }

  /// The row's name in this checkpoint, "{}" left in place: the alternative that is there, or
  /// the first of them.
  std::string name_of(const TensorRow& row, const Scope& scope) const {
    for (const std::string& name : row.names) {
      const std::string whole = absolute(scope, name);
      if (checkpoint_.find(indexed(whole, 0)) != nullptr) return whole;
    }
    return absolute(scope, row.names.front());
  }

  // ---- config.json and --set

  bool holds(const std::vector<ConditionRow>& conditions) const {
    return std::all_of(conditions.begin(), conditions.end(), [&](const ConditionRow& row) {
      return condition_holds(row, config_, checkpoint_);
    });
  }

  std::optional<Stated> stated(const GivenRow& row) const {
    for (const std::string& key : row.keys) {
      if (const auto value = config_.number(key)) {
        return Stated{fmt::format("{}: {}", config_.name(), key), *value};
      }
    }
    return std::nullopt;
  }

  /// What config.json says, or, if it is there and silent, what its library takes for granted.
  std::optional<double> value_of(const GivenRow& row, const SizeSystem& sizes) const {
    if (const auto said = stated(row)) return said->value;
    if (!row.keys.empty() && !config_.is_there()) return std::nullopt;
    return literal(row.fallback, sizes);
  }

  static bool is_flag(const std::string& name, const ScopeTable& table) {
    return std::any_of(table.tensors.begin(), table.tensors.end(),
                       [&](const TensorRow& row) { return row.flag == name; }) ||
           std::any_of(table.eaches.begin(), table.eaches.end(),
                       [&](const EachRow& row) { return is_flag(name, row.scope.front()); });
  }

  std::optional<Stated> setting(const std::string& name) {
    const auto found = request_.settings.find(name);
    if (found == request_.settings.end()) return std::nullopt;
    layout_.settings.insert(*found);
    return Stated{fmt::format("--set {}", name), static_cast<double>(found->second)};
  }

  /// What a literal, or "@size", says; nothing for an empty one.
  static std::optional<double> literal(const std::string& text, const SizeSystem& sizes) {
    if (text.empty()) return std::nullopt;
    if (text.front() == '@') {
      const auto size = sizes.value(std::string_view(text).substr(1));
      return size ? std::optional(static_cast<double>(*size)) : std::nullopt;
    }
    if (text == "true") return 1;
    if (text == "false") return 0;
    double value = 0;
    std::from_chars(text.data(), text.data() + text.size(), value);
    return value;
  }

  // ---- sizes

  SizeSystem& system() { return *systems_.emplace_back(std::make_unique<SizeSystem>()); }

  /// What the shapes of a scope's tensors say of its sizes.
  void add_equations(Scope& scope, SizeSystem& sizes) {
    for (const SizeRow& row : scope.table->sizes) {
      Polynomial right;
      for (const AxisProduct& term : row.sum.terms) right = right + of_sizes(term);
      sizes.equate({{{row.name}, 1}}, right);
    }
    for (const TensorRow& row : scope.table->tensors) {
      const std::string name = name_of(row, scope);
      const StoredTensor* tensor = checkpoint_.find(indexed(name, 0));
      if (tensor == nullptr) continue;
      if (!row.index.empty()) {
        Index count = 0;
        while (checkpoint_.find(indexed(name, count)) != nullptr) ++count;
        sizes.equate(polynomial(row.index.front(), scope), count);
      }
      const std::vector<AxisSum>* only = nullptr;
      int of_rank = 0;
      for (const auto& shape : row.shapes) {
        if (shape.size() != tensor->shape.size()) continue;
        only = &shape;
        ++of_rank;
      }
      if (of_rank != 1) continue;
      for (std::size_t dim = 0; dim < only->size(); ++dim) {
        if ((*only)[dim].is_any()) continue;
        sizes.equate(polynomial((*only)[dim], scope), tensor->shape[dim]);
      }
    }
    for (const EachRow& row : scope.table->eaches) {
      for_each_instance(row, scope, [&](Scope& inside) { add_equations(inside, sizes); });
    }
  }

  /// Sizes, flags and numbers of a part, before its tensors are bound.
  void prepare(Scope& scope, const std::vector<GivenRow>& given, const std::string& where) {
    SizeSystem& sizes = *scope.sizes;
    add_equations(scope, sizes);
    if (preset_ == nullptr) sizes.solve();

    std::vector<std::pair<std::string, Stated>> claims;
    std::set<std::string> names = sizes.unknowns();
    for (const auto& [name, value] : sizes.values()) names.insert(name);
    for (const std::string& name : names) {
      if (const auto set = setting(name)) claims.emplace_back(name, *set);
    }
    for (const GivenRow& row : given) {
      if (!names.contains(row.name)) continue;
      if (const auto said = stated(row)) claims.emplace_back(row.name, *said);
    }
    for (const auto& [name, claim] : claims) {
      check_claim(name, claim);
      for (const auto& [other_name, other] : claims) {
        if (other_name != name || other.value == claim.value) continue;
        throw Error(ErrorCode::input, fmt::format("{} is {:.0f}, but {} is {:.0f}", claim.source,
                                                  claim.value, other.source, other.value));
      }
      if (!sizes.value(name)) {
        // Whoever has the file alone has to be told again: it goes into the plan.
        if (layout_.name == "mixers") layout_.settings[name] = static_cast<Index>(claim.value);
        sizes.set(name, static_cast<std::int64_t>(claim.value));
        sizes.solve();
      }
    }
    for (const GivenRow& row : given) {  // a library's own default is the last thing to ask
      if (!names.contains(row.name) || sizes.value(row.name)) continue;
      if (const auto value = literal(row.fallback, sizes)) {
        sizes.set(row.name, static_cast<std::int64_t>(*value));
        sizes.solve();
      }
    }
    for (const auto& [name, claim] : claims) {
      const auto found = sizes.value(name);
      if (!found || static_cast<double>(*found) == claim.value) continue;
      throw Error(ErrorCode::input,
                  fmt::format("{} is {:.0f}, but the tensors{} say {} = {}", claim.source,
                              claim.value, where, name, *found),
                  "the setting belongs to another checkpoint, or a file was edited");
    }
    if (!sizes.misfit().empty()) {
      std::vector<std::string> said;
      for (const auto& [name, claim] : claims) {
        said.push_back(fmt::format("{} is {:.0f}", claim.source, claim.value));
      }
      throw Error(ErrorCode::input,
                  said.empty() ? fmt::format("sizes{}: {}", where, sizes.misfit())
                               : fmt::format("{}, but then the tensors{} say that {}",
                                             fmt::join(said, ", "), where, sizes.misfit()),
                  "--set NAME=N or config.json has to say what the tensors' shapes allow");
    }
    if (const auto unknown = sizes.unknowns(); !unknown.empty() && preset_ == nullptr) {
      // The one that a person can know: asked for by name in the table, else the first.
      std::string asked = *unknown.begin();
      for (const GivenRow& row : given) {
        if (unknown.contains(row.name)) {
          asked = row.name;
          break;
        }
      }
      throw Error(ErrorCode::input,
                  fmt::format("{}: cannot be read from the shapes of the tensors{}", asked, where),
                  fmt::format("--set {}=N, or --config FILE with the model's config.json", asked));
    }
  }

  static void check_claim(const std::string& name, const Stated& claim) {
    if (claim.value >= 0 && claim.value < 1e9 && claim.value == std::floor(claim.value)) return;
    throw Error(ErrorCode::input, fmt::format("{} is {}, expected a whole number for {}",
                                              claim.source, claim.value, name));
  }

  // ---- scopes

  /// Every scope "prefix<number>rest" of which there are tensors, by number.
  void for_each_instance(const EachRow& row, Scope& scope,
                         const std::function<void(Scope&)>& visit) {
    const auto open = row.prefix.find('{');
    const auto close = row.prefix.find('}');
    const std::string head = absolute(scope, std::string_view(row.prefix).substr(0, open));
    const std::string tail = row.prefix.substr(close + 1);
    std::set<Index> found;
    for (const StoredTensor& tensor : checkpoint_.tensors()) {
      if (!tensor.name.starts_with(head)) continue;
      const char* begin = tensor.name.data() + head.size();
      const char* end = tensor.name.data() + tensor.name.size();
      Index number = 0;
      const auto [stop, failure] = std::from_chars(begin, end, number);
      if (failure != std::errc() || number < 0) continue;
      if (std::string_view(stop, static_cast<std::size_t>(end - stop)).starts_with(tail)) {
        found.insert(number);
      }
    }
    Index ordinal = 0;
    for (const Index number : found) {
      Scope inside;
      inside.table = &row.scope.front();
      inside.parent = &scope;
      inside.prefix = fmt::format("{}{}{}", head, number, tail);
      if (!row.with.empty() && checkpoint_.find(inside.prefix + row.with) == nullptr) continue;
      inside.sizes = scope.sizes;
      inside.flags = scope.flags;
      inside.layer = scope.layer < 0 ? number : scope.layer;
      inside.shown = shown_as(scope.shown, fmt::format("{}{}", row.prefix.substr(0, open), number));
      inside.id = id_of({static_cast<const void*>(&row), fmt::format("{}:{}", scope.id, number)});
      if (!row.cycle.empty()) {
        const Index modulus = number_or(row.modulus, scope);
        inside.at[row.cycle] = {ordinal % modulus, modulus};
      }
      ++ordinal;
      visit(inside);
    }
  }

  Index number_or(const std::string& text, Scope& scope) const {
    Index value = 0;
    const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
    if (parsed.ec == std::errc()) return std::max<Index>(value, 1);
    return std::max<Index>(static_cast<Index>(scope.sizes->value(text).value_or(1)), 1);
  }

  static std::string shown_as(const std::string& outer, const std::string& inner) {
    return outer.empty() ? inner : outer + "." + inner;
  }

  /// The same number for the same thing, whenever it is met.
  int id_of(const std::pair<const void*, std::string>& thing) {
    const auto [at, is_new] = ids_.emplace(thing, next_id_);
    if (is_new) ++next_id_;
    return at->second;
  }

  void bind(Scope& scope) {
    for (const TensorRow& row : scope.table->tensors) bind_row(row, scope);
    for (const EachRow& row : scope.table->eaches) {
      const bool is_layers = &scope == &root_ && row.prefix == "layers.{i}.";
      for_each_instance(row, scope, [&](Scope& inside) {
        if (is_layers) layers_.insert(inside.layer);
        bind(inside);
      });
    }
    std::map<std::string, std::size_t> blocks;  // by prefix within the scope
    for (const PartRow& part : scope.table->parts) add_part(part, scope, blocks);
    check_parts(scope, blocks);
    for (const StepRow& step : scope.table->steps) {
      Step found{
          .norm_weight = scope.prefix + step.norm + ".weight", .norm_bias = {}, .blocks = {}};
      if (checkpoint_.find(found.norm_weight) == nullptr) continue;
      if (checkpoint_.find(scope.prefix + step.norm + ".bias") != nullptr) {
        found.norm_bias = scope.prefix + step.norm + ".bias";
      }
      for (const std::string& prefix : step.prefixes) {
        if (const auto block = blocks.find(prefix); block != blocks.end()) {
          found.blocks.push_back(block->second);
        }
      }
      if (!found.blocks.empty()) steps_[scope.layer].push_back(std::move(found));
    }
  }

  bool is_here(const BlockTable& block, const std::string& prefix) const {
    for (const std::string& other : block.without) {
      if (checkpoint_.find(prefix + other) != nullptr) return false;
    }
    return std::all_of(
        block.scope.tensors.begin(), block.scope.tensors.end(), [&](const TensorRow& row) {
          return row.presence != TensorRow::Presence::always ||
                 std::any_of(row.names.begin(), row.names.end(), [&](const std::string& name) {
                   return checkpoint_.find(prefix + indexed(name, 0)) != nullptr;
                 });
        });
  }

  void add_part(const PartRow& part, Scope& scope, std::map<std::string, std::size_t>& blocks) {
    if (!holds(part.conditions)) return;
    const BlockTable& block = *tables_.block(part.type);
    Scope inside;
    inside.table = &block.scope;
    inside.parent = &scope;
    inside.is_part = true;
    inside.prefix = absolute(scope, part.prefix);
    const StoredTensor* anchor = checkpoint_.find(inside.prefix + block.anchor);
    if (anchor == nullptr) return;
    for (const std::string& other : block.without) {
      if (checkpoint_.find(inside.prefix + other) != nullptr) return;
    }
    inside.id = id_of({&part, fmt::format("{}:{}", anchor->file, anchor->begin)});
    inside.shown = part.shown.empty() ? scope.shown : shown_as(scope.shown, part.shown);
    inside.layer = scope.layer;
    inside.flags = scope.flags;
    std::vector<GivenRow> given;
    for (const GivenRow& row : part.given) {
      const bool is_port =
          std::find(block.ports.begin(), block.ports.end(), row.name) != block.ports.end();
      if (is_port) {
        inside.ports[row.name] =
            parse_axis_factor(row.keys.empty() ? row.fallback : row.keys.front());
      } else {
        given.push_back(row);
      }
    }
    for (const GivenRow& row : block.scope.given) {
      if (std::none_of(given.begin(), given.end(),
                       [&](const GivenRow& own) { return own.name == row.name; })) {
        given.push_back(row);
      }
    }
    blocks[part.prefix] = layout_.blocks.size();
    add_block(block, inside, given);
  }

  void add_mixer(const BlockTable& block, const std::string& prefix) {
    auto& scope = *mixer_scopes_.emplace_back(std::make_unique<Scope>());
    scope.table = &block.scope;
    scope.is_part = true;
    scope.prefix = prefix;
    scope.shown = prefix.empty() ? "" : prefix.substr(0, prefix.size() - 1);
    scope.id = next_id_++;
    add_block(block, scope, block.scope.given);
  }

  void add_block(const BlockTable& block, Scope& scope, const std::vector<GivenRow>& given) {
    SizeSystem& sizes = system();  // lives as long as the scope's groups may ask for it
    if (preset_ != nullptr) {
      for (const auto& [name, size] : preset_->dimensions()) sizes.set(name, size);
    }
    scope.sizes = &sizes;
    for (const GivenRow& row : given) {
      if (!is_flag(row.name, block.scope)) continue;
      if (const auto value = value_of(row, sizes)) scope.flags[row.name] = *value != 0;
    }
    const std::string where =
        scope.prefix.empty()
            ? ""
            : fmt::format(" of '{}'", scope.prefix.substr(0, scope.prefix.size() - 1));
    prepare(scope, given, where);

    Block result;
    result.type = block.type;
    result.prefix = scope.prefix;
    result.layer = scope.layer;
    for (const auto& [name, value] : sizes.values()) result.sizes[name] = static_cast<Index>(value);
    for (const std::string& port : block.ports) {
      AxisFactor factor;
      factor.name = port;
      const Polynomial size = polynomial(factor, scope);
      if (const auto value = sizes.value(size)) result.sizes[port] = static_cast<Index>(*value);
    }
    for (const GivenRow& row : given) {
      if (sizes.value(row.name) || scope.flags.contains(row.name)) continue;
      if (const auto value = value_of(row, sizes)) result.numbers[row.name] = *value;
    }
    block_ = &result;
    bind(scope);
    block_ = nullptr;
    layout_.blocks.push_back(std::move(result));
  }

  /// Tensors of a part without the one that a part is known by.
  void check_parts(Scope& scope, const std::map<std::string, std::size_t>& blocks) const {
    for (const PartRow& part : scope.table->parts) {
      if (blocks.contains(part.prefix) || !holds(part.conditions)) continue;
      const BlockTable& block = *tables_.block(part.type);
      const std::string prefix = absolute(scope, part.prefix);
      int there = 0;
      int wanted = 0;
      for (const TensorRow& row : block.scope.tensors) {
        if (row.presence != TensorRow::Presence::always) continue;
        ++wanted;
        there += checkpoint_.find(prefix + indexed(row.names.front(), 0)) != nullptr ? 1 : 0;
      }
      if (there > 0 && 2 * there >= wanted) {
        throw Error(ErrorCode::input,
                    fmt::format("tensor '{}{}': is missing", prefix, block.anchor));
      }
    }
  }

  // ---- tensors

  enum class Expected { yes, no, either };

  Expected expected(const TensorRow& row, const Scope& scope) const {
    if (row.presence == TensorRow::Presence::always) return Expected::yes;
    if (row.presence == TensorRow::Presence::either) return Expected::either;
    const auto flag = scope.flags.find(row.flag);
    if (flag == scope.flags.end()) return Expected::either;
    if (row.presence == TensorRow::Presence::flagged)
      return flag->second ? Expected::yes : Expected::no;
    return flag->second ? Expected::either : Expected::yes;
  }

  /// Whatever begins so is known, and stays: "tcn_encoder.*".
  void carry(const std::string& beginning) {
    for (const StoredTensor& tensor : checkpoint_.tensors()) {
      if (tensor.name.starts_with(beginning)) known_.insert(tensor.name);
    }
  }

  void bind_row(const TensorRow& row, Scope& scope) {
    if (row.carried && row.names.front().ends_with('*')) {
      const std::string name = absolute(scope, row.names.front());
      carry(name.substr(0, name.size() - 1));
      return;
    }
    const std::string name = name_of(row, scope);
    const Expected wanted = expected(row, scope);
    if (checkpoint_.find(indexed(name, 0)) == nullptr) {
      if (wanted != Expected::yes) return;
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': is missing{}", indexed(name, 0),
                              row.presence == TensorRow::Presence::always
                                  ? ""
                                  : ", but config.json says that the model has one"));
    }
    if (wanted == Expected::no) {
      throw Error(ErrorCode::input,
                  fmt::format("tensor '{}': is there, but config.json says that the model has none",
                              indexed(name, 0)));
    }
    Index count = 1;
    if (!row.index.empty()) count = length_of(polynomial(row.index.front(), scope), *scope.sizes);
    const std::vector<AxisSum>* shape = nullptr;
    for (Index e = 0; e < count; ++e) {
      const std::string own = indexed(name, e);
      const StoredTensor* tensor = checkpoint_.find(own);
      if (tensor == nullptr) {
        throw Error(ErrorCode::input, fmt::format("tensor '{}': is missing", own));
      }
      known_.insert(tensor->name);
      if (block_ != nullptr) {
        block_->tensors.emplace(
            scope.is_part ? indexed(row.role, e) : own.substr(block_->prefix.size()), own);
      }
      if (row.carried) continue;
      check_dtype(*tensor);
      shape = &shape_of(row, scope, *tensor);
    }
    if (row.carried) return;
    bind_axes(row, *shape, scope, name, count);
  }

  static void check_dtype(const StoredTensor& tensor) {
    if (tensor.dtype == DType::unknown) {  // the size of an element, so what to move
      throw Error(ErrorCode::unsupported, fmt::format("tensor '{}': is of type {}, which icd does "
                                                      "not know",
                                                      tensor.name, quote(tensor.dtype_text)));
    }
    if (dtype_bytes(tensor.dtype) == 0) {
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor '{}': is of type {}, expected elements of whole bytes",
                              tensor.name, tensor.dtype_text));
    }
  }

  /// The alternative whose lengths the tensor has.
  const std::vector<AxisSum>& shape_of(const TensorRow& row, Scope& scope,
                                       const StoredTensor& tensor) const {
    Shape first;
    for (const auto& alternative : row.shapes) {
      Shape shape;
      if (alternative.size() != tensor.shape.size() && row.shapes.size() > 1) continue;
      for (std::size_t dim = 0; dim < alternative.size(); ++dim) {
        const bool is_any = alternative[dim].is_any() && dim < tensor.shape.size();
        shape.push_back(
            is_any ? tensor.shape[dim]
                   : std::int64_t{length_of(polynomial(alternative[dim], scope), *scope.sizes)});
      }
      if (tensor.shape == shape) return alternative;
      if (first.empty()) first = std::move(shape);
    }
    throw Error(ErrorCode::input,
                fmt::format("tensor '{}': shape is {}, expected ({}) = {}", tensor.name,
                            shape_text(tensor.shape), row.texts.front(), shape_text(first)));
  }

  // ---- groups

  void bind_axes(const TensorRow& row, const std::vector<AxisSum>& shape, Scope& scope,
                 const std::string& name, Index count) {
    bool moves = false;
    for_each_segment(row, shape, scope, name, count,
                     [&](const Space& space, Index instance, Index size, AxisSegment&& segment) {
                       group_of(space, instance, size).segments.push_back(std::move(segment));
                       note_length(*space.home, size, size_text(space));
                       moves = true;
                     });
    if (moves) note_products(shape, scope);
  }

  /// Lengths of products that move as a whole stretch: heads by headdim.
  void note_products(const std::vector<AxisSum>& shape, Scope& scope) {
    for (const AxisSum& axis : shape) {
      for (const AxisProduct& term : axis.terms) {
        if (term.factors.size() < 2) continue;
        std::vector<std::string> words;
        bool moves = false;
        for (const AxisFactor& factor : term.factors) {
          if (factor.kind != AxisFactor::Kind::name) break;
          const Space space = space_named(scope, factor.name);
          moves = moves || (space.row != nullptr && !space.row->fixed && size_of(space) > 1);
          words.push_back(space.row == nullptr ? factor.name : size_text(space));
        }
        if (!moves || words.size() != term.factors.size()) continue;
        note_length(scope, length_of(polynomial(term, scope), *scope.sizes),
                    fmt::format("{}", fmt::join(words, " * ")));
      }
    }
  }

  static std::string size_text(const Space& space) {
    std::string text;
    for (const AxisFactor& factor : space.row->size.factors) {
      if (!text.empty()) text += " * ";
      text += factor.kind == AxisFactor::Kind::number ? std::to_string(factor.number) : factor.name;
    }
    return text;
  }

  AxisGroup& group_of(const Space& space, Index instance, Index size) {
    const auto key = std::tuple(space.home->id, space.row, instance);
    if (const auto found = groups_.find(key); found != groups_.end()) {
      return layout_.groups[found->second];
    }
    groups_.emplace(key, layout_.groups.size());
    for (const SpaceRow& row : space.home->table->spaces) {  // in the order of the table
      if (std::find(kinds_.begin(), kinds_.end(), &row) == kinds_.end()) kinds_.push_back(&row);
    }
    depths_.push_back(static_cast<int>(space.row->per.size()));
    AxisGroup group;
    const std::string instance_text = space.row->per.empty() ? "" : fmt::format(".{}", instance);
    group.name = space.home->shown.empty()
                     ? fmt::format("{}{}", space.row->kind, instance_text)
                     : fmt::format("{}/{}{}", space.home->shown, space.row->kind, instance_text);
    group.kind = space.row->kind;
    group.layer = space.home->layer;
    group.size = size;
    layout_.groups.push_back(std::move(group));
    return layout_.groups.back();
  }

  // ---- the end

  struct Length {
    std::string prefix;
    Index length;
    std::string words;
  };

  /// A tensor beside a part may be on its axes, too: an adapter of the layer.
  void note_length(const Scope& home, Index length, std::string words) {
    const bool is_in_layer = home.is_part && home.parent != nullptr;
    const std::string& prefix = is_in_layer ? home.parent->prefix : home.prefix;
    for (const Length& known : moving_) {
      if (known.length == length && known.prefix == prefix) return;
    }
    moving_.push_back({prefix, length, std::move(words)});
  }

  void finish(std::string_view what) {
    check_settings();
    sort_groups();
    const std::set<std::string> mirrored = add_mirrors(checkpoint_, base_, known_, layout_.groups);
    // A tensor that the table does not know may still be on one of the spaces: then moving
    // the others without it would break the model in silence.
    for (const StoredTensor& tensor : checkpoint_.tensors()) {
      if (known_.contains(tensor.name) || mirrored.contains(tensor.name)) continue;
      for (const Length& moving : moving_) {
        const bool is_inside = moving.prefix == root_.prefix && root_.table != nullptr
                                   ? true
                                   : tensor.name.starts_with(moving.prefix);
        if (!is_inside || moving.length < 3) continue;
        if (std::find(tensor.shape.begin(), tensor.shape.end(), moving.length) ==
            tensor.shape.end()) {
          continue;
        }
        throw Error(
            ErrorCode::unsupported,
            fmt::format("tensor '{}': is not part of {}, but its shape {} has an axis as "
                        "long as {} = {}",
                        tensor.name, what, shape_text(tensor.shape), moving.words, moving.length),
            "icd cannot know whether it has to follow; take it out of the checkpoint");
      }
      layout_.strangers.push_back(tensor.name);
    }
    if (!steps_.empty()) {
      for (auto& [layer, steps] : steps_) {
        if (layout_.wiring) layout_.wiring->layers.push_back(std::move(steps));
      }
    }
  }

  void check_settings() const {
    for (const auto& [name, value] : request_.settings) {
      if (layout_.settings.contains(name)) continue;
      std::set<std::string> names;
      for (const Block& block : layout_.blocks) {
        for (const auto& [size, found] : block.sizes) names.insert(size);
      }
      throw Error(ErrorCode::usage,
                  fmt::format("--set {}: there is no such size, expected one of {}", name,
                              fmt::join(names, ", ")));
    }
  }

  /// Finer before coarser, then in the order of the table and of the layers.
  void sort_groups() {
    std::vector<std::size_t> order(layout_.groups.size());
    std::vector<std::size_t> kind_of(order.size());
    for (const auto& [key, g] : groups_) {
      kind_of[g] = static_cast<std::size_t>(
          std::find(kinds_.begin(), kinds_.end(), std::get<1>(key)) - kinds_.begin());
    }
    // Spaces of the whole model come last: they are what --group all names last.
    for (std::size_t g = 0; g < order.size(); ++g) {
      order[g] = g;
      if (layout_.groups[g].layer < 0 && root_.table != nullptr) kind_of[g] += kinds_.size();
    }
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return std::tuple(-depths_[a], kind_of[a], layout_.groups[a].layer) <
             std::tuple(-depths_[b], kind_of[b], layout_.groups[b].layer);
    });
    std::vector<AxisGroup> sorted;
    for (const std::size_t g : order) sorted.push_back(std::move(layout_.groups[g]));
    layout_.groups = std::move(sorted);
  }

  void fill_spec(const LayoutTable& table) {
    ModelSpec& spec = layout_.spec;
    spec.backbone = base_;
    spec.prefix = above(base_);
    spec.n_layer = static_cast<Index>(layers_.size());
    const auto size = [&](const char* name) {
      return static_cast<Index>(root_.sizes->value(name).value_or(0));
    };
    spec.d_model = size("d_model");
    spec.vocab = size("vocab");
    for (const Block& block : layout_.blocks) {
      const auto of = [&](const char* name) {
        const auto found = block.sizes.find(name);
        return found == block.sizes.end() ? 0 : found->second;
      };
      if (spec.d_state == 0) spec.d_state = of("d_state");
      if (spec.d_conv == 0) spec.d_conv = of("d_conv");
      if (spec.dt_rank == 0) spec.dt_rank = of("dt_rank");
      if (spec.d_inner == 0) spec.d_inner = of("d_inner");
    }
    const auto tied = root_.flags.find("tied");
    spec.tied_head = tied != root_.flags.end() && tied->second;
    spec.embedding_name = name_of(table.scope.tensors.front(), root_).substr(base_.size());
    if (table.wiring.empty()) return;
    Wiring wiring;
    const auto here = [&](const std::string& names) {
      TensorRow row;
      for (std::string_view rest = names;;) {
        const auto end = rest.find('|');
        row.names.emplace_back(rest.substr(0, end));
        if (end == std::string_view::npos) break;
        rest.remove_prefix(end + 1);
      }
      return name_of(row, root_);
    };
    wiring.embedding = here(table.wiring.at("embedding"));
    spec.embedding_name = wiring.embedding.substr(base_.size());
    wiring.final_norm_weight = here(table.wiring.at("norm"));
    const std::string bias =
        wiring.final_norm_weight.substr(0, wiring.final_norm_weight.size() - 6) + "bias";
    if (checkpoint_.find(bias) != nullptr) wiring.final_norm_bias = bias;
    if (checkpoint_.find(wiring.embedding) == nullptr) return;
    wiring.head = here(table.wiring.at("head"));
    if (tied == root_.flags.end()) spec.tied_head = checkpoint_.find(wiring.head) == nullptr;
    spec.norm = wiring.final_norm_bias.empty() ? ModelSpec::Norm::rms : ModelSpec::Norm::layer;
    if (spec.tied_head || checkpoint_.find(wiring.head) == nullptr) wiring.head = wiring.embedding;
    for (const GivenRow& row : table.numbers) {
      if (const auto value = value_of(row, *root_.sizes)) wiring.numbers[row.name] = *value;
    }
    if (const auto eps = wiring.numbers.find("norm_eps"); eps != wiring.numbers.end()) {
      spec.norm_epsilon = eps->second;
    }
    layout_.wiring = std::move(wiring);
  }

  /// A tensor that only scans have, of no mixer that icd knows.
  void refuse_look_alikes() const {
    for (const StoredTensor& tensor : checkpoint_.tensors()) {
      if (known_.contains(tensor.name) || is_optimizer_state(tensor.name)) continue;
      if (!tensor.name.ends_with("A_log")) continue;
      const std::string prefix = tensor.name.substr(0, tensor.name.size() - 5);
      if (!prefix.empty() && !prefix.ends_with('.')) continue;
      if (layout_mirrors(prefix)) continue;
      for (const LookAlike& other : tables_.look_alikes) {
        if (other.tensor.empty() || checkpoint_.find(prefix + other.tensor) == nullptr) continue;
        throw Error(ErrorCode::unsupported,
                    fmt::format("tensor '{}{}': belongs to {}, which is not Mamba", prefix,
                                other.tensor, other.words));
      }
      throw Error(ErrorCode::unsupported,
                  fmt::format("tensor '{}': belongs to no mixer that icd knows", tensor.name),
                  "`icd inspect --tensors` lists the tensors; src/layouts/README.md says how a "
                  "table is written");
    }
  }

  /// Is `prefix` a copy of a mixer that is known (ema.net.0. of net.0.)?
  bool layout_mirrors(const std::string& prefix) const {
    return std::any_of(layout_.blocks.begin(), layout_.blocks.end(), [&](const Block& block) {
      const auto a = block.prefix.rfind('.', block.prefix.size() < 2 ? 0 : block.prefix.size() - 2);
      const std::string tail = a == std::string::npos ? block.prefix : block.prefix.substr(a);
      return prefix.ends_with(tail);
    });
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const LayoutRequest& request_;
  const LayoutTables& tables_;
  const ModelSpec* preset_ = nullptr;
  Layout layout_;
  std::string base_;
  Scope root_;
  std::set<Index> layers_;
  int next_id_ = 0;
  std::map<std::pair<const void*, std::string>, int> ids_;
  std::vector<std::unique_ptr<SizeSystem>> systems_;
  std::vector<std::unique_ptr<Scope>> mixer_scopes_;
  std::map<std::tuple<int, const SpaceRow*, Index>, std::size_t> groups_;
  std::vector<const SpaceRow*> kinds_;
  std::vector<int> depths_;
  std::vector<Length> moving_;
  std::map<Index, std::vector<Step>> steps_;
  std::set<std::string> known_;
  Block* block_ = nullptr;  ///< whose tensors are being bound
};

/// The key of config.json that says what a model is.
std::string model_type(const ModelConfig& config) { return config.text("model_type"); }

void refuse_look_alike(const ModelConfig& config, const LayoutTables& tables) {
  const std::string type = model_type(config);
  for (const LookAlike& other : tables.look_alikes) {
    if (std::find(other.model_types.begin(), other.model_types.end(), type) ==
        other.model_types.end()) {
      continue;
    }
    throw Error(ErrorCode::unsupported,
                fmt::format("{}: model_type is '{}': {}, which is not Mamba", config.name(), type,
                            other.words));
  }
}

bool matches(const LayoutTable& table, const ModelConfig& config, const Checkpoint& checkpoint) {
  return std::any_of(table.when.begin(), table.when.end(), [&](const auto& conditions) {
    return std::all_of(conditions.begin(), conditions.end(), [&](const ConditionRow& row) {
      return condition_holds(row, config, checkpoint);
    });
  });
}

/// The table that was asked for by name: of several dialects the one whose tensors are there.
const LayoutTable& table_named(const std::string& name, const LayoutTables& tables,
                               const ModelConfig& config, const Checkpoint& checkpoint) {
  const LayoutTable* found = nullptr;
  std::set<std::string> names = {"auto", "mixers"};
  for (const LayoutTable& table : tables.layouts) {
    names.insert(table.name);
    if (table.name != name) continue;
    if (matches(table, config, checkpoint)) return table;
    if (found == nullptr) found = &table;
  }
  if (found != nullptr) return *found;
  throw Error(ErrorCode::usage, fmt::format("--layout: there is no '{}', expected one of {}", name,
                                            fmt::join(names, ", ")));
}

/// The built-in tables and those of a file, which come last.
LayoutTables tables_with(const std::filesystem::path& file) {
  constexpr std::int64_t kMaxBytes = 1 << 20;
  LayoutTables tables = built_in_layout_tables();
  const std::size_t before = tables.layouts.size();
  parse_layout_tables(read_text(file, kMaxBytes), file.filename().string(), tables);
  if (tables.layouts.size() == before) {
    throw Error(ErrorCode::input, fmt::format("{}: has no layout", file.filename().string()),
                "src/layouts/README.md says how one is written");
  }
  return tables;
}

Layout whole(const LayoutTable& table, const LayoutTables& tables, const Checkpoint& checkpoint,
             const ModelConfig& config, const LayoutRequest& request) {
  if (table.name == "mamba1") return layout_of(checkpoint, ModelSpec::of(checkpoint));
  return Builder(checkpoint, config, request, tables).whole(table, nullptr);
}

}  // namespace

const AxisGroup* Layout::find(std::string_view group_name) const noexcept {
  const auto at = std::find_if(groups.begin(), groups.end(),
                               [&](const AxisGroup& group) { return group.name == group_name; });
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
  static const LayoutRequest kNothingAsked;
  const ModelConfig none;
  const LayoutTables& tables = built_in_layout_tables();
  return Builder(checkpoint, none, kNothingAsked, tables)
      .whole(table_named("mamba1", tables, none, checkpoint), &spec);
}

Layout layout_of(const Checkpoint& checkpoint, const LayoutRequest& request) {
  ModelConfig config;
  if (checkpoint.config_text().empty() && std::filesystem::exists(checkpoint.config_path())) {
    throw Error(ErrorCode::input, fmt::format("{}: is empty", checkpoint.config_path().string()),
                "without it icd would look for the mixers alone");
  }
  if (!checkpoint.config_text().empty()) {
    config = ModelConfig(checkpoint.config_text(), checkpoint.config_path().filename().string());
  }
  LayoutTables own;
  if (request.name.ends_with(".layout")) own = tables_with(request.name);
  const LayoutTables& tables = own.layouts.empty() ? built_in_layout_tables() : own;
  if (!own.layouts.empty()) {
    const LayoutTable& table = table_named(own.layouts.back().name, tables, config, checkpoint);
    return whole(table, tables, checkpoint, config, request);
  }
  if (request.name != "auto" && request.name != "mixers") {
    return whole(table_named(request.name, tables, config, checkpoint), tables, checkpoint, config,
                 request);
  }
  refuse_look_alike(config, tables);
  if (request.name == "auto") {
    for (const LayoutTable& table : tables.layouts) {
      if (!matches(table, config, checkpoint)) continue;
      return whole(table, tables, checkpoint, config, request);
    }
  }
  Layout layout = Builder(checkpoint, config, request, tables).mixers();
  if (!layout.blocks.empty()) return layout;
  const std::string type = model_type(config);
  if (!type.empty()) {
    throw Error(
        ErrorCode::unsupported,
        fmt::format("{}: model_type is '{}', which icd does not know, and no tensor belongs "
                    "to a Mamba mixer",
                    config.name(), type),
        "`icd inspect --tensors` lists the tensors");
  }
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: no tensor belongs to a Mamba mixer that icd knows",
                          checkpoint.files().front()->name),
              "`icd inspect --tensors` lists the tensors");
}

}  // namespace icd
