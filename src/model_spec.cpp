#include "icd/model_spec.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "icd/error.h"
#include "json.h"

namespace icd {
namespace {

/// config.json, asked for one key at a time; an absent key has the library's default.
class Config {
 public:
  Config(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  bool has(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found != object_.end() && !found->is_null();
  }
  std::int64_t integer(std::string_view key, std::int64_t absent) const {
    return has(key) ? integer_at(object_, key, name_) : absent;
  }
  double number(std::string_view key, double absent) const {
    return has(key) ? number_at(object_, key, name_) : absent;
  }
  bool boolean(std::string_view key, bool absent) const {
    return has(key) ? boolean_at(object_, key, name_) : absent;
  }
  std::string text(std::string_view key, std::string_view absent) const {
    return has(key) ? text_at(object_, key, name_) : std::string(absent);
  }
  /// A rank that may be "auto": d_model / 16, rounded up.
  std::int64_t rank(std::string_view key, std::int64_t d_model) const {
    const auto found = object_.find(std::string(key));
    const bool is_auto = found == object_.end() || found->is_null() ||
                         (found->is_string() && found->get<std::string>() == "auto");
    return is_auto ? (d_model + 15) / 16 : integer_at(object_, key, name_);
  }
  Config inside(std::string_view key) const {
    static const Json kEmpty = Json::object();
    return {has(key) ? object_at(object_, key, name_) : kEmpty, fmt::format("{}: {}", name_, key)};
  }
  bool is_empty_list(std::string_view key) const {
    return !has(key) || array_at(object_, key, name_).empty();
  }

 private:
  const Json& object_;
  std::string name_;
};

/// What config.json says, under Mamba's own names.
struct Stated {
  std::string dialect;
  std::int64_t n_layer, vocab, d_model, d_inner, d_state, d_conv, dt_rank;
  ModelSpec::Norm norm = ModelSpec::Norm::rms;
  double norm_epsilon;
  bool tied_head, conv_bias, proj_bias;
  // The key behind each size, for messages.
  std::string n_layer_key, vocab_key, d_model_key, d_inner_key, d_state_key, d_conv_key,
      dt_rank_key;
};

[[noreturn]] void not_supported(const std::string& what, const std::string& hint = {}) {
  throw Error(ErrorCode::unsupported, what, hint);
}

Stated stated_by_hf(const Config& config) {
  const std::string act = config.text("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    not_supported(fmt::format("{}: hidden_act is '{}', expected 'silu'", config.name(), act));
  }
  const std::int64_t d_model = config.integer("hidden_size", 768);
  return {
      .dialect = "hf",
      .n_layer = config.integer("num_hidden_layers", 32),
      .vocab = config.integer("vocab_size", 50280),
      .d_model = d_model,
      .d_inner = config.integer("intermediate_size", config.integer("expand", 2) * d_model),
      .d_state = config.integer("state_size", 16),
      .d_conv = config.integer("conv_kernel", 4),
      .dt_rank = config.rank("time_step_rank", d_model),
      .norm = ModelSpec::Norm::rms,
      .norm_epsilon = config.number("layer_norm_epsilon", 1e-5),
      .tied_head = config.boolean("tie_word_embeddings", true),
      .conv_bias = config.boolean("use_conv_bias", true),
      .proj_bias = config.boolean("use_bias", false),
      .n_layer_key = "num_hidden_layers",
      .vocab_key = "vocab_size",
      .d_model_key = "hidden_size",
      .d_inner_key = config.has("intermediate_size") ? "intermediate_size" : "expand * hidden_size",
      .d_state_key = "state_size",
      .d_conv_key = "conv_kernel",
      .dt_rank_key = "time_step_rank",
  };
}

Stated stated_by_mamba_ssm(const Config& config) {
  const Config ssm = config.inside("ssm_cfg");
  const std::string layer = ssm.text("layer", "Mamba1");
  if (layer != "Mamba1") {
    not_supported(fmt::format("{}: layer is '{}', expected 'Mamba1'", ssm.name(), layer));
  }
  if (!config.is_empty_list("attn_layer_idx")) {
    not_supported(fmt::format("{}: attn_layer_idx is not empty, expected a model without attention",
                              config.name()));
  }
  if (const auto mlp = config.integer("d_intermediate", 0); mlp != 0) {
    not_supported(fmt::format("{}: d_intermediate is {}, expected 0 (a model without MLPs)",
                              config.name(), mlp));
  }
  const std::int64_t d_model = config.integer("d_model", 2560);
  const std::int64_t multiple =
      std::max<std::int64_t>(config.integer("pad_vocab_size_multiple", 8), 1);
  const std::int64_t vocab = config.integer("vocab_size", 50277);
  return {
      .dialect = "mamba-ssm",
      .n_layer = config.integer("n_layer", 64),
      .vocab = vocab > std::numeric_limits<Index>::max() || vocab < 0
                   ? vocab
                   : (vocab + multiple - 1) / multiple * multiple,
      .d_model = d_model,
      .d_inner = ssm.integer("expand", 2) * d_model,
      .d_state = ssm.integer("d_state", 16),
      .d_conv = ssm.integer("d_conv", 4),
      .dt_rank = ssm.rank("dt_rank", d_model),
      .norm = config.boolean("rms_norm", true) ? ModelSpec::Norm::rms : ModelSpec::Norm::layer,
      .norm_epsilon = 1e-5,
      .tied_head = config.boolean("tie_embeddings", true),
      .conv_bias = ssm.boolean("conv_bias", true),
      .proj_bias = ssm.boolean("bias", false),
      .n_layer_key = "n_layer",
      .vocab_key = "vocab_size, padded,",
      .d_model_key = "d_model",
      .d_inner_key = "expand * d_model",
      .d_state_key = "ssm_cfg.d_state",
      .d_conv_key = "ssm_cfg.d_conv",
      .dt_rank_key = "ssm_cfg.dt_rank",
  };
}

Stated stated_by(const Config& config) {
  if (config.has("model_type")) {
    const std::string type = config.text("model_type", "");
    if (type != "mamba") {
      not_supported(fmt::format("{}: model_type is '{}', expected 'mamba'", config.name(), type),
                    "--layout auto finds out what it is");
    }
    return stated_by_hf(config);
  }
  if (config.has("d_model") && config.has("n_layer")) return stated_by_mamba_ssm(config);
  not_supported(
      fmt::format("{}: has neither model_type (Hugging Face) nor d_model and n_layer "
                  "(mamba-ssm)",
                  config.name()));
}

/// The one embedding of the checkpoint, and with it how all names begin.
const StoredTensor& embedding_of(const Checkpoint& checkpoint, ModelSpec& spec) {
  const StoredTensor* found = nullptr;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    for (const std::string_view name : {"embedding.weight", "embeddings.weight"}) {
      if (!tensor.name.ends_with(name)) continue;
      const std::string before = tensor.name.substr(0, tensor.name.size() - name.size());
      if (!before.empty() && !before.ends_with('.')) continue;
      if (found != nullptr) {
        throw Error(ErrorCode::input, fmt::format("tensors '{}' and '{}': which is the embedding?",
                                                  found->name, tensor.name));
      }
      found = &tensor;
      spec.backbone = before;
      spec.prefix = before.ends_with("backbone.") ? before.substr(0, before.size() - 9) : before;
      spec.embedding_name = name;
    }
  }
  if (found == nullptr) {
    throw Error(ErrorCode::input,
                "no tensor is called backbone.embedding.weight or backbone.embeddings.weight",
                "`icd inspect --tensors` lists the tensors");
  }
  return *found;
}

/// A tensor that the sizes are read from, of the right rank.
const StoredTensor& tensor_of_rank(const Checkpoint& checkpoint, const std::string& name,
                                   int rank) {
  const StoredTensor* tensor = checkpoint.find(name);
  if (tensor == nullptr) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': is missing", name));
  }
  if (static_cast<int>(tensor->shape.size()) != rank) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': shape is {}, expected {} axes", name,
                                              shape_text(tensor->shape), rank));
  }
  return *tensor;
}

