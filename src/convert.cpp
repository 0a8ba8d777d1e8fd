#include "icd/convert.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "icd/digest.h"
#include "icd/error.h"
#include "icd/write_checkpoint.h"
#include "json.h"

namespace icd {
namespace {

namespace fs = std::filesystem;

constexpr double kNormEpsilon = 1e-5;  // the only one mamba-ssm makes its norms with
constexpr Index kPadMultiple = 8;      // MambaConfig's default
constexpr const char* kHead = "lm_head.weight";

[[noreturn]] void no_word(std::string_view what, Dialect to, std::string_view for_what,
                          std::string hint = {}) {
  throw Error(ErrorCode::unsupported,
              fmt::format("{}: {} has no word for {}", what, dialect_name(to), for_what),
              std::move(hint));
}

/// config.json, or a part of it.
class Keys {
 public:
  Keys(const Json& object, std::string name) : object_(object), name_(std::move(name)) {}

  const std::string& name() const { return name_; }
  const Json& json() const { return object_; }

  const Json* find(std::string_view key) const {
    const auto found = object_.find(std::string(key));
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  bool boolean(std::string_view key, bool absent) const {
    return find(key) == nullptr ? absent : boolean_at(object_, key, name_);
  }
  double number(std::string_view key, double absent) const {
    return find(key) == nullptr ? absent : number_at(object_, key, name_);
  }
  std::int64_t integer(std::string_view key, std::int64_t absent) const {
    return find(key) == nullptr ? absent : integer_at(object_, key, name_);
  }
  std::string text(std::string_view key, std::string_view absent) const {
    return find(key) == nullptr ? std::string(absent) : text_at(object_, key, name_);
  }
  std::string words(std::string_view key) const {
    return fmt::format("{}: {} is {}", name_, key, find(key)->dump());
  }

 private:
  const Json& object_;
  std::string name_;
};

/// A model as both dialects see it.
struct Facts {
  bool is_mamba2 = false;
  std::int64_t d_model = 0, d_inner = 0, n_layer = 0, vocab = 0;
  std::int64_t d_state = 0, d_conv = 0, dt_rank = 0;  // dt_rank: Mamba-1
  std::int64_t heads = 0, headdim = 0, ngroups = 0;   // Mamba-2
  bool conv_bias = true, proj_bias = false, tied_head = true, residual_in_fp32 = true;
};

std::int64_t size_of(const Block& block, std::string_view name) {
  const auto found = block.sizes.find(name);
  return found == block.sizes.end() ? 0 : found->second;
}

/// What the tensors say, refusing what only one of the dialects has.
Facts facts_of(const Checkpoint& checkpoint, const Layout& layout, Dialect to) {
  Facts facts;
  facts.is_mamba2 = layout.name == "mamba2";
  if (!facts.is_mamba2 && layout.name != "mamba1") {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {}: expected mamba1 or mamba2, the language models that both "
                            "mamba-ssm and transformers have",
                            layout.name));
  }
  const ModelSpec& spec = layout.spec;
  if (spec.norm == ModelSpec::Norm::layer) {
    no_word("rms_norm", to, "false (LayerNorm)");
  }
  const Block* mixer = nullptr;
  for (const Block& block : layout.blocks) {
    if (block.type != layout.name) {
      no_word(fmt::format("block '{}'", block.prefix), to,
              fmt::format("a block of type {} in a {} model", block.type, layout.name));
    }
    if (mixer == nullptr) mixer = &block;
    ++facts.n_layer;
  }
  const StoredTensor* embedding = checkpoint.find(spec.embedding());
  if (mixer == nullptr || embedding == nullptr) {
    throw Error(ErrorCode::unsupported,
                fmt::format("layout {}: has no {}, expected a language model", layout.name,
                            mixer == nullptr ? "mixers" : "embedding"));
  }
  facts.vocab = embedding->shape.at(0);
  facts.d_model = embedding->shape.at(1);
  facts.d_state = size_of(*mixer, "d_state");
  facts.d_conv = size_of(*mixer, "d_conv");
  facts.dt_rank = size_of(*mixer, "dt_rank");
  facts.tied_head = spec.tied_head;
  facts.conv_bias = mixer->tensors.contains("conv1d.bias");
  facts.proj_bias = mixer->tensors.contains("in_proj.bias");
  if (facts.proj_bias != mixer->tensors.contains("out_proj.bias")) {
    no_word(fmt::format("block '{}'", mixer->prefix), to,
            "a bias of only one of in_proj and out_proj");
  }
  if (!facts.is_mamba2) {
    facts.d_inner = size_of(*mixer, "d_inner");
    return facts;
  }
  facts.headdim = size_of(*mixer, "headdim");
  facts.ngroups = size_of(*mixer, "ngroups");
  facts.heads = facts.ngroups * size_of(*mixer, "heads_per_group");
  facts.d_inner = facts.heads * facts.headdim;
  if (const std::int64_t d_mlp = size_of(*mixer, "d_mlp"); d_mlp != 0) {
    no_word(fmt::format("block '{}'", mixer->prefix), to,
            fmt::format("d_ssm ({}) below d_inner ({})", facts.d_inner, facts.d_inner + d_mlp));
  }
  if (!mixer->tensors.contains("norm.weight")) {
    no_word(fmt::format("block '{}'", mixer->prefix), to, "rmsnorm false (no gated norm)");
  }
  const std::string& d = mixer->tensors.find("D")->second;
  if (checkpoint.find(d)->shape.at(0) != facts.heads) {
    no_word(fmt::format("tensor '{}'", d), to, "D_has_hdim (a D for each channel)");
  }
  return facts;
}

// --- the steps that only training's first moment uses

struct SharedKey {
  std::string_view ssm;
  std::string_view hf;
  bool is_mamba1_only;
};

/// Keys of the time step's initialisation, which both dialects have with the same defaults.
constexpr std::array kStepKeys = {SharedKey{"dt_min", "time_step_min", false},
                                  SharedKey{"dt_max", "time_step_max", false},
                                  SharedKey{"dt_init_floor", "time_step_floor", false},
                                  SharedKey{"dt_scale", "time_step_scale", true},
                                  SharedKey{"dt_init", "time_step_init_scheme", true}};

bool is_step_default(std::string_view ssm_key, const Json& value) {
  if (ssm_key == "dt_init") return value == "random";
  const double standard = ssm_key == "dt_min"          ? 0.001
                          : ssm_key == "dt_max"        ? 0.1
                          : ssm_key == "dt_init_floor" ? 1e-4
                                                       : 1.0;
  return value.is_number() && value.get<double>() == standard;
}

/// "time_step_limit" or "dt_limit": from, and to if that is finite.
std::pair<double, std::optional<double>> limits_of(const Keys& keys, std::string_view key) {
  const Json* list = keys.find(key);
  if (list == nullptr) return {0.0, std::nullopt};
  const auto finite = [&](std::size_t i) -> std::optional<double> {
    const Json& value = list->at(i);
    if (value.is_number()) return value.get<double>();
    if (value.is_object() && value.size() == 1 && value.begin().key() == "__float__" &&
        value.begin()->is_string() && value.begin()->get<std::string>() == "Infinity") {
      return std::nullopt;
    }
    throw Error(ErrorCode::input, keys.words(key) + ", expected two numbers");
  };
  if (!list->is_array() || list->size() != 2 || !finite(0)) {
    throw Error(ErrorCode::input, keys.words(key) + ", expected two numbers");
  }
  return {*finite(0), finite(1)};
}

/// Names of keys that are there and not among `known`.
std::vector<std::string> others(const Json& object, std::initializer_list<std::string_view> known) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) names.push_back(key);
  }
  return names;
}

void note_lost(std::vector<std::string>& notes, const std::vector<std::string>& keys, Dialect to) {
  if (keys.empty()) return;
  notes.push_back(fmt::format("config.json: {} has no word for {}: not carried", dialect_name(to),
                              fmt::join(keys, ", ")));
}

// --- to mamba-ssm

Json config_for_mamba_ssm(const Facts& facts, const Keys& hf, std::vector<std::string>& notes) {
  constexpr Dialect kTo = Dialect::mamba_ssm;
  if (const std::string act = hf.text("hidden_act", "silu"); act != "silu" && act != "swish") {
    no_word(hf.words("hidden_act"), kTo, "another activation than silu");
  }
  if (hf.number("layer_norm_epsilon", kNormEpsilon) != kNormEpsilon) {
    no_word(hf.words("layer_norm_epsilon"), kTo, "another epsilon than 1e-05");
  }
  if (hf.boolean("norm_before_gate", false) && facts.is_mamba2) {
    no_word(hf.words("norm_before_gate"), kTo, "what transformers does not compute either");
  }
  // What is the library's default is left out, so that old versions, which splat the keys into
  // their constructors, read the file too.
  Json ssm = Json::object();
  const auto unless = [&](std::string_view key, const Json& value, const Json& standard) {
    if (value != standard) ssm[std::string(key)] = value;
  };
  if (facts.is_mamba2) {
    ssm["layer"] = "Mamba2";
    ssm["d_state"] = facts.d_state;
    ssm["headdim"] = facts.headdim;
    ssm["ngroups"] = facts.ngroups;
  } else {
    unless("d_state", facts.d_state, 16);
    unless("dt_rank", facts.dt_rank, (facts.d_model + 15) / 16);
  }
  unless("d_conv", facts.d_conv, 4);
  unless("expand", facts.d_inner / facts.d_model, 2);
  unless("conv_bias", facts.conv_bias, true);
  unless("bias", facts.proj_bias, false);
  for (const SharedKey& key : kStepKeys) {
    const Json* value = hf.find(key.hf);
    if (value != nullptr && !(key.is_mamba1_only && facts.is_mamba2) &&
        !is_step_default(key.ssm, *value)) {
      ssm[std::string(key.ssm)] = *value;
    }
  }
  if (facts.is_mamba2) {
    unless("chunk_size", hf.integer("chunk_size", 256), 256);
    const auto [least, most] = limits_of(hf, "time_step_limit");
    if (most) {
      ssm["dt_limit"] = {least, *most};
    } else if (least != 0) {
      no_word(hf.words("time_step_limit"), kTo,
              "a lower limit without an upper one: JSON has no infinity");
    }
  }
  Json config = Json::object();
  config["d_model"] = facts.d_model;
  if (facts.is_mamba2) config["d_intermediate"] = 0;
  config["n_layer"] = facts.n_layer;
  config["vocab_size"] = facts.vocab;
  config["ssm_cfg"] = std::move(ssm);
  if (facts.is_mamba2) {
    config["attn_layer_idx"] = Json::array();
    config["attn_cfg"] = Json::object();
  }
  config["rms_norm"] = true;
  config["residual_in_fp32"] = facts.residual_in_fp32;
  config["fused_add_norm"] = true;
  config["pad_vocab_size_multiple"] = facts.vocab % kPadMultiple == 0 ? kPadMultiple : 1;
  if (facts.is_mamba2 || !facts.tied_head) config["tie_embeddings"] = facts.tied_head;
  note_lost(notes,
            others(hf.json(), {"architectures",
                               "model_type",
                               "hidden_size",
                               "num_hidden_layers",
                               "vocab_size",
                               "state_size",
                               "conv_kernel",
                               "expand",
                               "intermediate_size",
                               "time_step_rank",
                               "use_bias",
                               "use_conv_bias",
                               "hidden_act",
                               "layer_norm_epsilon",
                               "residual_in_fp32",
                               "tie_word_embeddings",
                               "num_heads",
                               "head_dim",
                               "n_groups",
                               "chunk_size",
                               "time_step_limit",
                               "rms_norm",
                               "norm_before_gate",
                               "time_step_min",
                               "time_step_max",
                               "time_step_floor",
                               "time_step_scale",
                               "time_step_init_scheme",
                               "dtype",
                               "torch_dtype",
                               "transformers_version",
                               "use_cache",
                               "use_mambapy",
                               "use_associative_scan",
                               "_name_or_path"}),
            kTo);
  return config;
}