/// `found` along an axis of `tensor`, if config.json agrees.
Index agreed(const std::string& config, const std::string& key, std::int64_t stated,
             const StoredTensor& tensor, std::string_view dimension, std::int64_t found) {
  if (stated != found) {
    throw Error(ErrorCode::input,
                fmt::format("{}: {} is {}, but tensor '{}' is {}: {} = {}", config, key, stated,
                            tensor.name, shape_text(tensor.shape), dimension, found),
                "config.json belongs to another checkpoint, or one of the two was edited");
  }
  if (found < 1 || found > std::numeric_limits<Index>::max()) {
    throw Error(ErrorCode::input, fmt::format("tensor '{}': shape is {}, expected {} of at least 1",
                                              tensor.name, shape_text(tensor.shape), dimension));
  }
  return static_cast<Index>(found);
}

/// 1 + the highest i of names "<backbone>layers.<i>.".
std::int64_t layers_in(const Checkpoint& checkpoint, const std::string& backbone) {
  const std::string stem = backbone + "layers.";
  std::int64_t layers = 0;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (!tensor.name.starts_with(stem)) continue;
    std::int64_t i = 0;
    std::size_t at = stem.size();
    for (; at < tensor.name.size() && at < stem.size() + 9; ++at) {
      const char c = tensor.name[at];
      if (c < '0' || c > '9') break;
      i = i * 10 + (c - '0');
    }
    if (at > stem.size()) layers = std::max(layers, i + 1);
  }
  return layers;
}