// --- to transformers

/// The type in which transformers has to load the tensors for none of them to be rounded.
std::string widest_dtype(const Checkpoint& checkpoint, std::vector<std::string>& notes) {
  bool f64 = false, f32 = false, f16 = false, bf16 = false;
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    f64 = f64 || tensor.dtype == DType::f64;
    f32 = f32 || tensor.dtype == DType::f32;
    f16 = f16 || tensor.dtype == DType::f16;
    bf16 = bf16 || tensor.dtype == DType::bf16;
  }
  if (f64 + f32 + f16 + bf16 > 1) {
    notes.push_back(
        "tensors are of several types: config.json states the widest, since transformers loads "
        "all in one");
  }
  return f64 ? "float64" : f32 || (f16 && bf16) ? "float32" : bf16 ? "bfloat16" : "float16";
}

Json config_for_hf(const Facts& facts, const Keys& config, const Keys& ssm,
                   const Checkpoint& checkpoint, std::vector<std::string>& notes) {
  constexpr Dialect kTo = Dialect::hf;
  if (!config.boolean("rms_norm", true)) {
    no_word(config.words("rms_norm"), kTo, "LayerNorm");
  }
  if (config.integer("d_intermediate", 0) != 0) {
    no_word(config.words("d_intermediate"), kTo, "MLPs between the mixers");
  }
  if (const Json* attention = config.find("attn_layer_idx"); attention && !attention->empty()) {
    no_word(config.words("attn_layer_idx"), kTo, "attention layers");
  }
  if (facts.d_inner % facts.d_model != 0) {
    no_word(fmt::format("{}: expand is {} / {}", ssm.name(), facts.d_inner, facts.d_model), kTo,
            "an expand that is not whole");
  }
  if (ssm.boolean("norm_before_gate", false)) {
    no_word(ssm.words("norm_before_gate"), kTo, "a norm before the gate");
  }
  Json hf = Json::object();
  hf["architectures"] = {facts.is_mamba2 ? "Mamba2ForCausalLM" : "MambaForCausalLM"};
  hf["model_type"] = facts.is_mamba2 ? "mamba2" : "mamba";
  hf["hidden_size"] = facts.d_model;
  hf["num_hidden_layers"] = facts.n_layer;
  hf["vocab_size"] = facts.vocab;
  hf["state_size"] = facts.d_state;
  hf["conv_kernel"] = facts.d_conv;
  hf["expand"] = facts.d_inner / facts.d_model;
  if (facts.is_mamba2) {
    hf["num_heads"] = facts.heads;
    hf["head_dim"] = facts.headdim;
    hf["n_groups"] = facts.ngroups;
    hf["chunk_size"] = ssm.integer("chunk_size", 256);
    if (const auto [least, most] = limits_of(ssm, "dt_limit"); most) {
      hf["time_step_limit"] = {least, *most};
    }
  } else {
    hf["intermediate_size"] = facts.d_inner;
    hf["time_step_rank"] = facts.dt_rank;
  }
  for (const SharedKey& key : kStepKeys) {
    const Json* value = ssm.find(key.ssm);
    if (value != nullptr && !is_step_default(key.ssm, *value)) hf[std::string(key.hf)] = *value;
  }
  hf["use_bias"] = facts.proj_bias;
  hf["use_conv_bias"] = facts.conv_bias;
  hf["hidden_act"] = "silu";
  hf["layer_norm_epsilon"] = kNormEpsilon;
  hf["residual_in_fp32"] = facts.residual_in_fp32;
  hf["tie_word_embeddings"] = facts.tied_head;
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) hf[key] = 0;
  notes.push_back(
      "config.json: bos_token_id, eos_token_id and pad_token_id are 0, as transformers' own "
      "conversion states them: mamba-ssm's config.json does not");
  hf["dtype"] = widest_dtype(checkpoint, notes);
  if (const std::int64_t stated = config.integer("vocab_size", facts.vocab);
      stated != facts.vocab) {
    notes.push_back(fmt::format(
        "config.json: vocab_size {} is padded to {} rows, which transformers counts: not carried",
        stated, facts.vocab));
  }
  note_lost(notes,
            others(config.json(), {"d_model", "d_intermediate", "n_layer", "vocab_size", "ssm_cfg",
                                   "attn_layer_idx", "attn_cfg", "rms_norm", "residual_in_fp32",
                                   "fused_add_norm", "pad_vocab_size_multiple", "tie_embeddings"}),
            kTo);
  note_lost(notes,
            others(ssm.json(), {"layer",
                                "d_state",
                                "d_conv",
                                "expand",
                                "dt_rank",
                                "conv_bias",
                                "bias",
                                "headdim",
                                "ngroups",
                                "d_ssm",
                                "D_has_hdim",
                                "rmsnorm",
                                "norm_before_gate",
                                "chunk_size",
                                "dt_limit",
                                "dt_min",
                                "dt_max",
                                "dt_init_floor",
                                "dt_scale",
                                "dt_init",
                                "use_fast_path",
                                "use_mem_eff_path"}),
            kTo);
  return hf;
}

std::string new_name(const ModelSpec& spec, const std::string& name, Dialect to) {
  if (name == spec.embedding()) {
    return to == Dialect::hf ? "backbone.embeddings.weight" : "backbone.embedding.weight";
  }
  if (name == spec.head()) return kHead;
  return name.starts_with(spec.backbone) ? "backbone." + name.substr(spec.backbone.size()) : name;
}

FileDigest digest_of(const fs::path& file, std::string name) {
  return {.name = std::move(name),
          .bytes = static_cast<std::int64_t>(fs::file_size(file)),
          .sha256 = sha256_of_file(file)};
}

std::vector<std::byte> packed_bytes(const TensorView& view) {
  std::vector<std::byte> bytes;
  write_packed(view, [&](std::span<const std::byte> piece) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  });
  return bytes;
}

}  // namespace

std::string_view dialect_name(Dialect dialect) noexcept {
  return dialect == Dialect::hf ? "hf" : "mamba-ssm";
}

Conversion conversion_of(const Checkpoint& checkpoint, const Layout& layout, Dialect to) {
  const ModelSpec& spec = layout.spec;
  if (spec.dialect == dialect_name(to)) {
    throw Error(ErrorCode::usage, fmt::format("--to: is {}, and the model is in {}'s names already",
                                              dialect_name(to), dialect_name(to)));
  }
  Facts facts = facts_of(checkpoint, layout, to);
  const std::string file = checkpoint.config_path().filename().string();
  const Json document = parse_json(checkpoint.config_text(), file);
  const Keys config(document, file);
  facts.residual_in_fp32 = config.boolean("residual_in_fp32", true);

  Conversion conversion;
  conversion.to = to;
  conversion.tied_head = facts.tied_head;
  if (to == Dialect::hf) {
    static const Json kNone = Json::object();
    const Json* ssm = config.find("ssm_cfg");
    conversion.config =
        config_for_hf(facts, config, Keys(ssm == nullptr ? kNone : *ssm, file + ": ssm_cfg"),
                      checkpoint, conversion.notes)
            .dump(2);
  } else {
    conversion.config = config_for_mamba_ssm(facts, config, conversion.notes).dump(2);
  }
  conversion.config += "\n";
  conversion.embedding = new_name(spec, spec.embedding(), to);
  for (const StoredTensor& tensor : checkpoint.tensors()) {
    if (facts.tied_head && tensor.name == spec.head()) continue;
    const bool is_stranger = std::find(layout.strangers.begin(), layout.strangers.end(),
                                       tensor.name) != layout.strangers.end();
    if (is_stranger && to == Dialect::mamba_ssm) {
      no_word(fmt::format("tensor '{}'", tensor.name), to, "it, and its loader is strict",
              "leave the tensor out of the checkpoint");
    }
    conversion.names.emplace_back(is_stranger ? tensor.name : new_name(spec, tensor.name, to),
                                  tensor.name);
  }
  if (facts.is_mamba2 && facts.ngroups > 1) {
    conversion.notes.push_back(fmt::format(
        "ngroups is {}: transformers' CPU path normalises the gated output over all of d_inner, "
        "its fused path and mamba-ssm over each group (transformers#40861): the same file, two "
        "functions",
        facts.ngroups));
  }
  return conversion;
}