/// A tied head that is stored all the same has to be the embedding.
void check_tied_head(const Checkpoint& checkpoint, const ModelSpec& spec) {
  const StoredTensor* head = checkpoint.find(spec.head());
  const StoredTensor& embedding = *checkpoint.find(spec.embedding());
  if (!spec.tied_head || head == nullptr || head->begin == embedding.begin) return;
  const TensorView a = checkpoint.view(embedding);
  const TensorView b = checkpoint.view(*head);
  const bool same = head->shape == embedding.shape && head->dtype == embedding.dtype &&
                    a.is_packed() && b.is_packed() &&
                    std::equal(a.data, a.data + embedding.span_bytes, b.data);
  if (!same) {
    throw Error(
        ErrorCode::input,
        fmt::format("tensor '{}': differs from '{}', but config.json ties them", head->name,
                    embedding.name),
        "set tie_word_embeddings (mamba-ssm: tie_embeddings) to false if the head is its own");
  }
}

}  // namespace

std::string ModelSpec::tensor(std::string_view leaf) const { return backbone + std::string(leaf); }

std::string ModelSpec::tensor(Index layer, std::string_view leaf) const {
  return fmt::format("{}layers.{}.{}", backbone, layer, leaf);
}

std::string ModelSpec::embedding() const { return backbone + embedding_name; }

std::string ModelSpec::head() const { return prefix + "lm_head.weight"; }

std::map<std::string, Index, std::less<>> ModelSpec::dimensions() const {
  return {{"vocab", vocab},     {"d_model", d_model}, {"d_inner", d_inner},
          {"d_state", d_state}, {"d_conv", d_conv},   {"dt_rank", dt_rank}};
}

ModelSpec ModelSpec::of(const Checkpoint& checkpoint) {
  const std::string config_name = checkpoint.config_path().filename().string();
  if (checkpoint.config_text().empty()) {
    throw Error(ErrorCode::input,
                fmt::format("{}: {}", checkpoint.config_path().string(),
                            std::filesystem::exists(checkpoint.config_path()) ? "is empty"
                                                                              : "no such file"),
                "a checkpoint is read together with its config.json; --config FILE names another");
  }
  const Json document = parse_json(checkpoint.config_text(), config_name);
  if (!document.is_object()) {
    throw Error(ErrorCode::input, fmt::format("{}: is not a JSON object", config_name));
  }
  const Stated stated = stated_by(Config(document, config_name));

  ModelSpec spec;
  spec.architecture = "mamba1";
  spec.dialect = stated.dialect;
  spec.norm = stated.norm;
  spec.norm_epsilon = stated.norm_epsilon;
  spec.tied_head = stated.tied_head;
  spec.conv_bias = stated.conv_bias;
  spec.proj_bias = stated.proj_bias;

  const StoredTensor& embedding = embedding_of(checkpoint, spec);
  tensor_of_rank(checkpoint, embedding.name, 2);
  const StoredTensor& a_log = tensor_of_rank(checkpoint, spec.tensor(0, "mixer.A_log"), 2);
  const StoredTensor& conv = tensor_of_rank(checkpoint, spec.tensor(0, "mixer.conv1d.weight"), 3);
  const StoredTensor& dt_proj =
      tensor_of_rank(checkpoint, spec.tensor(0, "mixer.dt_proj.weight"), 2);

  const auto agree = [&](const std::string& key, std::int64_t value, const StoredTensor& tensor,
                         std::string_view dimension, std::size_t axis) {
    return agreed(config_name, key, value, tensor, dimension, tensor.shape[axis]);
  };
  spec.d_model = agree(stated.d_model_key, stated.d_model, embedding, "d_model", 1);
  spec.vocab = agree(stated.vocab_key, stated.vocab, embedding, "vocabulary", 0);
  spec.d_inner = agree(stated.d_inner_key, stated.d_inner, a_log, "d_inner", 0);
  spec.d_state = agree(stated.d_state_key, stated.d_state, a_log, "d_state", 1);
  spec.d_conv = agree(stated.d_conv_key, stated.d_conv, conv, "d_conv", 2);
  spec.dt_rank = agree(stated.dt_rank_key, stated.dt_rank, dt_proj, "dt_rank", 1);

  const std::int64_t layers = layers_in(checkpoint, spec.backbone);
  if (stated.n_layer != layers) {
    throw Error(ErrorCode::input,
                fmt::format("{}: {} is {}, but the tensors have {} layers", config_name,
                            stated.n_layer_key, stated.n_layer, layers));
  }
  spec.n_layer = static_cast<Index>(layers);
  check_tied_head(checkpoint, spec);
  return spec;
}

}  // namespace icd