RewriteReport write_converted(const Checkpoint& checkpoint, const Conversion& conversion,
                              Container container, const fs::path& folder, Progress& progress) {
  RewriteReport report;
  report.tensors = static_cast<std::int64_t>(conversion.names.size());
  std::int64_t total = 0;
  std::vector<NewTensor> tensors;
  for (const auto& [name, stored] : conversion.names) {
    const StoredTensor& tensor = *checkpoint.find(stored);
    total += tensor.span_bytes;
    NewTensor made = carried(checkpoint, tensor, name);
    if (conversion.tied_head && name == conversion.embedding && container == Container::torch) {
      made.aliases.push_back(kHead);  // mamba-ssm's loader is strict and wants both
    }
    made.produce = [produce = std::move(made.produce), &tensor, &progress](const ByteSink& sink) {
      produce(sink);
      progress.advance(tensor.span_bytes, tensor.name);
    };
    tensors.push_back(std::move(made));
  }
  progress.start("converting", total, "B");
  const std::string file =
      container == Container::torch ? "pytorch_model.bin" : "model.safetensors";
  write_weight_file(folder / file, container, tensors);
  for (const auto& each : checkpoint.files()) {
    report.inputs.push_back(digest_of(each->path, each->name));
  }
  report.outputs.push_back(digest_of(folder / file, file));
  return report;
}

std::string conversion_fault(const Checkpoint& original, const Checkpoint& converted,
                             const Conversion& conversion) {
  for (const auto& [name, stored] : conversion.names) {
    const StoredTensor& before = *original.find(stored);
    const StoredTensor* after = converted.find(name);
    if (after == nullptr) return fmt::format("tensor '{}': is missing", name);
    if (after->dtype != before.dtype || after->shape != before.shape) {
      return fmt::format("tensor '{}': is {} {}, expected {} {}", name, after->dtype_text,
                         shape_text(after->shape), before.dtype_text, shape_text(before.shape));
    }
    if (packed_bytes(original.view(before)) != packed_bytes(converted.view(*after))) {
      return fmt::format("tensor '{}': differs", name);
    }
  }
  const std::size_t expected =
      conversion.names.size() +
      (conversion.tied_head && converted.container() == Container::torch ? 1 : 0);
  if (converted.tensors().size() != expected) {
    return fmt::format("there are {} tensors, expected {}", converted.tensors().size(), expected);
  }
  return "";
}

}  // namespace icd
